// Directions by each normalisation, slices against losses computed by hand, files.
#include "glyptic/sharpness/landscape.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "../support.h"
#include "glyptic/core/error.h"
#include "glyptic/core/safetensors.h"

namespace glyptic::sharpness {
namespace {

class Slices : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    torch::manual_seed(2);
    weight_ = at::randn({4, 3, 2, 2}, at::kDouble);
    weight_[2].zero_();  // a dead filter
    weight_.requires_grad_();
    bias_ = at::randn({4}, at::kDouble).requires_grad_();
    mean_ = at::randn({4}, at::kDouble);
    count_ = at::full({}, 7, at::kLong);
    x_ = at::randn({5, 3, 4, 4}, at::kDouble);
    data_.batches = 2;
    data_.loss = [this](int64_t b) { return loss_at(weight_, bias_, mean_, b); };
    data_.samples = [](int64_t b) { return b == 0 ? 3 : 2; };
    origin_ = weight_.detach().clone();
  }
  at::Tensor loss_at(const at::Tensor& w, const at::Tensor& b, const at::Tensor& mean, int64_t batch) const {
    const auto x = batch == 0 ? x_.narrow(0, 0, 3) : x_.narrow(0, 3, 2);
    return (at::conv2d(x, w, b) - mean.view({1, 4, 1, 1})).tanh().square().mean();
  }
  double mean_loss(const at::Tensor& w, const at::Tensor& b, const at::Tensor& mean) const {
    return 0.6 * loss_at(w, b, mean, 0).item<double>() + 0.4 * loss_at(w, b, mean, 1).item<double>();
  }
  LossSurface surface(const TensorList& masks = {}) const {
    return LossSurface({{"weight", weight_}, {"bias", bias_}}, data_, masks,
                       {{"running_mean", mean_}, {"num_batches_tracked", count_}});
  }

  at::Tensor weight_, bias_, mean_, count_, x_, origin_;
  LossOverData data_;
};

TEST_F(Slices, EveryNormalisation) {
  const auto s = surface();
  const auto of = [&](DirectionNorm norm) {
    return random_direction(s, {.seed = 3, .norm = norm}).parameters[0];
  };
  const auto raw = of(DirectionNorm::none), w = weight_.detach();
  const auto norm = [](const at::Tensor& t) { return t.norm().item<double>(); };
  const auto filter = of(DirectionNorm::filter), dfilter = of(DirectionNorm::dfilter);
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(norm(filter[i]), norm(w[i]), 1e-9);
    EXPECT_NEAR(norm(dfilter[i]), 1, 1e-9);
    if (i != 2) {
      EXPECT_TRUE(at::allclose(filter[i] / norm(w[i]), raw[i] / norm(raw[i]), 1e-9, 1e-12));
    }
  }
  EXPECT_EQ(norm(filter[2]), 0) << "a filter of norm zero does not move";
  EXPECT_NEAR(norm(of(DirectionNorm::layer)), norm(w), 1e-9);
  EXPECT_NEAR(norm(of(DirectionNorm::dlayer)), 1, 1e-9);
  EXPECT_TRUE(at::equal(of(DirectionNorm::weight), raw * w));
  EXPECT_NEAR(raw.mean().item<double>(), 0, 0.6);
  EXPECT_NEAR(raw.std().item<double>(), 1, 0.4);

  const auto both = random_direction(s, {.seed = 3});
  EXPECT_EQ(norm(both.parameters[1]), 0);
  EXPECT_TRUE(both.buffers.empty());
  const auto whole = random_direction(s, {.seed = 3, .ignore_biasbn = false, .states = true});
  EXPECT_TRUE(at::equal(whole.parameters[1], bias_.detach()));
  EXPECT_TRUE(at::equal(whole.buffers[0], mean_));
  EXPECT_FALSE(whole.buffers[1].defined()) << "counters do not move";
  EXPECT_TRUE(at::equal(random_direction(s, {.seed = 3}).parameters[0], filter));
  EXPECT_FALSE(at::equal(random_direction(s, {.seed = 4}).parameters[0], filter));
  EXPECT_FALSE(at::equal(random_direction(s, {.seed = 3}, 1).parameters[0], filter));
  for (const auto* name : {"filter", "layer", "weight", "dfilter", "dlayer", "none"})
    EXPECT_STREQ(name_of(direction_norm_from_name(name)), name);
  expect_contains(message_of<ArgumentError>([] { direction_norm_from_name("filtr"); }),
                  "did you mean 'filter'");
}

