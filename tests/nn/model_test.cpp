#include "glyptic/nn/model.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "glyptic/core/error.h"
#include "glyptic/nn/builder.h"
#include "glyptic/nn/module.h"

namespace glyptic::nn {
namespace {

const RngStream kRng(11, "model test");

Graph every_operation() {
  GraphBuilder b;
  auto x = b.input({4, 12, 12});
  x = b.relu(
      b.batch_norm("bn1", b.conv("conv1", x, 8, 3, {.stride = 2, .padding = 1, .padding_mode = "reflect"})));
  auto y = b.silu(b.group_norm("gn", b.depthwise_conv("dw", x, {3, 1}, {.padding = {1, 0}}), 2));
  y = b.gelu(b.conv("grouped", y, 8, 1, {.groups = 2, .bias = false}));
  x = b.add({x, y});
  x = b.mul(x, b.sigmoid(b.conv("gate", b.global_avg_pool(x), 8, 1)));
  x = b.concat(
      {b.max_pool(x, 3, {.stride = 1, .padding = 1}), b.avg_pool(x, 3, {.stride = 1, .padding = 1})});
  x = b.flatten(b.max_pool(x, 2));
  x = b.tanh(b.layer_norm("ln", b.linear("fc1", x, 20)));
  return b.build(b.log_softmax(b.linear("fc2", x, 5)));
}

// The same network out of torch::nn::functional, with the model's tensors.
at::Tensor every_operation_by_torch(const Model& model, const at::Tensor& input) {
  namespace F = torch::nn::functional;
  const auto state = model.state();
  const auto t = [&](const char* name) { return get(state, name); };
  auto x = F::conv2d(F::pad(input, F::PadFuncOptions({1, 1, 1, 1}).mode(torch::kReflect)), t("conv1.weight"),
                     F::Conv2dFuncOptions().bias(t("conv1.bias")).stride(2));
  x = F::batch_norm(
      x, t("bn1.running_mean").clone(), t("bn1.running_var").clone(),
      F::BatchNormFuncOptions().weight(t("bn1.weight")).bias(t("bn1.bias")).training(model.is_training()));
  x = F::relu(x);
  auto y = F::conv2d(x, t("dw.weight"), F::Conv2dFuncOptions().bias(t("dw.bias")).padding({1, 0}).groups(8));
  y = F::silu(F::group_norm(y, F::GroupNormFuncOptions(2).weight(t("gn.weight")).bias(t("gn.bias"))));
  y = F::gelu(F::conv2d(y, t("grouped.weight"), F::Conv2dFuncOptions().groups(2)));
  x = x + y;
  const auto pooled = x.mean(at::IntArrayRef{2, 3}, true);
  x = x * torch::sigmoid(F::conv2d(pooled, t("gate.weight"), F::Conv2dFuncOptions().bias(t("gate.bias"))));
  x = torch::cat({F::max_pool2d(x, F::MaxPool2dFuncOptions(3).stride(1).padding(1)),
                  F::avg_pool2d(x, F::AvgPool2dFuncOptions(3).stride(1).padding(1))},
                 1);
  x = F::max_pool2d(x, F::MaxPool2dFuncOptions(2)).flatten(1);
  x = F::linear(x, t("fc1.weight"), t("fc1.bias"));
  x = torch::tanh(F::layer_norm(x, F::LayerNormFuncOptions({20}).weight(t("ln.weight")).bias(t("ln.bias"))));
  return F::log_softmax(F::linear(x, t("fc2.weight"), t("fc2.bias")), F::LogSoftmaxFuncOptions(1));
}

TEST(Model, ComputesWhatTorchComputes) {
  Model model(every_operation(), kRng);
  model.to(at::kDouble);
  const auto x = kRng.child(1).normal({3, 4, 12, 12}).to(at::kDouble);
  for (const bool training : {true, false}) {
    model.train(training);
    const auto expected = every_operation_by_torch(model, x);
    const auto actual = model.forward(x);
    // The same operators in the same order on float64: rounding alone, some 1e3 of it.
    EXPECT_TRUE(at::allclose(actual, expected, 1e-12, 1e-12)) << training;
    const auto outputs = model.forward_all(x);
    EXPECT_EQ(outputs.size(), model.graph().nodes.size());
    EXPECT_TRUE(at::allclose(outputs.back(), expected, 1e-12, 1e-12));

    model.zero_grad();
    actual.pow(2).sum().backward();
    std::vector<at::Tensor> gradients, weights;
    for (const auto& [name, tensor] : model.parameters()) {
      gradients.push_back(tensor.grad().clone());
      weights.push_back(tensor);
    }
    const auto wanted = torch::autograd::grad({expected.pow(2).sum()}, weights);
    for (std::size_t i = 0; i < wanted.size(); ++i)
      EXPECT_TRUE(at::allclose(gradients[i], wanted[i], 1e-9, 1e-11)) << model.parameters()[i].name;
  }
}

TEST(Model, BatchNormBuffersMoveOncePerTrainingForward) {
  GraphBuilder b;
  auto x = b.input({3, 4, 4});
  Model model(b.build(b.batch_norm("bn", x, {.momentum = 0.25})), kRng);
  const auto input = kRng.child(2).normal({5, 3, 4, 4});
  model.forward(input);
  const auto state = model.state();
  // running = (1 - momentum) * old + momentum * batch, the variance with n - 1.
  const auto mean = input.mean(at::IntArrayRef{0, 2, 3}) * 0.25;
  const auto var = input.transpose(0, 1).reshape({3, -1}).var(1) * 0.25 + 0.75;
  EXPECT_TRUE(
      at::allclose(get(state, "bn.running_mean"), mean, 1e-5, 1e-6));  // one float32 reduction over 80 values
  EXPECT_TRUE(at::allclose(get(state, "bn.running_var"), var, 1e-5, 1e-6));
  EXPECT_EQ(get(state, "bn.num_batches_tracked").item<int64_t>(), 1);
  model.train(false);
  model.forward(input);
  EXPECT_TRUE(at::allclose(get(state, "bn.running_mean"), mean, 1e-5, 1e-6));
  EXPECT_EQ(get(state, "bn.num_batches_tracked").item<int64_t>(), 1);
}

TEST(Model, InitialisationFollowsSeedAndNameAlone) {
  GraphBuilder small, large;
  const auto a = small.input({50});
  const Model first(small.build(small.linear("fc", a, 400, {.init = "kaiming_normal_fan_in"})), kRng);
  auto x = large.input({50});
  x = large.linear("before", x, 50, {.init = "normal:0.5", .bias_init = "constant:-2"});
  const Model second(large.build(large.linear("fc", x, 400, {.init = "kaiming_normal_fan_in"})), kRng);
  EXPECT_TRUE(at::equal(get(first.state(), "fc.weight"), get(second.state(), "fc.weight")));
  EXPECT_FALSE(at::equal(get(first.state(), "fc.weight"),
                         get(Model(first.graph(), RngStream(12, "model test")).state(), "fc.weight")));
  // 20,000 and 2,500 normal numbers: their standard deviations have relative errors of 0.5 % and 1.4 %; five
  // each.
  EXPECT_NEAR(get(first.state(), "fc.weight").std().item<double>(), std::sqrt(2.0 / 50), 0.025 * 0.2);
  EXPECT_NEAR(get(second.state(), "before.weight").std().item<double>(), 0.5, 0.07 * 0.5);
  EXPECT_TRUE(at::equal(get(second.state(), "before.bias"), at::full({50}, -2.0)));
  const auto bias = get(first.state(), "fc.bias");
  const double bound = 1 / std::sqrt(50.0);
  EXPECT_LE(bias.abs().max().item<double>(), bound);
  EXPECT_GT(bias.abs().max().item<double>(), 0.95 * bound);  // 400 uniform draws all below: 1e-9
}

TEST(Model, KaimingFans) {
  GraphBuilder b;
  auto x = b.input({16, 3, 3});
  x = b.conv("in", x, 64, 3, {.padding = 1, .init = "kaiming_normal_fan_in"});
  x = b.conv("out", x, 16, 3, {.padding = 1, .init = "kaiming_normal_fan_out"});
  x = b.conv("torch", x, 64, 3, {.padding = 1});
  const auto state = Model(b.build(x), kRng).state();
  // 9,216 normals each: 0.7 % relative error of the standard deviation; five of them.
  EXPECT_NEAR(get(state, "in.weight").std().item<double>() / std::sqrt(2.0 / (16 * 9)), 1, 0.037);
  EXPECT_NEAR(get(state, "out.weight").std().item<double>() / std::sqrt(2.0 / (16 * 9)), 1, 0.037);
  EXPECT_NEAR(get(state, "torch.weight").abs().max().item<double>(), 1 / std::sqrt(16.0 * 9), 1e-4);
}

TEST(Model, LoadChecksEverythingBeforeItChangesAnything) {
  Model model(build_graph("lenet_bn"), kRng);
  const Model other(build_graph("lenet_bn"), RngStream(5, "other"));
  const auto before = get(model.state(), "conv1.weight").clone();
  auto values = other.state();
  const auto expect = [&](const NamedTensors& given, const std::string& message) {
    try {
      model.load(given);
      FAIL() << message;
    } catch (const ArgumentError& error) {
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
    EXPECT_TRUE(at::equal(get(model.state(), "conv1.weight"), before));
  };
  auto wrong = values;
  wrong.back().tensor = at::zeros({11});
  expect(wrong, "'fc3.bias' has shape [11] but the model's has [10]");
  wrong = values;
  wrong.pop_back();
  expect(wrong, "'fc3.bias' [10] is missing");
  wrong = values;
  wrong.back().name = "fc3.bais";
  expect(wrong, "did you mean 'fc3.bias'");
  wrong = values;
  wrong.back().tensor = at::zeros({10}, at::kLong);
  expect(wrong, "dtype Long");

  wrong = values;
  wrong.pop_back();
  wrong.push_back({"extra", at::zeros({1})});
  model.load(wrong, false);
  EXPECT_TRUE(at::equal(get(model.state(), "conv1.weight"), get(values, "conv1.weight")));
  EXPECT_FALSE(at::equal(get(model.state(), "fc3.bias"), get(values, "fc3.bias")));
  model.load(values);
  model.train(false);
  const auto x = kRng.child(3).normal({2, 1, 28, 28});
  Model reference = other;
  reference.train(false);
  EXPECT_TRUE(at::equal(model.forward(x), reference.forward(x)));
}

TEST(Model, TakesTensorsAsTheyAre) {
  const Model source(build_graph("mlp"), kRng);
  const Model shared(source.graph(), source.state());
  EXPECT_TRUE(get(shared.state(), "fc1.weight").is_same(get(source.state(), "fc1.weight")));
  auto tensors = source.state();
  tensors[0].tensor = tensors[0].tensor * 2;
  EXPECT_THROW(Model(source.graph(), tensors), ArgumentError);  // not a leaf
  tensors[0].tensor = at::zeros({3, 3});
  EXPECT_THROW(Model(source.graph(), tensors), ArgumentError);
  tensors.erase(tensors.begin());
  EXPECT_THROW(Model(source.graph(), tensors), ArgumentError);
  tensors = source.state();
  tensors.push_back({"fc9.weight", at::zeros({1})});
  EXPECT_THROW(Model(source.graph(), tensors), ArgumentError);
}

TEST(Model, ChannelsLastAndDtypesKeepIdentity) {
  Model model(build_graph("vgg_small", {.width = 0.25}), kRng);
  model.train(false);
  const auto x = kRng.child(4).normal({2, 1, 28, 28});
  const auto weight = get(model.state(), "conv2.weight");
  const auto plain = model.forward(x);
  plain.sum().backward();
  ASSERT_TRUE(weight.grad().defined());
  model.to(at::MemoryFormat::ChannelsLast);
  EXPECT_TRUE(weight.is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_TRUE(weight.grad().is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_TRUE(weight.is_same(get(model.state(), "conv2.weight")));
  const auto last = model.forward(x.contiguous(at::MemoryFormat::ChannelsLast));
  // Sums of at most 576 products in another order.
  EXPECT_TRUE(at::allclose(plain, last, 1e-4, 1e-5));
  model.zero_grad();
  EXPECT_FALSE(weight.grad().defined());

  const auto half = model.forward(x.to(at::kBFloat16));
  EXPECT_EQ(half.scalar_type(), at::kBFloat16);
  // Eight bits of mantissa through seven layers.
  EXPECT_LT((half.to(at::kFloat) - plain).abs().max().item<double>(), 0.1 * plain.abs().max().item<double>());
  half.to(at::kFloat).sum().backward();
  EXPECT_EQ(weight.grad().scalar_type(), at::kFloat);
  EXPECT_THROW(model.forward(x.to(at::kDouble)), ArgumentError);
  model.to(at::kDouble);
  EXPECT_TRUE(at::allclose(model.forward(x.to(at::kDouble)).to(at::kFloat), plain, 1e-4, 1e-5));
}

TEST(Model, MovesToCuda) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA device";
  Model model(build_graph("resnet20", {.width = 0.5}), kRng);
  model.train(false);
  const auto x = kRng.child(6).normal({2, 3, 32, 32});
  const auto weight = get(model.state(), "conv1.weight");
  const auto expected = model.forward(x);
  model.to(at::Device(at::kCUDA));
  EXPECT_TRUE(weight.is_cuda());
  // TF32 convolutions may be on: ten bits of mantissa through twenty layers.
  EXPECT_TRUE(at::allclose(model.forward(x.to(at::kCUDA)).cpu(), expected, 0.05, 0.05));
  EXPECT_THROW(model.forward(x.to(at::kCUDA).to(at::kDouble)), ArgumentError);
}

TEST(Model, DropoutByStreamRepeats) {
  Model model(build_graph("mlp", {.widths = {4000}, .dropout = 0.25}), kRng);
  const auto x = kRng.child(5).normal({2, 1, 28, 28});
  model.seed_dropout(kRng.child(0));
  const auto first = model.forward(x);
  EXPECT_TRUE(at::equal(first, model.forward(x)));
  const auto outputs = model.forward_all(x);
  const auto hidden = outputs[3], dropped = outputs[4];
  const auto kept = dropped != 0, positive = hidden > 0;
  // Some 4,000 positive values kept with probability 3/4: standard deviation 27, five of them.
  EXPECT_NEAR(kept.sum().item<double>(), 0.75 * positive.sum().item<double>(), 140);
  EXPECT_TRUE(at::allclose(dropped.masked_select(kept), hidden.masked_select(kept) / 0.75));
  model.seed_dropout(kRng.child(1));
  EXPECT_FALSE(at::equal(first, model.forward(x)));
  model.train(false);
  EXPECT_TRUE(at::equal(model.forward(x), model.forward(x)));
}

TEST(Model, RefusesInputsOfAnotherShape) {
  Model model(build_graph("mlp"), kRng);
  try {
    model.forward(at::zeros({2, 3, 28, 28}));
    FAIL();
  } catch (const ArgumentError& error) {
    EXPECT_NE(std::string(error.what()).find("[2, 3, 28, 28], expected [N, 1, 28, 28]"), std::string::npos)
        << error.what();
  }
  Model normalised(build_graph("lenet_bn"), kRng);
  EXPECT_NO_THROW(normalised.forward(at::zeros({1, 1, 28, 28})));
  EXPECT_THROW(model.forward(at::zeros({2, 1, 28, 28}, at::kLong)), ArgumentError);
}

TEST(Module, NamedParametersOfATorchModule) {
  torch::nn::Sequential module(torch::nn::Linear(3, 4), torch::nn::BatchNorm1d(4));
  const auto parameters = named_parameters(*module);
  ASSERT_EQ(parameters.size(), 4u);
  EXPECT_EQ(parameters[0].name, "0.weight");
  EXPECT_TRUE(parameters[0].tensor.is_same(module->parameters()[0]));
  EXPECT_EQ(named_buffers(*module)[2].name, "1.num_batches_tracked");
}

}  // namespace
}  // namespace glyptic::nn
