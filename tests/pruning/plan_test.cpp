#include "glyptic/pruning/plan.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "glyptic/core/error.h"

namespace glyptic::pruning {
namespace {

using nn::AxisGraph;
using nn::Rule;
using Shape = std::vector<int64_t>;

// Linear a [4, 2] -> relu -> linear b [3, 4], on a batch of one.
AxisGraph mlp(int64_t hidden = 4) {
  AxisGraph g;
  const int x = g.add({"x", Rule::input, {}, {1, 2}, {}, ""});
  const int a = g.add({"a.weight", Rule::parameter, {}, {hidden, 2}, {}, "a.weight"});
  const int b = g.add({"b.weight", Rule::parameter, {}, {3, hidden}, {}, "b.weight"});
  const int y = g.add({"a", Rule::contract, {x, a}, {1, hidden}, {}, "ni,oi->no"});
  const int z = g.add({"b", Rule::contract, {y, b}, {1, 3}, {}, "ni,oi->no"});
  g.add({"output", Rule::output, {z}, {}, {}, ""});
  return g;
}

NamedTensors weights() {
  const auto trained = [](at::Tensor t) { return t.requires_grad_(); };
  return {{"a.weight", trained(torch::tensor({{1., 0.}, {3., 4.}, {0., 2.}, {1., 1.}}, torch::kFloat))},
          {"b.weight",
           trained(torch::tensor({{1., 0., 3., 0.}, {0., 1., 0., 0.}, {2., 0., 0., 1.}}, torch::kFloat))}};
}

// By hand: rows of a have |.|^2 = 1, 25, 4, 2; columns of b 5, 1, 9, 1. The mean over the two members.
TEST(Importance, WorkedNumbers) {
  auto g = mlp();
  PruneOptions o;
  o.importance = Importance::l2;
  EXPECT_EQ(unit_importance(g, weights(), {}, o)[0], (std::vector<double>{3, 13, 6.5, 1.5}));
  o.importance = Importance::l1;  // rows 1, 7, 2, 2; columns 3, 1, 3, 1
  EXPECT_EQ(unit_importance(g, weights(), {}, o)[0], (std::vector<double>{2, 4, 2.5, 1.5}));
  o.importance = Importance::umm;  // mean |w| of the rows alone
  EXPECT_EQ(unit_importance(g, weights(), {}, o)[0], (std::vector<double>{.5, 3.5, 1, 1}));
  o.importance = Importance::lamp;  // l2 over the sum of what is not smaller
  const auto lamp = unit_importance(g, weights(), {}, o)[0];
  EXPECT_DOUBLE_EQ(lamp[3], 1.5 / 24);
  EXPECT_DOUBLE_EQ(lamp[0], 3 / 22.5);
  EXPECT_DOUBLE_EQ(lamp[2], 6.5 / 19.5);
  EXPECT_DOUBLE_EQ(lamp[1], 1);
  o.importance = Importance::taylor;
  const NamedTensors grads{{"a.weight", torch::full({4, 2}, 2.f)}, {"b.weight", torch::full({3, 4}, -1.f)}};
  EXPECT_EQ(unit_importance(g, weights(), grads, o)[0],
            (std::vector<double>{(2 + 3) / 2., (14 + 1) / 2., (4 + 3) / 2., (4 + 1) / 2.}));
  EXPECT_THROW(unit_importance(g, weights(), {}, o), ArgumentError);
}

TEST(Plan, KeepsTheBestAndCutsEveryMember) {
  auto g = mlp();
  const auto plan = plan_pruning(g, weights(), {}, {});
  ASSERT_EQ(plan.groups.size(), 1u);
  EXPECT_EQ(plan.groups[0].kept, (Shape{1, 2}));
  const auto w = weights();
  EXPECT_TRUE(at::equal(plan.apply("a.weight", w[0].tensor), w[0].tensor.detach().slice(0, 1, 3)));
  EXPECT_TRUE(at::equal(plan.apply("b.weight", w[1].tensor), w[1].tensor.detach().slice(1, 1, 3)));
  const auto masked = plan.mask("b.weight", w[1].tensor);
  EXPECT_EQ(masked.count_nonzero().item<int64_t>(), 2);
  EXPECT_TRUE(at::equal(masked.slice(1, 1, 3), w[1].tensor.detach().slice(1, 1, 3)));
  EXPECT_FALSE(plan.apply("elsewhere", w[0].tensor).is_alias_of(w[0].tensor));
  EXPECT_THROW(plan.apply("a.weight", torch::zeros({5, 2})), ArgumentError);
}

// C - trunc(C (1 - ratio)) go, without the pitfalls of 10 * (1 - .9) = .9999999.
TEST(Plan, CountsAreExact) {
  for (const auto& [size, ratio, kept] : std::vector<std::tuple<int64_t, double, std::size_t>>{
           {10, .9, 1}, {10, .95, 1}, {10, .3, 7}, {7, .5, 3}, {8, .25, 6}, {3, .1, 2}, {5, 0, 5}}) {
    auto g = mlp(size);
    const NamedTensors w{{"a.weight", torch::randn({size, 2}).requires_grad_()},
                         {"b.weight", torch::randn({3, size}).requires_grad_()}};
    PruneOptions o;
    o.ratio = ratio;
    EXPECT_EQ(plan_pruning(g, w, {}, o).groups[0].kept.size(), kept) << size << ' ' << ratio;
    o.round_to = 4;
    const auto rounded = plan_pruning(g, w, {}, o).groups[0].kept.size();
    EXPECT_TRUE(rounded % 4 == 0 || static_cast<int64_t>(rounded) == size) << size << ' ' << ratio;
    EXPECT_GE(rounded, kept);
  }
}

// Ties go to the lower index, and random is a function of the seed alone.
TEST(Plan, TiesAndSeeds) {
  auto g = mlp(6);
  const NamedTensors w{{"a.weight", torch::ones({6, 2}).requires_grad_()},
                       {"b.weight", torch::ones({3, 6}).requires_grad_()}};
  EXPECT_EQ(plan_pruning(g, w, {}, {}).groups[0].kept, (Shape{0, 1, 2}));
  PruneOptions o;
  o.importance = Importance::random;
  o.seed = 5;
  const auto first = plan_pruning(g, w, {}, o).groups[0].kept;
  EXPECT_EQ(plan_pruning(g, w, {}, o).groups[0].kept, first);
  std::set<Shape> seen;
  for (o.seed = 0; o.seed < 20; ++o.seed) seen.insert(plan_pruning(g, w, {}, o).groups[0].kept);
  EXPECT_GT(seen.size(), 5u);
}

// Two hidden layers, one a thousand times larger: one ranking over both after division by the group's mean.
TEST(Plan, GlobalRanksByRelativeImportance) {
  const auto build = [] {
    AxisGraph g;
    int x = g.add({"x", Rule::input, {}, {1, 2}, {}, ""});
    const std::vector<std::pair<int64_t, int64_t>> shapes{{4, 2}, {4, 4}, {2, 4}};
    for (std::size_t k = 0; k < 3; ++k) {
      const auto name = str("l", k, ".weight");
      const int w = g.add({name, Rule::parameter, {}, {shapes[k].first, shapes[k].second}, {}, name});
      x = g.add({name, Rule::contract, {x, w}, {1, shapes[k].first}, {}, "ni,oi->no"});
    }
    g.add({"output", Rule::output, {x}, {}, {}, ""});
    return g;
  };
  // Scores (mean over members) 1, 1, 1, 1 and 1000 * (.1, .1, 1.9, 1.9): the second group loses two of eight.
  const auto columns = torch::tensor({.1, .1, 1.9, 1.9}, torch::kFloat);
  const NamedTensors w{{"l0.weight", torch::ones({4, 2}).requires_grad_()},
                       {"l1.weight", torch::zeros({4, 4}).requires_grad_()},
                       {"l2.weight", (torch::ones({2, 4}) * columns * 1000).requires_grad_()}};
  PruneOptions o;
  o.ratio = .25;
  o.scope = Scope::global;
  o.importance = Importance::l1;
  auto g = build();
  auto plan = plan_pruning(g, w, {}, o);
  EXPECT_EQ(plan.groups[0].kept.size(), 4u);
  EXPECT_EQ(plan.groups[1].kept, (Shape{2, 3}));
  o.ratio = .75;  // every group keeps one
  plan = plan_pruning(g, w, {}, o);
  EXPECT_EQ(plan.groups[0].kept.size() + plan.groups[1].kept.size(), 2u);
  EXPECT_GE(plan.groups[0].kept.size(), 1u);
  EXPECT_GE(plan.groups[1].kept.size(), 1u);
  o.max_ratio = .5;
  plan = plan_pruning(g, w, {}, o);
  EXPECT_EQ(plan.groups[0].kept.size(), 2u);
  EXPECT_EQ(plan.groups[1].kept.size(), 2u);
  // A ratio of its own is not up for ranking, and names may be globs or modules.
  o = {};
  o.ratios = {{"l1*", .75}};
  plan = plan_pruning(g, w, {}, o);
  EXPECT_EQ(plan.groups[1].kept.size(), 1u);
  o = {};
  o.ignore = {"l0"};
  plan = plan_pruning(g, w, {}, o);
  EXPECT_EQ(plan.groups[0].kept.size(), 4u);
  EXPECT_EQ(plan.groups[0].note, "ignored");
}

TEST(Plan, JsonRoundTripAndRefusals) {
  auto g = mlp();
  const auto plan = plan_pruning(g, weights(), {}, {});
  const auto again = PrunePlan::from_json(plan.to_json());
  EXPECT_EQ(again.to_json(), plan.to_json());
  auto fresh = mlp();
  const auto alive = alive_of(fresh, again);
  EXPECT_EQ(alive[0], (std::vector<unsigned char>{0, 1, 1, 0}));
  auto other = mlp(5);
  EXPECT_THROW(alive_of(other, again), ArgumentError);
  for (const char* text : {"", "{}", "[1]", R"({"format": "glyptic pruning plan", "version": 2})"})
    EXPECT_THROW(PrunePlan::from_json(text), DataError) << text;
  auto broken = plan.to_json();
  broken.replace(broken.find("\"kept\""), 6, "\"kepd\"");
  EXPECT_THROW(PrunePlan::from_json(broken), DataError);
  auto disordered = plan;
  std::swap(disordered.dims[0].indices[0], disordered.dims[0].indices[1]);
  EXPECT_THROW(PrunePlan::from_json(disordered.to_json()), DataError);
}

TEST(Plan, BadOptions) {
  auto g = mlp();
  const auto refuses = [&](PruneOptions o, const std::string& what) {
    try {
      plan_pruning(g, weights(), {}, o);
      ADD_FAILURE() << what << " was accepted";
    } catch (const ArgumentError& error) {
      EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
    }
  };
  PruneOptions o;
  o.ratio = 1;
  refuses(o, "ratio is 1");
  o = {};
  o.ratio = std::nan("");
  refuses(o, "ratio is");
  o = {};
  o.round_to = 0;
  refuses(o, "round_to");
  o = {};
  o.ratios = {{"c.weight", .5}};
  refuses(o, "no group has a tensor called 'c.weight'");
  o = {};
  o.factor = "middle";
  refuses(o, "factor");
  EXPECT_THROW(importance_from_name("l3"), ArgumentError);
  EXPECT_THROW(scope_from_name("globl"), ArgumentError);
  EXPECT_THROW(plan_from_alive(g, {{0, 0, 0, 0}}), ArgumentError);
  auto w = weights();
  w[0].tensor = torch::full({4, 2}, std::nan("")).requires_grad_();
  EXPECT_THROW(plan_pruning(g, w, {}, {}), ArgumentError);
}

}  // namespace
}  // namespace glyptic::pruning