TEST_F(Slices, MasksKeepPrunedWeightsFixed) {
  const auto mask = (at::arange(48).view({4, 3, 2, 2}) % 2).eq(0);
  const auto s = surface({mask, {}});
  for (const auto norm :
       {DirectionNorm::filter, DirectionNorm::layer, DirectionNorm::weight, DirectionNorm::dfilter}) {
    const auto d = random_direction(s, {.norm = norm}).parameters[0];
    EXPECT_EQ(d.masked_select(mask.logical_not()).abs().sum().item<double>(), 0);
    EXPECT_GT(d.norm().item<double>(), 0);
  }
  const auto filter = random_direction(s, {}).parameters[0];
  EXPECT_NEAR(filter[0].norm().item<double>(), weight_[0].norm().item<double>(), 1e-9);
}

TEST_F(Slices, LinesAndGridsAreTheLossesThere) {
  const auto s = surface();
  const auto d1 = random_direction(s, {}), d2 = random_direction(s, {}, 1);
  const auto line = landscape(s, d1, {-1, 1, 5});
  EXPECT_EQ(line.a, (std::vector<double>{-1, -0.5, 0, 0.5, 1}));
  for (std::size_t i = 0; i < 5; ++i)
    EXPECT_NEAR(line.loss[i], mean_loss(origin_ + d1.parameters[0] * line.a[i], bias_, mean_), 1e-15);
  EXPECT_EQ(line.loss[2], line.center);
  EXPECT_EQ(line.center, s.loss());
  const auto grid = landscape(s, d1, d2, {-1, 1, 3}, {0, 2, 4});
  ASSERT_EQ(grid.loss.size(), 12u);
  for (std::size_t i = 0; i < 3; ++i)
    for (std::size_t j = 0; j < 4; ++j)
      EXPECT_NEAR(
          grid.loss[i * 4 + j],
          mean_loss(origin_ + d1.parameters[0] * grid.a[i] + d2.parameters[0] * grid.b[j], bias_, mean_),
          1e-15);
  const auto p = d1.parameters[0], q = d2.parameters[0];
  EXPECT_NEAR(grid.cosine, ((p * q).sum() / (p.norm() * q.norm())).item<double>(), 1e-12);
  EXPECT_NE(grid.cosine, 0);
  EXPECT_NEAR(cosine(s, d1, d1), 1, 1e-12);
  EXPECT_TRUE(at::equal(weight_.detach(), origin_));
}

TEST_F(Slices, InterpolationAndGivenDirections) {
  const auto s = surface();
  const NamedTensors other{{"bias", at::randn({4}, at::kDouble)},
                           {"weight", at::randn({4, 3, 2, 2}, at::kDouble)},
                           {"running_mean", at::randn({4}, at::kDouble)},
                           {"num_batches_tracked", at::full({}, 9, at::kLong)}};
  const auto mean = mean_.clone();
  auto line = landscape(s, direction_to(s, other), {0, 1, 3});
  EXPECT_EQ(line.loss[0], s.loss());
  EXPECT_NEAR(line.loss[2], mean_loss(other[1].tensor, other[0].tensor, mean), 1e-14);
  line = landscape(s, direction_to(s, other, true), {0, 1, 3});
  EXPECT_NEAR(line.loss[2], mean_loss(other[1].tensor, other[0].tensor, other[2].tensor), 1e-14);
  EXPECT_TRUE(at::equal(mean_, mean));
  EXPECT_EQ(count_.item<int64_t>(), 7);
  expect_contains(message_of<ArgumentError>([&] { direction_to(s, {{"weight", other[1].tensor}}); }), "bias");
  expect_contains(message_of<ArgumentError>([&] {
                    direction_to(s, {{"weight", other[1].tensor}, {"bias", at::ones({5})}});
                  }),
                  "'bias' has shape [4] here and [5] there");
  const auto given = given_direction(s, {{"bias", at::ones({4})}});
  line = landscape(s, given, {0, 0.5, 2});
  EXPECT_NEAR(line.loss[1], mean_loss(origin_, bias_ + 0.5, mean_), 1e-15);
  expect_contains(message_of<ArgumentError>([&] { given_direction(s, {{"bia", at::ones({4})}}); }), "bia");
  expect_contains(message_of<ArgumentError>([&] { given_direction(s, {{"bias", at::ones({3})}}); }), "[3]");
}

