#include <gtest/gtest.h>
#include <torch/torch.h>

#include "glyptic/core/error.h"
#include "glyptic/core/named_tensor.h"
#include "glyptic/nn/model.h"

namespace glyptic::nn {
namespace {

// Networks this small lose more time to waking threads than they gain, above all on a busy machine.
class Networks : public ::testing::Test {
 protected:
  void SetUp() override { at::set_num_threads(1); }
  void TearDown() override { at::set_num_threads(threads_); }

 private:
  int threads_ = at::get_num_threads();
};

struct Count {
  const char* name;
  int64_t parameters;
  int64_t macs;  // 0: not a published or specified number
};

// ResNet-18/34/50: torchvision's parameter counts; ResNet-50, wide ResNet-32 and ResNet-32: the anchors of
// the sparse-training specification, section 3. ResNet-20/32/56: He et al.'s networks with parameter-free
// shortcuts have 269,722, 464,154 and 853,018 parameters, and the two 1x1 conv + BN shortcuts add 576 +
// 2,176. WRN-28-10: 36.5 M in arXiv 1605.07146, 36,479,194 counted. LeNet-5: 156 + 2,416 + 48,120 + 10,164 +
// 850. mlp: 784 x 300 + 300 + 300 x 100 + 100 + 100 x 10 + 10.
TEST_F(Networks, ParametersAndMacs) {
  const Count counts[] = {
      {"mlp", 266610, 266200},
      {"lenet", 61706, 0},
      {"resnet18", 11689512, 1814073344},
      {"resnet34", 21797672, 3663761408},
      {"resnet50", 25557032, 4089184256},
      {"resnet18_cifar", 11173962 - 10, 0},
      {"resnet20", 269722 + 2752, 0},
      {"resnet32", 464154 + 2752, 69124736},
      {"resnet56", 853018 + 2752, 0},
      {"wide_resnet32", 1860522, 275612928},
      {"wrn_28_10", 36479194, 0},
  };
  for (const auto& expected : counts) {
    const auto total = cost(build_graph(expected.name));
    EXPECT_EQ(total.parameters, expected.parameters) << expected.name;
    if (expected.macs != 0) {
      EXPECT_EQ(total.macs, expected.macs) << expected.name;
    }
  }
}

// Section 3: 1,855,584 prunable weights (convolutions and classifier), of which 1,843,200 in the block
// convolutions.
TEST_F(Networks, PrunableWeightsOfTheWideResNet32) {
  int64_t prunable = 0, blocks = 0;
  for (const auto& spec : build_graph("wide_resnet32").tensors) {
    if (spec.shape.size() < 2) continue;
    int64_t numel = 1;
    for (const auto size : spec.shape) numel *= size;
    prunable += numel;
    if (spec.name.find("layer") == 0 && spec.shape.back() == 3) blocks += numel;
  }
  EXPECT_EQ(prunable, 1855584);
  EXPECT_EQ(blocks, 1843200);
}

uint64_t fnv1a(const std::string& text) {
  uint64_t hash = 0xCBF29CE484222325ull;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  return hash;
}

// What torchvision 0.26.0 gives for its own resnet18/34/50, computed in Python: the number of entries of the
// state_dict, and FNV-1a over "<name><shape>\n" of each in order; outputs in float64 after every tensor was
// set by the formula of `fill_by_formula`.
struct Torchvision {
  const char* name;
  std::size_t entries;
  uint64_t hash;
  double eval[4], train[4];  // logits [0, 0], [0, 999], [1, 500] and the sum of all magnitudes
};

const Torchvision kTorchvision[] = {
    {"resnet18",
     122,
     0x40aee8e4fa6f51ae,
     {-511221.3911, -662317.1425, 654843.4121, 860918339.3},
     {2.373379367, 1.027841137, -1.416222488, 3716.769923}},
    {"resnet34",
     218,
     0x7f8e2c8d7fe2db06,
     {-1.535122848e+11, -1.647576863e+11, 1.988984741e+11, 2.333232763e+14},
     {-1.065448861, -0.3919786478, 0.678616311, 1445.421746}},
    {"resnet50",
     320,
     0x423f1b84e9c3a59a,
     {-32202362.74, 4557254.441, -17945373.97, 4.838653971e+10},
     {7.534625434, -13.06812793, -7.642900651, 14167.78826}},
};

void fill_by_formula(const Model& model) {
  const at::NoGradGuard no_grad;
  double i = -1;
  for (auto& [name, tensor] : model.state()) {
    ++i;
    if (!tensor.is_floating_point()) continue;
    auto w = at::sin(at::arange(tensor.numel(), at::kDouble) * 0.7 + (0.3 * i + 1));
    const auto has = [&, &name = name](const char* part) { return name.find(part) != std::string::npos; };
    if (tensor.dim() > 1)
      w *= std::sqrt(2.0 / static_cast<double>(tensor.numel() / tensor.size(0)));
    else if (has("running_var"))
      w = 1 + 0.5 * w;
    else if (has("weight"))
      w = 1 + 0.25 * w;
    else
      w *= 0.1;
    tensor.copy_(w.view(tensor.sizes()));
  }
}

TEST_F(Networks, StateDictsOfTorchvision) {
  for (const auto& expected : kTorchvision) {
    std::string names;
    const auto graph = build_graph(expected.name);
    for (const auto& spec : graph.tensors) names += spec.name + shape_string(spec.shape) + "\n";
    EXPECT_EQ(graph.tensors.size(), expected.entries) << expected.name;
    EXPECT_EQ(fnv1a(names), expected.hash) << expected.name;
  }
}

TEST_F(Networks, OutputsOfTorchvision) {
  for (const auto& expected : kTorchvision) {
    SCOPED_TRACE(expected.name);
    Model model(build_graph(expected.name, {.input_shape = {3, 64, 64}}), RngStream(0, "networks"));
    model.to(at::kDouble);
    fill_by_formula(model);
    const auto x = at::sin(at::arange(2 * 3 * 64 * 64, at::kDouble) * 0.05).view({2, 3, 64, 64});
    const at::NoGradGuard no_grad;
    for (const bool training : {false, true}) {
      model.train(training);
      const auto y = model.forward(x);
      const double actual[] = {y[0][0].item<double>(), y[0][999].item<double>(), y[1][500].item<double>(),
                               y.abs().sum().item<double>()};
      const auto* wanted = training ? expected.train : expected.eval;
      // Written with ten digits; float64 sums in another order stay far below, BatchNorm over few values
      // included.
      for (int k = 0; k < 4; ++k)
        EXPECT_NEAR(actual[k], wanted[k], 1e-8 * std::abs(wanted[k]) + 1e-9) << training;
    }
  }
}

TEST_F(Networks, AllRunScaledAndOnOtherInputs) {
  for (const auto& name : model_names()) {
    SCOPED_TRACE(name);
    EXPECT_FALSE(model_summary(name).empty());
    ModelOptions options{.num_classes = 7, .input_shape = {1, 40, 36}, .width = 0.1};
    const Model model(build_graph(name, options), RngStream(1, "networks"));
    EXPECT_EQ(model.graph().model, name);
    const auto y = model.forward(at::ones({2, 1, 40, 36}));
    EXPECT_EQ(y.sizes(), (at::IntArrayRef{2, 7}));
    y.sum().backward();
    for (const auto& [parameter, tensor] : model.parameters())
      EXPECT_TRUE(tensor.grad().defined()) << parameter;
    const auto& graph = model.graph();
    EXPECT_EQ(Graph::from_json(graph.to_json()).to_json(), graph.to_json());
    EXPECT_LT(cost(graph).parameters, cost(build_graph(name, {.num_classes = 7})).parameters);
  }
}

TEST_F(Networks, Options) {
  const auto graph = build_graph("mlp", {.input_shape = {20}, .widths = {8, 4}, .dropout = 0.5});
  EXPECT_EQ(graph.find_tensor("fc1.weight")->shape, (std::vector<int64_t>{8, 20}));
  EXPECT_EQ(graph.find_tensor("fc2.weight")->shape, (std::vector<int64_t>{4, 8}));
  EXPECT_EQ(cost(build_graph("lenet", {.input_shape = {3, 32, 32}})).parameters, 62006);  // 300 more in conv1
  EXPECT_EQ(build_graph("vgg_small", {.widths = {2, 3, 4, 5, 6, 7}}).find_tensor("conv6.weight")->shape[0],
            7);
  EXPECT_EQ(build_graph("resnet50", {.conv_init = "fan_in"}).find_tensor("conv1.weight")->init,
            "kaiming_normal_fan_in");
  EXPECT_EQ(build_graph("wide_resnet32").find_tensor("layer1.0.conv1.weight")->init,
            "kaiming_normal_fan_out");
  EXPECT_EQ(build_graph("wide_resnet32").find_tensor("fc.weight")->init, "normal:0.01");
  EXPECT_EQ(build_graph("resnet18_cifar").find_tensor("fc.bias"), nullptr);

  const auto refused = [](const std::string& name, const ModelOptions& options, const std::string& part) {
    try {
      build_graph(name, options);
      FAIL() << part;
    } catch (const ArgumentError& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  refused("resnet19", {}, "did you mean 'resnet18'");
  refused("resnet18", {.widths = {3}}, "'width'");
  refused("resnet18", {.dropout = 0.1}, "no dropout");
  refused("mlp", {.dropout = 1.0}, "dropout is 1");
  refused("mlp", {.widths = {3, 0}}, "widths holds 0");
  refused("mlp", {.width = -1}, "width is -1");
  refused("mlp", {.conv_init = "fan_in"}, "no convolutions");
  refused("vgg19_bn", {.conv_init = "fan"}, "expected fan_in or fan_out");
  refused("vgg_small", {.widths = {3}}, "widths has 1 entries, expected 6");
  refused("lenet", {.input_shape = {1, 8, 8}}, "larger input");
  refused("lenet", {.input_shape = {64}}, "[C, H, W]");
  refused("lenet", {.input_shape = {1, -8, 8}}, "not positive");
  refused("lenet", {.num_classes = -1}, "num_classes");
}

}  // namespace
}  // namespace glyptic::nn
