#include "glyptic/nn/axes.h"

#include <gtest/gtest.h>

#include "glyptic/core/error.h"
#include "glyptic/core/rng.h"

namespace glyptic::nn {
namespace {

using Shape = std::vector<int64_t>;
using Pairs = std::vector<std::pair<int, int64_t>>;

int input(AxisGraph& g, Shape shape) {
  return g.add({"x", Rule::input, {}, std::move(shape), {}, ""});
}
int parameter(AxisGraph& g, const std::string& name, Shape shape) {
  return g.add({name, Rule::parameter, {}, std::move(shape), {}, name});
}
int conv(AxisGraph& g, const std::string& name, int x, Shape weight, Shape out, int64_t groups = 1,
         bool transposed = false) {
  const int w = parameter(g, name + ".weight", std::move(weight));
  return g.add({name, Rule::conv, {x, w}, std::move(out), {groups, transposed}, ""});
}
int linear(AxisGraph& g, const std::string& name, int x, int64_t rows, int64_t columns, Shape out) {
  const int w = parameter(g, name + ".weight", {rows, columns});
  const std::string letters = std::string("abcdefg").substr(0, out.size() - 1);
  return g.add({name, Rule::contract, {x, w}, std::move(out), {}, letters + "i,oi->" + letters + "o"});
}
void output(AxisGraph& g, int x) {
  g.add({"output", Rule::output, {x}, {}, {}, ""});
}
const AxisGroup& group(AxisGraph& g, const std::string& name) {
  for (const auto& candidate : g.groups())
    if (candidate.name == name) return candidate;
  throw ArgumentError("no group " + name);
}
std::string members(const AxisGroup& group) {
  std::string text;
  for (const auto& m : group.members) text += str(m.tensor, '[', m.dim, "]x", m.entries, ' ');
  return text;
}
// Alive flags with the given units of one group gone.
Alive without(AxisGraph& g, const std::string& name, const Shape& units) {
  auto alive = g.all();
  for (std::size_t k = 0; k < g.groups().size(); ++k)
    if (g.groups()[k].name == name)
      for (const auto unit : units) alive[k][static_cast<std::size_t>(unit)] = 0;
  return alive;
}

TEST(Axes, ConvolutionToFlattenedLinear) {
  AxisGraph g;
  int x = conv(g, "conv", input(g, {2, 3, 6, 6}), {4, 3, 3, 3}, {2, 4, 4, 4});
  x = g.add({"relu", Rule::elementwise, {x}, {2, 4, 4, 4}, {}, ""});
  x = g.add({"flatten", Rule::reshape, {x}, {2, 64}, {}, ""});
  output(g, linear(g, "fc", x, 5, 64, {2, 5}));
  ASSERT_EQ(g.groups().size(), 1u);
  EXPECT_EQ(members(g.groups()[0]), "conv.weight[0]x1 fc.weight[1]x16 ");
  const auto alive = without(g, "conv.weight", {1, 3});
  EXPECT_EQ(g.kept("conv.weight", 0, alive), (Shape{0, 2}));
  const auto columns = g.kept("fc.weight", 1, alive);
  ASSERT_EQ(columns.size(), 32u);
  EXPECT_EQ(columns[15], 15);
  EXPECT_EQ(columns[16], 32);  // channel 2 starts at 2 * 16
  EXPECT_EQ(g.fixed_because("fc.weight", 0), "it is an output of the network");
  EXPECT_NE(g.fixed_because("conv.weight", 1), "");  // the network's input
  EXPECT_NE(g.fixed_because("conv.weight", 2), "");  // the kernel
}

TEST(Axes, ResidualSumsShareTheirChannels) {
  AxisGraph g;
  int x = conv(g, "stem", input(g, {1, 3, 4, 4}), {8, 3, 1, 1}, {1, 8, 4, 4});
  const int inside = conv(g, "a", x, {6, 8, 1, 1}, {1, 6, 4, 4});
  const int back = conv(g, "b", inside, {8, 6, 1, 1}, {1, 8, 4, 4});
  x = g.add({"add", Rule::elementwise, {x, back}, {1, 8, 4, 4}, {}, ""});
  output(g, conv(g, "head", x, {2, 8, 1, 1}, {1, 2, 4, 4}));
  EXPECT_EQ(members(group(g, "stem.weight")),
            "stem.weight[0]x1 a.weight[1]x1 b.weight[0]x1 head.weight[1]x1 ");
  EXPECT_EQ(members(group(g, "a.weight")), "a.weight[0]x1 b.weight[1]x1 ");
}

// x + f(x) onto the network's input: nothing of the sum can go, the inside can.
TEST(Axes, SumsOntoTheInputStay) {
  AxisGraph g;
  const int x = input(g, {1, 8});
  const int up = linear(g, "up", x, 16, 8, {1, 16});
  const int down = linear(g, "down", up, 8, 16, {1, 8});
  const int sum = g.add({"sum", Rule::elementwise, {x, down}, {1, 8}, {}, ""});
  output(g, linear(g, "head", sum, 3, 8, {1, 3}));
  ASSERT_EQ(g.groups().size(), 1u);
  EXPECT_EQ(g.groups()[0].name, "up.weight");
}

TEST(Axes, ConcatenationAndSliceKeepTheirPlaces) {
  AxisGraph g;
  const int x = input(g, {1, 3, 2, 2});
  const int a = conv(g, "a", x, {4, 3, 1, 1}, {1, 4, 2, 2});
  const int b = conv(g, "b", x, {6, 3, 1, 1}, {1, 6, 2, 2});
  const int c = g.add({"cat", Rule::concat, {a, b}, {1, 10, 2, 2}, {1}, ""});
  const int part = g.add({"slice", Rule::slice, {c}, {1, 5, 2, 2}, {1, 3, 1}, ""});  // a3, b0..b3
  output(g, conv(g, "head", part, {2, 5, 1, 1}, {1, 2, 2, 2}));
  // b0 to b3 are read, b4 and b5 are not: two groups.
  EXPECT_EQ(members(group(g, "b.weight")), "b.weight[0]x1 head.weight[1]x1 ");
  EXPECT_EQ(group(g, "b.weight").size, 4);
  const auto alive = without(g, "b.weight", {1});
  EXPECT_EQ(g.kept("head.weight", 1, alive), (Shape{0, 1, 3, 4}));
}

// Two halves that are multiplied live and die together; GLU.
TEST(Axes, ChunksThatMeetAreOne) {
  AxisGraph g;
  const int up = linear(g, "up", input(g, {1, 3}), 8, 3, {1, 8});
  const int a = g.add({"chunk", Rule::slice, {up}, {1, 4}, {1, 0, 1}, ""});
  const int b = g.add({"chunk", Rule::slice, {up}, {1, 4}, {1, 4, 1}, ""});
  const int gate = g.add({"mul", Rule::elementwise, {a, b}, {1, 4}, {}, ""});
  output(g, linear(g, "down", gate, 2, 4, {1, 2}));
  EXPECT_EQ(members(group(g, "up.weight")), "up.weight[0]x2 down.weight[1]x1 ");
  EXPECT_EQ(g.kept("up.weight", 0, without(g, "up.weight", {2})), (Shape{0, 1, 3, 4, 5, 7}));
}

TEST(Axes, GroupedConvolutionsLoseTheSameOfEachGroup) {
  AxisGraph g;
  const int a = conv(g, "a", input(g, {1, 3, 2, 2}), {8, 3, 1, 1}, {1, 8, 2, 2});
  const int b = conv(g, "b", a, {12, 4, 1, 1}, {1, 12, 2, 2}, 2);
  output(g, conv(g, "head", b, {2, 12, 1, 1}, {1, 2, 2, 2}));
  // Factors: two groups, four inputs each, six outputs each.
  std::map<std::string, int64_t> sizes;
  for (const auto& found : g.groups()) sizes[members(found)] = found.size;
  EXPECT_EQ(sizes["a.weight[0]x2 b.weight[1]x1 "], 4);
  EXPECT_EQ(sizes["b.weight[0]x2 head.weight[1]x2 "], 6);
  EXPECT_EQ(sizes["a.weight[0]x4 b.weight[0]x6 head.weight[1]x6 "], 2);
}

TEST(Axes, DepthwiseIsItsOwnGroups) {
  AxisGraph g;
  const int a = conv(g, "a", input(g, {1, 3, 2, 2}), {8, 3, 1, 1}, {1, 8, 2, 2});
  const int b = conv(g, "b", a, {8, 1, 1, 1}, {1, 8, 2, 2}, 8);
  output(g, conv(g, "head", b, {2, 8, 1, 1}, {1, 2, 2, 2}));
  ASSERT_EQ(g.groups().size(), 1u);
  EXPECT_EQ(members(g.groups()[0]), "a.weight[0]x1 b.weight[0]x1 head.weight[1]x1 ");
}

TEST(Axes, TransposedConvolutionsReadRows) {
  AxisGraph g;
  const int a = conv(g, "a", input(g, {1, 3, 2, 2}), {4, 3, 1, 1}, {1, 4, 2, 2});
  const int b = conv(g, "b", a, {4, 6, 2, 2}, {1, 6, 4, 4}, 1, true);
  output(g, conv(g, "head", b, {2, 6, 1, 1}, {1, 2, 4, 4}));
  EXPECT_EQ(members(group(g, "a.weight")), "a.weight[0]x1 b.weight[0]x1 ");
}

// [g, c/g] -> [c/g, g]: channel shuffle. Offsets of the groups stay offsets, at other places.
TEST(Axes, ChannelShuffleMovesUnits) {
  AxisGraph g;
  int x = conv(g, "a", input(g, {1, 3, 2, 2}), {6, 3, 1, 1}, {1, 6, 2, 2});
  x = g.add({"view", Rule::reshape, {x}, {1, 2, 3, 2, 2}, {}, ""});
  x = g.add({"transpose", Rule::permute, {x}, {1, 3, 2, 2, 2}, {0, 2, 1, 3, 4}, ""});
  x = g.add({"view", Rule::reshape, {x}, {1, 6, 2, 2}, {}, ""});
  output(g, conv(g, "head", x, {2, 6, 1, 1}, {1, 2, 2, 2}));
  const auto& offsets = g.groups()[0].size == 3 ? g.groups()[0] : g.groups()[1];
  EXPECT_EQ(offsets.size, 3);
  const auto alive = without(g, offsets.name, {1});
  EXPECT_EQ(g.kept("a.weight", 0, alive), (Shape{0, 2, 3, 5}));
  EXPECT_EQ(g.kept("head.weight", 1, alive), (Shape{0, 1, 4, 5}));
}

// Grouped-query attention by hand: 4 query heads over 2 key heads of 3.
TEST(Axes, GroupedQueryAttentionStaysRectangular) {
  AxisGraph g;
  const int64_t b = 2, n = 5, heads = 4, kv = 2, d = 3;
  const int x = input(g, {b, n, 7});
  const auto project = [&](const std::string& name, int64_t h) {
    int y = linear(g, name, x, h * d, 7, {b, n, h * d});
    y = g.add({"view", Rule::reshape, {y}, {b, n, h, d}, {}, ""});
    return g.add({"transpose", Rule::permute, {y}, {b, h, n, d}, {0, 2, 1, 3}, ""});
  };
  const auto repeat = [&](int y) {
    y = g.add({"view", Rule::reshape, {y}, {b, kv, 1, n, d}, {}, ""});
    y = g.add({"expand", Rule::expand, {y}, {b, kv, heads / kv, n, d}, {}, ""});
    return g.add({"view", Rule::reshape, {y}, {b, heads, n, d}, {}, ""});
  };
  const int q = project("q", heads), k = repeat(project("k", kv)), v = repeat(project("v", kv));
  int a = g.add({"scores", Rule::contract, {q, k}, {b, heads, n, n}, {}, "bhnd,bhmd->bhnm"});
  a = g.add({"softmax", Rule::along, {a}, {b, heads, n, n}, {3}, "works along it"});
  int y = g.add({"mix", Rule::contract, {a, v}, {b, heads, n, d}, {}, "bhnm,bhmd->bhnd"});
  y = g.add({"transpose", Rule::permute, {y}, {b, n, heads, d}, {0, 2, 1, 3}, ""});
  y = g.add({"view", Rule::reshape, {y}, {b, n, heads * d}, {}, ""});
  output(g, linear(g, "o", y, 7, heads * d, {b, n, 7}));

  std::map<std::string, const AxisGroup*> found;
  for (const auto& entry : g.groups()) found[members(entry)] = &entry;
  // Key-value heads with the query heads that read them, query heads within one, and two head dimensions.
  ASSERT_EQ(found.size(), 4u);
  const auto* heads_group = found["q.weight[0]x6 k.weight[0]x3 v.weight[0]x3 o.weight[1]x6 "];
  ASSERT_NE(heads_group, nullptr);
  EXPECT_EQ(heads_group->size, kv);
  const auto* size_group = found["q.weight[0]x4 k.weight[0]x2 "];
  ASSERT_NE(size_group, nullptr);
  EXPECT_EQ(size_group->size, d);
  const auto alive = without(g, size_group->name, {1});
  EXPECT_EQ(g.kept("q.weight", 0, alive), (Shape{0, 2, 3, 5, 6, 8, 9, 11}));
  EXPECT_EQ(g.kept("k.weight", 0, alive), (Shape{0, 2, 3, 5}));
  EXPECT_EQ(g.kept("v.weight", 0, alive).size(), 6u);
}

TEST(Axes, TiedWeightsAreOneTensor) {
  AxisGraph g;
  const int ids = input(g, {2, 4});
  const int w = parameter(g, "embed.weight", {10, 6});
  int x = g.add({"embed", Rule::embedding, {ids, w}, {2, 4, 6}, {}, ""});
  x = linear(g, "mid", x, 6, 6, {2, 4, 6});
  const int again = parameter(g, "embed.weight", {10, 6});
  output(g, g.add({"head", Rule::contract, {x, again}, {2, 4, 10}, {}, "abi,oi->abo"}));
  // Reading its columns ties what goes in to what comes out.
  ASSERT_EQ(g.groups().size(), 1u);
  EXPECT_EQ(members(g.groups()[0]), "embed.weight[1]x1 mid.weight[0]x1 mid.weight[1]x1 ");
}

TEST(Axes, NormalisationIsMarked) {
  AxisGraph g;
  int x = linear(g, "a", input(g, {2, 3}), 8, 3, {2, 8});
  const int scale = parameter(g, "norm.weight", {8});
  x = g.add({"norm", Rule::layer_norm, {x, scale}, {2, 8}, {1}, ""});
  output(g, linear(g, "b", x, 2, 8, {2, 2}));
  EXPECT_EQ(group(g, "a.weight").inexact_because, "'norm' normalises over it");
  EXPECT_EQ(members(group(g, "a.weight")), "a.weight[0]x1 norm.weight[0]x1 b.weight[1]x1 ");
}

TEST(Axes, UnknownOperationsHoldWhatTheyTouch) {
  AxisGraph g;
  int x = linear(g, "a", input(g, {2, 3}), 8, 3, {2, 8});
  x = g.add({"fft", Rule::opaque, {x}, {2, 8}, {}, "has no rule"});
  output(g, linear(g, "b", x, 2, 8, {2, 2}));
  EXPECT_TRUE(g.groups().empty());
  EXPECT_EQ(g.fixed_because("a.weight", 0), "'fft' has no rule");
}

// Shapes that do not divide each other: [4, 6] seen as [3, 8] keeps a factor that both share, or nothing.
TEST(Axes, AnyReshapeStaysConsistent) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const RngStream rng(seed, "reshape");
    const Shape sizes{2, 3, 4, 6};
    const int64_t c = sizes[rng.below(0, 4)] * sizes[rng.below(1, 4)] * sizes[rng.below(2, 4)];
    // Two random factorisations of c, one after the other, then flat again.
    const auto split = [&](uint64_t at) {
      Shape parts;
      int64_t left = c;
      for (uint64_t k = 0; left > 1; ++k) {
        Shape divisors;
        for (int64_t q = 2; q <= left; ++q)
          if (left % q == 0) divisors.push_back(q);
        parts.push_back(divisors[rng.below(at + k, divisors.size())]);
        left /= parts.back();
      }
      return parts;
    };
    AxisGraph g;
    int x = linear(g, "a", input(g, {1, 3}), c, 3, {1, c});
    for (const uint64_t at : {10u, 40u}) {
      auto shape = split(at);
      shape.insert(shape.begin(), 1);
      x = g.add({"view", Rule::reshape, {x}, shape, {}, ""});
    }
    const auto shape = g.nodes().back().shape;
    x = g.add({"view", Rule::reshape, {x}, {1, c}, {}, ""});
    output(g, linear(g, "b", x, 2, c, {1, 2}));
    // Whatever unit goes: rows of a and columns of b are the same, and every view in between stays a box.
    const auto groups = g.groups();
    for (std::size_t k = 0; k < groups.size(); ++k) {
      if (groups[k].size < 2) continue;
      auto alive = g.all();
      alive[k][rng.below(90 + k, static_cast<uint64_t>(groups[k].size))] = 0;
      const auto rows = g.kept("a.weight", 0, alive);
      EXPECT_EQ(rows, g.kept("b.weight", 1, alive));
      EXPECT_LT(rows.size(), static_cast<std::size_t>(c));
      for (std::size_t node = 0; node < g.nodes().size(); ++node) {
        if (g.nodes()[node].rule != Rule::reshape) continue;
        std::size_t box = 1;
        for (std::size_t d = 0; d < g.nodes()[node].shape.size(); ++d)
          box *= g.kept(static_cast<int>(node), static_cast<int>(d), alive).size();
        EXPECT_EQ(box, rows.size()) << "seed " << seed;
      }
    }
  }
}