TEST_F(Slices, NonFiniteLossesAreRecordedAndEverythingIsPutBack) {
  const auto w = at::tensor({1., 2.}, at::kFloat).requires_grad_(), stat = at::tensor({0.1f, 0.3f});
  const auto w0 = w.detach().clone(), stat0 = stat.clone();
  LossOverData data;
  data.batches = 1;
  data.samples = [](int64_t) { return 1; };
  int64_t calls = 0;
  data.loss = [&](int64_t) {
    require(++calls != 20, "the closure failed");
    stat.add_(1);  // as a forward pass in training mode moves statistics
    return w[0].log() + w[1];
  };
  const LossSurface s({{"w", w}}, data, {}, {{"stat", stat}});
  Direction d{{at::tensor({1.f, 0.1f})}, {at::ones({2})}};
  const auto line = landscape(s, d, {-2, 2, 5});
  EXPECT_EQ(line.not_finite, 2);  // log of -1 (NaN) and of 0 (-inf)
  EXPECT_TRUE(std::isinf(line.loss[0]) && line.loss[0] > 0);
  EXPECT_TRUE(std::isinf(line.loss[1]) && line.loss[1] > 0);
  EXPECT_TRUE(at::equal(w.detach(), w0));
  EXPECT_TRUE(at::equal(stat, stat0));
  expect_contains(message_of<ArgumentError>([&] { landscape(s, d, {-0.1, 0.1, 51}); }), "closure failed");
  EXPECT_TRUE(at::equal(w.detach(), w0));
  EXPECT_TRUE(at::equal(stat, stat0));
  expect_contains(message_of<ArgumentError>([&] { landscape(s, d, {0, 1, 1}); }), "1 points");
  expect_contains(message_of<ArgumentError>([&] { landscape(s, d, {1, 0, 5}); }), "from 1 to 0");
  expect_contains(message_of<ArgumentError>([&] {
                    landscape(s, Direction{}, {0, 1, 5});
                  }),
                  "another surface");
}

TEST_F(Slices, Files) {
  const auto s = surface();
  const DirectionOptions options{.seed = 5};
  auto grid =
      landscape(s, random_direction(s, options), random_direction(s, options, 1), {-1, 1, 3}, {-1, 1, 2});
  grid.settings = settings_of(options);
  grid.loss[1] = std::numeric_limits<double>::infinity();
  grid.not_finite = 1;
  save_landscape(path("a.safetensors"), grid);
  const auto back = load_landscape(path("a.safetensors"));
  EXPECT_EQ(back.a, grid.a);
  EXPECT_EQ(back.b, grid.b);
  EXPECT_EQ(back.loss, grid.loss);
  EXPECT_EQ(back.center, grid.center);
  EXPECT_EQ(back.cosine, grid.cosine);
  EXPECT_EQ(back.not_finite, 1);
  EXPECT_EQ(back.settings, grid.settings);
  EXPECT_EQ(grid.settings.at("norm"), "filter");
  EXPECT_EQ(grid.settings.at("seed"), "5");
  save_landscape(path("a.csv"), grid);
  const auto text = read_file(path("a.csv"));
  expect_contains(text, "# norm = filter\n");
  expect_contains(text, "# seed = 5\n");
  expect_contains(text, "a,b,loss\n-1,-1,");
  expect_contains(text, "-1,1,inf\n");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 8 + 1 + 6);
  expect_contains(message_of<ArgumentError>([&] { save_landscape(path("a.png"), grid); }),
                  ".csv nor .safetensors");
  grid.loss.pop_back();
  expect_contains(message_of<ArgumentError>([&] { save_landscape(path("b.csv"), grid); }),
                  "5 losses for 6 points");
  save_safetensors(path("c.safetensors"), {{"x", at::ones({2})}});
  expect_contains(message_of<DataError>([&] { load_landscape(path("c.safetensors")); }),
                  "no tensors 'a' and 'loss'");
}

}  // namespace
}  // namespace glyptic::sharpness
