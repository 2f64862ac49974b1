// Reductions and passes of sharpness-aware steps: every instruction set and number of threads gives the same
// bits.
#include <gtest/gtest.h>

#include <cstring>
#include <optional>

#include "glyptic/kernels/ascend.h"
#include "glyptic/kernels/noise_ascend.h"
#include "variants.h"

namespace glyptic::kernels {
namespace {

using testing_support::Engine;

struct Data {
  static constexpr std::size_t n = 3 * kSumChunk + 777;
  const int64_t size = static_cast<int64_t>(n);
  const int64_t first[2] = {0, (size + kSumChunk - 1) / kSumChunk};
  ChunkMap map{first, 1, kSumChunk};
  Engine engine{31};
  std::vector<float> a = testing_support::random_floats(engine, n, 0),
                     b = testing_support::random_floats(engine, n, 3),
                     w = testing_support::random_floats(engine, n, 1);
  std::vector<uint8_t> mask = testing_support::random_mask(engine, n, 0.4);
};

/// Holds what is computed against the first that was.
template <class T>
struct Same {
  std::optional<std::vector<T>> first;
  void expect(const std::vector<T>& got, const char* isa, int threads) {
    if (!first) first = got;
    ASSERT_EQ(std::memcmp(got.data(), first->data(), got.size() * sizeof(T)), 0)
        << isa << ", " << threads << " threads";
  }
};

TEST(Perturb, VariantsAndThreadsAgree) {
  Data d;
  const auto chunks = static_cast<std::size_t>(d.first[1]);
  for (int options = 0; options < 8; ++options) {
    const auto* mask = options & 1 ? d.mask.data() : nullptr;
    Same<ProductSums> products, squares, noise_sums;
    Same<float> moved, backups, h, m, mixed, noisy;
    const auto each = [&](auto&& body) {
      for (int threads = 1; threads <= 3; ++threads) body(threads);
    };
    const auto reduce = [&](auto kernel, const char* isa) {
      each([&](int threads) {
        std::vector<ProductSums> sums(chunks);
        const ProductsEntry entry{d.a.data(), options & 2 ? d.b.data() : nullptr,
                                  options & 4 ? d.w.data() : nullptr, mask, d.size};
        kernel(&entry, d.map, 0.01, sums.data(), threads);
        products.expect(sums, isa, threads);
      });
    };
    GLYPTIC_EACH_VARIANT(inner_products, reduce);
    const auto climb = [&](auto kernel, const char* isa) {
      each([&](int threads) {
        auto w = d.w, backup = d.a;
        const AscendEntry entry{w.data(), backup.data(), d.b.data(), mask, d.size, 0.3, (options & 2) != 0};
        kernel(&entry, d.map, AscendScalars{0.01, 1e-12, (options & 4) != 0}, 2.5, threads);
        moved.expect(w, isa, threads);
        backups.expect(backup, isa, threads);
        ASSERT_EQ(std::memcmp(backup.data(), d.w.data(), d.n * sizeof(float)), 0);
      });
    };
    GLYPTIC_EACH_VARIANT(ascend, climb);
    const auto average = [&](auto kernel, const char* isa) {
      each([&](int threads) {
        auto g = d.a, mean = d.b;
        std::vector<ProductSums> sums(chunks);
        const EmaEntry entry{g.data(), mean.data(), mask, d.size};
        kernel(&entry, d.map, EmaScalars{0.7f, 0.9f, 0.1f, (options & 2) != 0}, sums.data(), threads);
        h.expect(g, isa, threads);
        m.expect(mean, isa, threads);
        squares.expect(sums, isa, threads);
      });
    };
    GLYPTIC_EACH_VARIANT(ema_direction, average);
    const auto mix = [&](auto kernel, const char* isa) {
      each([&](int threads) {
        auto a = d.a;
        const CombineEntry entry{a.data(), d.b.data(), d.size};
        kernel(&entry, d.map, 1.3f, -0.2f, threads);
        mixed.expect(a, isa, threads);
      });
    };
    GLYPTIC_EACH_VARIANT(combine, mix);
    const auto shake = [&](auto kernel, const char* isa) {
      each([&](int threads) {
        auto w = d.a;
        std::vector<ProductSums> sums(chunks);
        const uint64_t streams[] = {7, 8};
        const double c[] = {0.5, -0.25};
        const NoiseEntry entry{options & 4 ? nullptr : w.data(), d.w.data(), mask, d.size, 12};
        const NoiseScalars scalars{3, options & 2 ? FillKind::normal : FillKind::rademacher, 2, streams, c};
        kernel(&entry, d.map, scalars, sums.data(), threads);
        noisy.expect(w, isa, threads);
        noise_sums.expect(sums, isa, threads);
      });
    };
    GLYPTIC_EACH_VARIANT(noise_ascend, shake);
  }
}

TEST(Perturb, TotalsAddLanesInATree) {
  std::vector<ProductSums> sums(600, ProductSums{1.0, 2.0, 3.0});
  const auto total = total_products(sums.data(), 600);
  EXPECT_EQ(total.aa, 600);
  EXPECT_EQ(total.ab, 1200);
  EXPECT_EQ(total.bb, 1800);
  EXPECT_EQ(total_products(nullptr, 0).aa, 0);
}

}  // namespace
}  // namespace glyptic::kernels
