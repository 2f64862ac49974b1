#include "glyptic/sparsity/extract.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "glyptic/core/error.h"
#include "glyptic/nn/builder.h"
#include "glyptic/nn/model.h"

namespace glyptic::sparsity {
namespace {

using nn::Graph;
using nn::GraphBuilder;
using nn::Model;

// Numbers for a test network
// ---------------------------------------------------------------------------------------

class Draw {
 public:
  explicit Draw(uint64_t seed) : rng_(seed, "extract test") {}
  int64_t below(int64_t n) { return static_cast<int64_t>(rng_.below(next_++, static_cast<uint64_t>(n))); }
  bool chance(double p) { return rng_.uniform(next_++) < p; }
  at::Tensor normal(at::IntArrayRef sizes) { return rng_.child(next_++).normal(sizes); }
  at::Tensor uniform(at::IntArrayRef sizes, double low, double high) {
    return rng_.child(next_++).uniform_tensor(sizes, low, high);
  }
  at::Tensor flags(int64_t n, double p) { return uniform({n}, 0, 1) < p; }

 private:
  RngStream rng_;
  uint64_t next_ = 0;
};

// Random weights, and normalisation as after training: beta mostly positive, so that dead channels are
// constants other than zero.
NamedTensors random_state(const Graph& graph, Draw& draw) {
  NamedTensors state = Model(graph, RngStream(0, "ignored")).state();
  for (auto& [name, tensor] : state) {
    const at::NoGradGuard no_grad;
    const auto ends = [&, &name = name](const char* end) {
      return name.size() >= std::strlen(end) && name.substr(name.size() - std::strlen(end)) == end;
    };
    if (tensor.scalar_type() == at::kLong)
      tensor.fill_(7);
    else if (ends("running_var"))
      tensor.copy_(draw.uniform(tensor.sizes(), 0.5, 2));
    else if (tensor.dim() > 1)
      tensor.copy_(draw.normal(tensor.sizes()) /
                   std::sqrt(static_cast<double>(tensor.numel() / tensor.size(0))));
    else
      tensor.copy_(draw.uniform(tensor.sizes(), -0.3, 1));
  }
  return state;
}

void zero_rows(const NamedTensors& state, const std::string& weight, const at::Tensor& dead) {
  const at::NoGradGuard no_grad;
  auto tensor = get(state, weight);
  tensor.index_put_({dead}, 0);
}

void zero_columns(const NamedTensors& state, const nn::Slice& slice, const at::Tensor& dead) {
  const at::NoGradGuard no_grad;
  auto tensor = get(state, slice.tensor);
  const auto entries = dead.repeat_interleave(slice.repeat);
  tensor.slice(1, slice.offset, slice.offset + entries.size(0))
      .masked_fill_(
          entries.view(tensor.dim() == 4 ? at::IntArrayRef({1, -1, 1, 1}) : at::IntArrayRef({1, -1})), 0);
}

at::Tensor evaluate(const Graph& graph, const NamedTensors& state, const at::Tensor& x) {
  Model model(graph, state);
  model.train(false);
  const at::NoGradGuard no_grad;
  return model.forward(x);
}

at::Tensor input_for(const Graph& graph, Draw& draw, int64_t batch = 3) {
  auto shape = graph.nodes[0].integers("shape", {});
  shape.insert(shape.begin(), batch);
  return draw.normal(shape);
}

// Dropping zeros and constants changes the order of float32 sums: a few units in the last place through some
// ten layers. 1e-5 of the largest output is the specification's bound (5.2).
void expect_same_outputs(const Graph& graph, const NamedTensors& state, const ExtractionPlan& plan,
                         Draw& draw) {
  const auto x = input_for(graph, draw);
  const auto large = evaluate(graph, state, x);
  const auto small = evaluate(plan.graph, plan.apply_all(state), x);
  ASSERT_EQ(large.sizes(), small.sizes());
  EXPECT_LE((large - small).abs().max().item<double>(),
            1e-5 * std::max(1.0, large.abs().max().item<double>()));
}

void expect_message(const std::function<void()>& call, const std::vector<std::string>& parts) {
  try {
    call();
    FAIL() << "no error; expected " << parts.front();
  } catch (const Error& error) {
    for (const auto& part : parts)
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
          << error.what() << "\n lacks: " << part;
  }
}

std::vector<int64_t> kept(const ExtractionPlan& plan, const std::string& tensor, int dim) {
  for (const auto& keep : plan.dims)
    if (keep.tensor == tensor && keep.dim == dim) return keep.kept;
  return {};
}

// Worked numbers
// ---------------------------------------------------------------------------------------------------

// conv -> BN -> relu -> 3x3 conv of ones. Channel 0 of the first is dead with the constant q after the relu.
struct Border {
  Graph graph;
  NamedTensors state;
  explicit Border(int64_t padding, double beta, const std::string& mode = "zeros") {
    GraphBuilder b;
    auto x = b.input({1, 3, 3});
    x = b.relu(b.batch_norm("bn", b.conv("conv1", x, 2, 1, {.bias = false})));
    graph = b.build(b.conv("conv2", x, 1, 3, {.padding = padding, .bias = false, .padding_mode = mode}));
    state = Model(graph, RngStream(1, "border")).state();
    const at::NoGradGuard no_grad;
    get(state, "conv1.weight").copy_(at::tensor({0.0f, 1.0f}).view({2, 1, 1, 1}));
    get(state, "bn.bias").copy_(at::tensor({static_cast<float>(beta), 0.0f}));
    get(state, "conv2.weight").fill_(1);
  }
};

// Specification 5.2: q = 0.2 and ones over a 3x3 map with padding 1 contribute 0.8, 1.2 and 1.8 at corner,
// edge and centre, so that no bias can stand for them.
TEST(Extraction, ZeroPaddingMakesTheBorderDiffer) {
  const Border net(1, 0.2);
  const auto masked = evaluate(net.graph, net.state, at::zeros({1, 1, 3, 3}));
  const auto expected = at::tensor({0.8f, 1.2f, 0.8f, 1.2f, 1.8f, 1.2f, 0.8f, 1.2f, 0.8f}).view({1, 1, 3, 3});
  EXPECT_TRUE(at::allclose(masked, expected, 1e-6, 1e-6));  // nine float32 additions
  expect_message([&] { plan_extraction(net.graph, net.state); },
                 {"channel 0 of 'conv1.weight'", "0.2", "'conv2' (conv2.weight[:, 0])", "allow_inexact"});
  const auto plan = plan_extraction(net.graph, net.state, {}, {.allow_inexact = true});
  const auto small = evaluate(plan.graph, plan.apply_all(net.state), at::zeros({1, 1, 3, 3}));
  EXPECT_TRUE(
      at::allclose(small, at::full({1, 1, 3, 3}, 1.8), 1e-6, 1e-6));  // right inside, wrong at the border
  EXPECT_EQ(plan.notes.size(), 2u);                                   // inexact, and widths
  expect_message([&] { check_extraction(net.graph, net.state, plan); },
                 {"check_extraction", "allow_inexact"});
  EXPECT_GT(check_extraction(net.graph, net.state, plan, 4, 0), 0.1);
  // Kept, when constants may not move.
  EXPECT_TRUE(plan_extraction(net.graph, net.state, {}, {.absorb = false}).dims.empty());
}

TEST(Extraction, ConstantsMoveIntoTheBiasWhereThatIsExact) {
  for (const auto& [padding, mode] : std::vector<std::pair<int64_t, std::string>>{
           {0, "zeros"}, {1, "replicate"}, {1, "reflect"}, {1, "circular"}}) {
    const Border net(padding, 0.2, mode);
    const auto plan = plan_extraction(net.graph, net.state);
    EXPECT_EQ(kept(plan, "conv1.weight", 0), std::vector<int64_t>{1});
    ASSERT_EQ(plan.absorptions.size(), 1u) << mode;
    EXPECT_EQ(plan.absorptions[0].weight, "conv2.weight");
    EXPECT_EQ(plan.absorptions[0].bias, "conv2.bias");
    EXPECT_EQ(plan.absorptions[0].channel, 0);
    EXPECT_NEAR(plan.absorptions[0].value, 0.2, 1e-7);  // 0.2 as float32
    EXPECT_NEAR(get(plan.apply_all(net.state), "conv2.bias").item<double>(), 1.8, 1e-6);
    EXPECT_LE(check_extraction(net.graph, net.state, plan), 1e-5);
  }
}

TEST(Extraction, ReluMakesNegativeConstantsFree) {
  const Border net(1, -0.2);
  const auto plan = plan_extraction(net.graph, net.state);
  EXPECT_EQ(kept(plan, "conv1.weight", 0), std::vector<int64_t>{1});
  EXPECT_EQ(kept(plan, "conv2.weight", 1), std::vector<int64_t>{1});
  EXPECT_TRUE(plan.absorptions.empty());
  EXPECT_LE(check_extraction(net.graph, net.state, plan), 1e-5);
}

// Chase's state: row and slice are both zero, so that beta does not matter.
TEST(Extraction, UnreadChannelsGoWhateverTheyHold) {
  const Border net(1, 0.2);
  zero_columns(net.state, {0, "conv2.weight", 1, 0, 1}, torch::tensor({true, false}, at::kBool));
  EXPECT_EQ(kept(plan_extraction(net.graph, net.state), "bn.running_var", 0), std::vector<int64_t>{1});
  // Also when its own filter is alive.
  zero_rows(net.state, "conv1.weight", torch::tensor({false, false}, at::kBool));
  get(net.state, "conv1.weight").detach().fill_(3);
  const auto plan = plan_extraction(net.graph, net.state);
  EXPECT_EQ(kept(plan, "conv1.weight", 0), std::vector<int64_t>{1});
  EXPECT_LE(check_extraction(net.graph, net.state, plan), 1e-5);
}

TEST(Extraction, GeluSigmoidAndFriendsOfTheConstant) {
  for (const char* name : {"gelu", "silu", "sigmoid", "tanh", "relu"}) {
    GraphBuilder b;
    auto x = b.batch_norm("bn", b.linear("fc1", b.input({6}), 5));
    x = b.node({"act", nn::op_from_name(name), {x}, {}, {}});
    const auto graph = b.build(b.linear("fc2", x, 3));
    Draw draw(3);
    const auto state = random_state(graph, draw);
    zero_rows(state, "fc1.weight", torch::tensor({true, false, true, false, false}, at::kBool));
    const auto plan = plan_extraction(graph, state);
    EXPECT_EQ(kept(plan, "fc1.weight", 0), (std::vector<int64_t>{1, 3, 4})) << name;
    expect_same_outputs(graph, state, plan, draw);
  }
}

// A filter that reads nothing but a constant gives a constant, unless zero padding makes its border differ.
TEST(Extraction, ConstantsDoNotPassThroughZeroPadding) {
  for (const int64_t kernel : {1, 3}) {
    GraphBuilder b;
    auto x = b.sigmoid(b.conv("conv1", b.input({1, 5, 5}), 2, 1));
    x = b.sigmoid(b.conv("conv2", x, 2, kernel, {.padding = kernel / 2}));
    const auto graph = b.build(b.conv("conv3", x, 1, 1));
    Draw draw(20);
    const auto state = random_state(graph, draw);
    zero_rows(state, "conv1.weight", torch::tensor({true, false}, at::kBool));
    get(state, "conv2.weight").detach()[0][1].zero_();
    get(state, "conv2.weight").detach()[1][0].zero_();
    if (kernel == 1) {
      const auto plan = plan_extraction(graph, state);
      EXPECT_EQ(kept(plan, "conv2.weight", 0), std::vector<int64_t>{1});
      expect_same_outputs(graph, state, plan, draw);
    } else {
      expect_message([&] { plan_extraction(graph, state); },
                     {"channel 0 of 'conv1.weight'", "'conv2'", "border"});
    }
  }
}

TEST(Extraction, PaddedAveragesAreNotConstant) {
  for (const int64_t padding : {0, 1}) {
    GraphBuilder b;
    const auto x = b.avg_pool(b.sigmoid(b.conv("conv", b.input({1, 6, 6}), 3, 1)), 3, {.padding = padding});
    const auto graph = b.build(b.conv("last", x, 2, 1));
    Draw draw(21);
    const auto state = random_state(graph, draw);
    zero_rows(state, "conv.weight", torch::tensor({false, true, false}, at::kBool));
    const auto plan = plan_extraction(graph, state);
    EXPECT_EQ(plan.dims.empty(), padding == 1);
    expect_same_outputs(graph, state, plan, draw);
  }
}

// fc1's channel 0 is a constant that only fc2's channel 0 reads, which is therefore one too, and which fc3
// reads.
struct Chain {
  Graph graph;
  NamedTensors state;
  Draw draw{22};
  Chain() {
    GraphBuilder b;
    auto x = b.sigmoid(b.linear("fc1", b.input({4}), 3));
    x = b.sigmoid(b.linear("fc2", x, 3));
    graph = b.build(b.linear("fc3", x, 2));
    state = random_state(graph, draw);
    const auto first = torch::tensor({true, false, false}, at::kBool);
    zero_rows(state, "fc1.weight", first);
    const at::NoGradGuard no_grad;
    get(state, "fc2.weight").slice(0, 0, 1).slice(1, 1).zero_();
    get(state, "fc2.weight").slice(0, 1).slice(1, 0, 1).zero_();
    get(state, "fc2.weight")[0][0] = 2;
  }
};

TEST(Extraction, ChainsOfConstantsCollapse) {
  Chain chain;
  const auto plan = plan_extraction(chain.graph, chain.state);
  EXPECT_EQ(kept(plan, "fc1.weight", 0), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(kept(plan, "fc2.weight", 0), (std::vector<int64_t>{1, 2}));
  expect_same_outputs(chain.graph, chain.state, plan, chain.draw);
}

TEST(Extraction, WhatStaysKeepsWhatItReads) {
  Chain chain;
  const auto alive = torch::tensor({false, true, true}, at::kBool);
  const auto plan = plan_extraction(chain.graph, chain.state, {{"fc1.weight", alive}, {"fc2.weight", alive}},
                                    {.absorb = false});
  EXPECT_TRUE(plan.dims.empty());
  expect_same_outputs(chain.graph, chain.state, plan, chain.draw);
}

TEST(Extraction, DeadChannelsKeptForWidthKeepTheirConstant) {
  // fc1 shrinks to three; of fc2's three channels two are live, and a multiple of three means all.
  Draw draw(23);
  GraphBuilder b;
  auto x = b.sigmoid(b.linear("fc1", b.input({4}), 4));
  x = b.sigmoid(b.linear("fc2", x, 3));
  const auto graph = b.build(b.linear("fc3", x, 2));
  const auto state = random_state(graph, draw);
  {
    const at::NoGradGuard no_grad;
    get(state, "fc1.weight")[0].zero_();
    get(state, "fc2.weight")[0].zero_();
    get(state, "fc2.weight")[0][0] = 2;
    get(state, "fc2.weight").slice(0, 1).slice(1, 0, 1).zero_();
  }
  const auto plan = plan_extraction(graph, state, {}, {.round_to = 3});
  EXPECT_EQ(kept(plan, "fc1.weight", 0), (std::vector<int64_t>{1, 2, 3}));
  EXPECT_TRUE(kept(plan, "fc2.weight", 0).empty());
  EXPECT_EQ(plan.absorptions.size(), 1u);
  expect_same_outputs(graph, state, plan, draw);
}

TEST(Extraction, OneChannelStaysTheBest) {
  GraphBuilder b;
  const auto x = b.relu(b.linear("fc1", b.input({4}), 3, {.bias = false}));
  const auto graph = b.build(b.linear("fc2", x, 2));
  Draw draw(4);
  const auto state = random_state(graph, draw);
  const at::NoGradGuard no_grad;
  get(state, "fc1.weight").copy_(at::tensor({1.0f, 5.0f, 2.0f}).view({3, 1}).expand({3, 4}));
  get(state, "fc2.weight").zero_();
  const auto plan = plan_extraction(graph, state);
  EXPECT_EQ(kept(plan, "fc1.weight", 0), std::vector<int64_t>{1});
  EXPECT_NE(plan.notes[0].find("'fc1.weight': all 3 channels are dead"), std::string::npos) << plan.notes[0];
  expect_same_outputs(graph, state, plan, draw);
}

TEST(Extraction, RoundToKeepsTheBestOfTheDead) {
  GraphBuilder b;
  const auto x = b.relu(b.linear("fc1", b.input({4}), 12));
  const auto graph = b.build(b.linear("fc2", x, 2));
  Draw draw(5);
  const auto state = random_state(graph, draw);
  auto alive = at::zeros({12}, at::kBool);
  for (const int j : {1, 4, 9}) alive[j] = true;
  {
    const at::NoGradGuard no_grad;
    get(state, "fc1.weight").copy_(at::arange(12).view({12, 1}).expand({12, 4}) * 0.1);
    zero_columns(state, {0, "fc2.weight", 1, 0, 1}, ~alive);
  }
  const ExtractOptions eight{.round_to = 8};
  const auto plan = plan_extraction(graph, state, {{"fc1.weight", alive}}, eight);
  EXPECT_EQ(kept(plan, "fc1.weight", 0), (std::vector<int64_t>{1, 4, 6, 7, 8, 9, 10, 11}));
  EXPECT_TRUE(plan.notes.empty());
  expect_same_outputs(graph, state, plan, draw);
  EXPECT_EQ(
      kept(plan_extraction(graph, state, {{"fc1.weight", alive}}, {.round_to = 5}), "fc1.weight", 0).size(),
      5u);
  EXPECT_TRUE(plan_extraction(graph, state, {{"fc1.weight", alive}}, {.round_to = 16}).dims.empty());
}

TEST(Extraction, ExplicitLivenessIsChecked) {
  const auto graph = nn::build_graph("resnet20", {.input_shape = {3, 8, 8}, .width = 0.5});
  Draw draw(6);
  const auto state = random_state(graph, draw);
  const auto alive = [&](int64_t n) { return at::arange(n) != 2; };
  const auto plan = [&](const std::string& weight, const at::Tensor& flags,
                        const ExtractOptions& options = {}) {
    return plan_extraction(graph, state, {{weight, flags}}, options);
  };
  expect_message([&] { plan("layer1.0.conv1.weight", alive(8)); },
                 {"channel 2 of 'layer1.0.conv1.weight'", "declared dead", "'layer1.0.conv2'"});
  expect_message([&] { plan("layer1.0.conv9.weight", alive(8)); }, {"did you mean 'layer1.0.conv1.weight'"});
  expect_message([&] { plan("layer1.0.conv1.weight", alive(9)); }, {"bool tensor of shape [8]"});
  expect_message([&] { plan("layer1.0.conv1.weight", at::ones({8})); }, {"bool tensor of shape [8]"});
  expect_message([&] { plan("fc.weight", alive(10)); }, {"'fc.weight'", "outputs"});
  expect_message([&] { plan("layer1.0.conv1.weight", alive(8), {.round_to = 0}); }, {"round_to"});
  EXPECT_EQ(kept(plan("layer1.0.conv1.weight", alive(8), {.allow_inexact = true}), "layer1.0.conv1.weight", 0)
                .size(),
            7u);
  const auto exempt = plan("layer1.0.conv2.weight", alive(8));
  EXPECT_TRUE(exempt.dims.empty());
  EXPECT_NE(exempt.notes.at(0).find("residual"), std::string::npos);
}

TEST(Extraction, LayerNormOnlyWhenInexactIsAllowed) {
  GraphBuilder b;
  const auto x = b.gelu(b.layer_norm("ln", b.linear("fc1", b.input({4}), 6)));
  const auto graph = b.build(b.linear("fc2", x, 2));
  Draw draw(7);
  const auto state = random_state(graph, draw);
  zero_columns(state, {0, "fc2.weight", 1, 0, 1}, at::arange(6) < 2);
  EXPECT_TRUE(plan_extraction(graph, state).dims.empty());
  expect_message(
      [&] {
        plan_extraction(graph, state, {{"fc1.weight", at::arange(6) >= 2}});
      },
      {"LayerNorm 'ln'", "allow_inexact"});
  const auto plan = plan_extraction(graph, state, {}, {.allow_inexact = true});
  EXPECT_EQ(kept(plan, "ln.weight", 0), (std::vector<int64_t>{2, 3, 4, 5}));
  EXPECT_NO_THROW(evaluate(plan.graph, plan.apply_all(state), at::ones({1, 4})));
}

// Properties over random networks
// ------------------------------------------------------------------------------------

// Networks this small lose more time to waking threads than they gain, above all on a busy machine.
class ExtractionProperty : public ::testing::Test {
 protected:
  void SetUp() override { at::set_num_threads(1); }
  void TearDown() override { at::set_num_threads(threads_); }

 private:
  int threads_ = at::get_num_threads();
};

// A layer of random kind on x, with normalisation and activation of random kind.
int random_block(GraphBuilder& b, Draw& draw, int x, const std::string& name, bool zero_padding) {
  const auto activation = [&](int y) {
    const auto kind = draw.below(4);
    return kind == 0 ? b.gelu(y) : kind == 1 ? b.silu(y) : b.relu(y);
  };
  const auto norm = [&](int y, const std::string& of) {
    const auto kind = draw.below(5);
    if (kind == 0) return y;
    if (kind == 1) return b.group_norm(of + ".in", y, b.channels(y));
    return b.batch_norm(of + ".bn", y, {.affine = kind != 2});
  };
  const auto conv = [&](int y, const std::string& of, int64_t channels, int64_t kernel) {
    nn::ConvOptions options{.padding = kernel / 2, .bias = draw.chance(0.5)};
    if (!zero_padding && kernel > 1) options.padding_mode = draw.chance(0.5) ? "replicate" : "circular";
    return activation(norm(b.conv(of, y, channels, kernel, options), of));
  };
  const auto channels = 3 + draw.below(6);
  switch (draw.below(6)) {
    case 0:
      return conv(x, name, channels, 3);
    case 1: {  // residual
      const auto y =
          norm(b.conv(name + ".b", conv(x, name + ".a", channels, 3), b.channels(x), 1), name + ".b");
      return activation(b.add({y, x}));
    }
    case 2: {  // bottleneck with a projected shortcut
      const auto y = conv(conv(x, name + ".a", channels, 1), name + ".b", channels, 3);
      const auto sum = b.add({norm(b.conv(name + ".c", y, 7, 1, {.bias = false}), name + ".c"),
                              norm(b.conv(name + ".s", x, 7, 1, {.bias = false}), name + ".s")});
      return activation(sum);
    }
    case 3: {  // concat, with the input itself
      const auto y = conv(x, name + ".a", channels, 1);
      return b.concat({y, x, conv(y, name + ".b", 3, 3)});
    }
    case 4: {  // inverted bottleneck
      const auto y = conv(x, name + ".e", channels, 1);
      nn::ConvOptions options{.padding = 1};
      if (!zero_padding) options.padding_mode = "replicate";
      return conv(activation(norm(b.depthwise_conv(name + ".d", y, 3, options), name + ".d")), name + ".p", 5,
                  1);
    }
    default: {  // squeeze and excitation
      const auto y = conv(x, name, channels, 3);
      const auto gate = b.relu(b.conv(name + ".q", b.global_avg_pool(y), 3, 1));
      return b.mul(y, b.sigmoid(b.conv(name + ".x", gate, channels, 1)));
    }
  }
}

Graph random_network(Draw& draw, bool zero_padding) {
  GraphBuilder b;
  auto x = b.input({3, 8, 8});
  x = b.relu(b.batch_norm("stem.bn", b.conv("stem", x, 6, 3, {.padding = 1})));
  for (int i = 0; i < 3; ++i) {
    x = random_block(b, draw, x, "block" + std::to_string(i), zero_padding);
    if (i == 0) x = draw.chance(0.5) ? b.max_pool(x, 2) : b.avg_pool(x, 2);
  }
  if (draw.chance(0.5)) x = b.global_avg_pool(x);
  x = b.flatten(x);
  if (draw.chance(0.5)) x = b.relu(b.batch_norm("head.bn", b.linear("head", x, 9)));
  return b.build(b.linear("fc", b.dropout(x, 0.3), 4));
}

// The state in which Chase leaves a network: dead rows, and dead slices in whatever reads them.
std::vector<Liveness> kill(const Graph& graph, const NamedTensors& state, Draw& draw, bool residual,
                           double p) {
  std::vector<Liveness> liveness;
  for (const auto& space : nn::channel_spaces(graph)) {
    if (!space.prunable() || (space.residual && !residual)) continue;
    const auto dead = draw.flags(space.channels, p);
    for (const auto& producer : space.producers) {
      zero_rows(state, producer.tensor, dead);
      liveness.push_back({producer.tensor, ~dead});
    }
    for (const auto& consumer : space.consumers) zero_columns(state, consumer, dead);
  }
  return liveness;
}

TEST_F(ExtractionProperty, ChaseStateIsExactIdempotentAndReversible) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE(seed);
    Draw draw(seed);
    const auto graph = random_network(draw, true);
    const auto state = random_state(graph, draw);
    const bool residual = draw.chance(0.5);
    const auto liveness = kill(graph, state, draw, residual, 0.4);
    const ExtractOptions options{.residual = residual ? Residual::all_dead : Residual::exempt};
    const auto plan = plan_extraction(graph, state, liveness, options);
    EXPECT_TRUE(plan.absorptions.empty());
    expect_same_outputs(graph, state, plan, draw);
    EXPECT_FALSE(plan.dims.empty());

    const auto small = plan.apply_all(state);
    // Weights come back bit for bit; biases and BatchNorm of dead channels do not matter.
    NamedTensors back;
    for (const auto& [name, tensor] : small) {
      back.push_back({name, plan.expand(name, tensor)});
      const auto& original = get(state, name);
      ASSERT_EQ(back.back().tensor.sizes(), original.sizes()) << name;
      if (original.dim() > 1) {
        EXPECT_TRUE(at::equal(back.back().tensor, original)) << name;
      }
      EXPECT_TRUE(at::equal(plan.apply(name, back.back().tensor), tensor)) << name;
    }
    const auto x = input_for(graph, draw);
    const auto expected = evaluate(graph, state, x);
    EXPECT_LE((evaluate(graph, back, x) - expected).abs().max().item<double>(),
              1e-5 * std::max(1.0, expected.abs().max().item<double>()));

    // What is left has nothing more to give, unless random zeros made more dead channels than were declared.
    const auto inferred =
        plan_extraction(graph, state, {}, {.residual = options.residual, .allow_inexact = true});
    const auto tensors = inferred.apply_all(state);
    const auto again =
        plan_extraction(inferred.graph, tensors, {}, {.residual = options.residual, .allow_inexact = true});
    EXPECT_TRUE(again.dims.empty()) << again.to_string();
    EXPECT_EQ(again.graph.to_json(), inferred.graph.to_json());
  }
}

// Rows alone are zero, so that constants other than zero flow. Without zero padding all of them can be
// absorbed.
TEST_F(ExtractionProperty, ConstantsAreAbsorbedExactly) {
  int absorbed = 0, dropped = 0;
  for (uint64_t seed = 100; seed < 160; ++seed) {
    SCOPED_TRACE(seed);
    Draw draw(seed);
    const auto graph = random_network(draw, false);
    const auto state = random_state(graph, draw);
    for (const auto& space : nn::channel_spaces(graph)) {
      if (space.is_output) continue;
      const auto dead = draw.flags(space.channels, 0.3);
      for (const auto& producer : space.producers)
        if (draw.chance(0.7)) zero_rows(state, producer.tensor, dead);
    }
    for (const auto residual : {Residual::exempt, Residual::all_dead, Residual::index_add}) {
      const ExtractOptions options{.residual = residual, .round_to = draw.chance(0.3) ? 2 : 1};
      const auto plan = plan_extraction(graph, state, {}, options);
      expect_same_outputs(graph, state, plan, draw);
      absorbed += static_cast<int>(plan.absorptions.size());
      dropped += static_cast<int>(plan.dims.size());
      const auto small = plan.apply_all(state);
      const auto again = plan_extraction(plan.graph, small, {}, options);
      EXPECT_TRUE(again.dims.empty()) << again.to_string() << plan.to_string();
      expect_same_outputs(plan.graph, small, again, draw);

      const auto copy = ExtractionPlan::from_json(plan.to_json());
      EXPECT_EQ(copy.to_json(), plan.to_json());
      expect_same_outputs(graph, state, copy, draw);
    }
  }
  EXPECT_GT(absorbed, 500);
  EXPECT_GT(dropped, 1000);
}

// absorb = false keeps what would have to move, and stays exact.
TEST_F(ExtractionProperty, WithoutAbsorptionNothingMoves) {
  for (uint64_t seed = 200; seed < 220; ++seed) {
    SCOPED_TRACE(seed);
    Draw draw(seed);
    const auto graph = random_network(draw, draw.chance(0.5));
    const auto state = random_state(graph, draw);
    std::vector<Liveness> liveness;
    for (const auto& space : nn::channel_spaces(graph)) {
      if (!space.prunable()) continue;
      const auto dead = draw.flags(space.channels, 0.4);
      for (const auto& producer : space.producers) {
        zero_rows(state, producer.tensor, dead);
        liveness.push_back({producer.tensor, ~dead});
      }
      for (const auto& consumer : space.consumers)
        zero_columns(state, consumer, dead & draw.flags(space.channels, 0.7));
    }
    for (const bool explicitly : {false, true}) {
      const ExtractOptions options{.residual = Residual::all_dead, .absorb = false};
      const auto plan =
          plan_extraction(graph, state, explicitly ? liveness : std::vector<Liveness>(), options);
      expect_same_outputs(graph, state, plan, draw);
    }
  }
}

// index_add on the real thing: residual branches of a bottleneck network compute only their live channels.
TEST_F(ExtractionProperty, IndexAddShortensBranches) {
  GraphBuilder b;
  auto x = b.relu(b.batch_norm("bn0", b.conv("stem", b.input({3, 6, 6}), 16, 3, {.padding = 1})));
  for (const auto* name : {"a", "c"}) {
    const std::string n = name;
    auto y = b.relu(b.batch_norm(n + ".bn1", b.conv(n + ".conv1", x, 5, 1, {.bias = false})));
    y = b.batch_norm(n + ".bn2", b.conv(n + ".conv2", y, 16, 3, {.padding = 1, .bias = false}));
    x = b.relu(b.add({y, x}));
  }
  const auto graph = b.build(b.linear("fc", b.flatten(b.global_avg_pool(x)), 3));
  Draw draw(9);
  const auto state = random_state(graph, draw);
  const auto dead = at::arange(16) % 3 == 0;
  zero_rows(state, "a.conv2.weight", dead);
  zero_columns(state, {0, "c.conv1.weight", 1, 0, 1}, at::arange(16) < 4);
  for (const bool explicitly : {false, true}) {
    const auto plan = plan_extraction(
        graph, state, explicitly ? std::vector<Liveness>{{"a.conv2.weight", ~dead}} : std::vector<Liveness>{},
        {.residual = Residual::index_add});
    EXPECT_EQ(plan.graph.find_tensor("a.conv2.weight")->shape, (std::vector<int64_t>{10, 5, 3, 3}));
    EXPECT_EQ(plan.graph.find_tensor("a.bn2.bias")->shape, std::vector<int64_t>{10});
    EXPECT_EQ(plan.graph.find_tensor("c.conv1.weight")->shape, (std::vector<int64_t>{5, 12, 1, 1}));
    EXPECT_EQ(plan.graph.find_tensor("stem.weight")->shape[0], 16);
    ASSERT_GE(plan.graph.find_node("a.conv2.scatter"), 0);
    ASSERT_GE(plan.graph.find_node("c.conv1.gather"), 0);
    expect_same_outputs(graph, state, plan, draw);
    EXPECT_LT(nn::cost(plan.graph).macs, nn::cost(graph).macs);
  }
}

// Training goes on
// -------------------------------------------------------------------------------------------------

TEST(Extraction, TrainingGoesOnAsSlices) {
  const auto graph = nn::build_graph("vgg_small", {.input_shape = {1, 12, 12}, .width = 0.125});
  Draw draw(10);
  auto state = random_state(graph, draw);
  const auto liveness = kill(graph, state, draw, false, 0.4);
  const auto plan = plan_extraction(graph, state, liveness);
  const auto mask = get(state, "conv2.weight").detach() != 0;
  const Model large(graph, state), small(plan.graph, plan.apply_all(state));
  ASSERT_LT(nn::cost(plan.graph).parameters, nn::cost(graph).parameters);

  // The same masked SGD-momentum step on both, from the same momentum: gradients, momenta and weights of the
  // small network are slices of the large one's.
  const auto x = input_for(graph, draw, 8);
  const auto target = at::arange(8) % 10;
  const auto step = [&](const Model& model, const std::function<at::Tensor(const std::string&)>& momentum_of,
                        NamedTensors& momenta) {
    at::cross_entropy_loss(model.forward(x), target).backward();
    const at::NoGradGuard no_grad;
    for (auto& [name, weight] : model.parameters()) {
      auto momentum = momentum_of(name).mul(0.9).add(weight.grad());
      weight.sub_(momentum, 0.05);
      momenta.push_back({name, momentum});
    }
  };
  NamedTensors start, after, after_small;
  for (const auto& [name, weight] : large.parameters())
    start.push_back({name, draw.normal(weight.sizes()).mul_(0.01) *
                               (weight.dim() > 1 ? weight.detach() != 0 : at::ones({}, at::kBool))});
  step(
      large, [&](const std::string& name) { return get(start, name); }, after);
  step(
      small, [&](const std::string& name) { return plan.apply(name, get(start, name)); }, after_small);
  const auto close = [&](const at::Tensor& a, const at::Tensor& b, const std::string& name) {
    // Float32 sums of up to 12 * 12 * 8 products in another order.
    EXPECT_LE((a - b).abs().max().item<double>(), 2e-5 * std::max(1.0, a.abs().max().item<double>())) << name;
  };
  for (const auto& [name, momentum] : after_small) close(plan.apply(name, get(after, name)), momentum, name);
  for (const auto& [name, tensor] : small.state())
    if (tensor.dim() > 0) close(plan.apply(name, get(large.state(), name)), tensor.detach(), name);
  EXPECT_EQ(get(small.state(), "bn1.num_batches_tracked").item<int64_t>(), 8);

  EXPECT_EQ(plan.apply("conv2.weight", mask).sum().item<int64_t>(), mask.sum().item<int64_t>());
  EXPECT_EQ(plan.apply("conv2.weight", at::scalar_tensor(3)).item<int64_t>(), 3);  // a step counter
  expect_message([&] { plan.apply("conv2.weight", at::zeros({3, 3})); }, {"'conv2.weight'", "[3, 3]"});
}

TEST(Extraction, NetworksOfThePapers) {
  for (const char* name :
       {"vgg19_bn", "resnet20", "resnet50_cifar", "wrn_22_2", "lenet", "lenet_bn", "mlp"}) {
    SCOPED_TRACE(name);
    const auto graph = nn::build_graph(name, {.width = 0.25});
    Draw draw(11);
    const auto state = random_state(graph, draw);
    const auto liveness = kill(graph, state, draw, false, 0.5);
    const auto plan = plan_extraction(graph, state, liveness);
    EXPECT_LE(check_extraction(graph, state, plan, 2), 1e-5);
    EXPECT_LT(nn::cost(plan.graph).macs, nn::cost(graph).macs);
    EXPECT_NE(plan.to_string().find("parameters"), std::string::npos);
  }
}

// JSON
// -------------------------------------------------------------------------------------------------------------

TEST(Extraction, BadPlansAreRefused) {
  const Border net(0, 0.2);
  const auto text = plan_extraction(net.graph, net.state).to_json();
  const auto with = [&](const std::string& from, const std::string& to) {
    auto changed = text;
    const auto at = changed.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return changed.replace(at, from.size(), to);
  };
  const auto refused = [&](const std::string& json, const std::string& part) {
    try {
      ExtractionPlan::from_json(json);
      FAIL() << part;
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  refused("{", "parse");
  refused("[]", "not an object");
  refused(with("\"original\": 2", "\"original\": 1"), "out of order or not below 1");
  refused(with("\"dim\": 0", "\"dim\": 4"), "dim 4");
  refused(with("\"channel\": 0", "\"channel\": 1"), "not a dropped one");
  refused(with("\"tensor\": \"bn.bias\"", "\"tensor\": \"bn.bees\""), "no such tensor");
  refused(with("\"notes\"", "\"nodes\""), "notes");
  for (std::size_t cut = 0; cut < text.size(); cut += 7)
    EXPECT_THROW(ExtractionPlan::from_json(text.substr(0, cut)), DataError);
}

// Folding
// ----------------------------------------------------------------------------------------------------------

TEST(FoldBatchNorm, EqualsTheNetworkInEvalMode) {
  int folded_pairs = 0;
  for (uint64_t seed = 300; seed < 320; ++seed) {
    SCOPED_TRACE(seed);
    Draw draw(seed);
    const auto graph = random_network(draw, true);
    const auto state = random_state(graph, draw);
    const auto folded = fold_batchnorm(graph, state);
    const auto x = input_for(graph, draw);
    const auto expected = evaluate(graph, state, x);
    // Each folded weight is rounded once more than the original: some ten layers of 6e-8.
    EXPECT_LE((evaluate(folded.graph, folded.tensors, x) - expected).abs().max().item<double>(),
              1e-5 * std::max(1.0, expected.abs().max().item<double>()));
    folded_pairs += static_cast<int>(graph.nodes.size() - folded.graph.nodes.size());
  }
  EXPECT_GT(folded_pairs, 60);
  const auto resnet = nn::build_graph("resnet50_cifar", {.width = 0.125});
  Draw draw(12);
  const auto state = random_state(resnet, draw);
  const auto folded = fold_batchnorm(resnet, state);
  for (const auto& node : folded.graph.nodes) EXPECT_NE(node.op, nn::Op::batch_norm);
  EXPECT_EQ(folded.tensors.size(),
            2 * 53u + 1);  // a weight and a bias for each convolution, the classifier's weight
}

// By hand: W' = W gamma / sqrt(var + eps), b' = beta + (b - mu) gamma / sqrt(var + eps).
TEST(FoldBatchNorm, ByHand) {
  GraphBuilder b;
  const auto graph = b.build(b.batch_norm("bn", b.linear("fc", b.input({2}), 1), {.eps = 0}));
  const auto state = Model(graph, RngStream(0, "fold")).state();
  const auto set = [&](const char* name, float value) { get(state, name).detach().fill_(value); };
  set("fc.weight", 3);
  set("fc.bias", 5);
  set("bn.weight", 2);
  set("bn.bias", -1);
  set("bn.running_mean", 1);
  set("bn.running_var", 16);
  const auto folded = fold_batchnorm(graph, state);
  EXPECT_TRUE(at::equal(get(folded.tensors, "fc.weight"), at::full({1, 2}, 1.5)));
  EXPECT_TRUE(at::equal(get(folded.tensors, "fc.bias"), at::full({1}, 1.0)));
  EXPECT_EQ(folded.tensors.size(), 2u);
}

}  // namespace
}  // namespace glyptic::sparsity