TEST(Axes, RefusesWhatDoesNotFit) {
  AxisGraph g;
  const int x = input(g, {1, 4});
  const auto message = [&](AxisNode node) {
    try {
      g.add(std::move(node));
      return std::string("accepted");
    } catch (const ArgumentError& error) {
      return std::string(error.what());
    }
  };
  EXPECT_EQ(message({"v", Rule::reshape, {x}, {1, 5}, {}, ""}), "'v' (reshape): 4 entries become 5");
  EXPECT_NE(message({"s", Rule::slice, {x}, {1, 3}, {1, 2, 1}, ""}).find("there is no entry 4"),
            std::string::npos);
  EXPECT_NE(message({"m", Rule::contract, {x, x}, {4}, {}, "ab"}).find("not an einsum"), std::string::npos);
  EXPECT_NE(message({"e", Rule::elementwise, {7}, {1, 4}, {}, ""}).find("does not come before"),
            std::string::npos);
  g.groups();
  EXPECT_NE(message({"late", Rule::elementwise, {x}, {1, 4}, {}, ""}).find("closed"), std::string::npos);
  EXPECT_THROW(rule_from_name("convolve"), ArgumentError);
  EXPECT_THROW(g.units("nothing", 0), ArgumentError);
}

}  // namespace
}  // namespace glyptic::nn
