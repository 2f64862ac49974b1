// The optimizers of the C++ API and the command line beside torch's own, run in float64: what differs is then
// the rounding of our float32 alone.
#include "glyptic/optim/optimizer.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "glyptic/core/error.h"

namespace glyptic::optim {
namespace {

constexpr int kSteps = 12;

NamedTensors some_parameters(at::ScalarType type = at::kFloat) {
  torch::manual_seed(3);
  NamedTensors result;
  const std::vector<std::pair<const char*, std::vector<int64_t>>> shapes{
      {"conv.weight", {4, 3, 3, 3}}, {"conv.bias", {4}}, {"fc.weight", {5, 7}}};
  for (const auto& [name, shape] : shapes)
    result.push_back({name, torch::randn(shape, at::kDouble).to(type).requires_grad_()});
  return result;
}

std::vector<at::Tensor> twins(const NamedTensors& parameters) {
  std::vector<at::Tensor> result;
  for (const auto& p : parameters)
    result.push_back(p.tensor.detach().to(at::kDouble).clone().requires_grad_());
  return result;
}

// The same pseudo-random gradient for both, exact in float32. `scale` grows so that order matters.
void set_gradients(const NamedTensors& ours, const std::vector<at::Tensor>& theirs, int step,
                   const std::vector<at::Tensor>& masks = {}) {
  torch::manual_seed(100 + step);
  for (std::size_t i = 0; i < ours.size(); ++i) {
    auto grad = torch::randn(ours[i].tensor.sizes(), at::kFloat) * (1 + step % 3);
    ours[i].tensor.mutable_grad() = grad.to(ours[i].tensor.scalar_type());
    auto double_grad = grad.to(at::kDouble);
    if (!masks.empty() && masks[i].defined()) double_grad = double_grad * masks[i];
    theirs[i].mutable_grad() = double_grad;
  }
}

// 12 steps of a handful of float32 roundings at magnitude <= 4: 12 * 6 * 2^-23 * 4 = 3.4e-5; Adam's division
// by a small root magnifies its gradient's rounding, not the weight's.
constexpr double kTolerance = 4e-5;

void expect_close(const NamedTensors& ours, const std::vector<at::Tensor>& theirs, const std::string& what) {
  for (std::size_t i = 0; i < ours.size(); ++i)
    EXPECT_LT((ours[i].tensor.detach().to(at::kDouble) - theirs[i]).abs().max().item<double>(), kTolerance)
        << what << " " << ours[i].name;
}

TEST(Sgd, FollowsTorch) {
  for (const double momentum : {0.0, 0.9})
    for (const bool nesterov : {false, true})
      for (const double dampening : {0.0, 0.25})
        for (const double decay : {0.0, 5e-2}) {
          if (nesterov && (momentum == 0 || dampening != 0)) continue;
          OptimizerOptions options;
          options.lr = 0.05;
          options.momentum = momentum;
          options.nesterov = nesterov;
          options.dampening = dampening;
          options.weight_decay = decay;
          auto parameters = some_parameters();
          auto reference = twins(parameters);
          Optimizer ours(parameters, options);
          torch::optim::SGD theirs(reference, torch::optim::SGDOptions(0.05)
                                                  .momentum(momentum)
                                                  .nesterov(nesterov)
                                                  .dampening(dampening)
                                                  .weight_decay(decay));
          for (int step = 0; step < kSteps; ++step) {
            set_gradients(parameters, reference, step);
            ours.step();
            theirs.step();
          }
          expect_close(
              parameters, reference,
              str("momentum ", momentum, " nesterov ", nesterov, " dampening ", dampening, " decay ", decay));
          EXPECT_EQ(ours.steps(), kSteps);
        }
}

TEST(Adam, FollowsTorch) {
  for (const bool decoupled : {true, false})
    for (const double decay : {0.0, 0.1}) {
      OptimizerOptions options;
      options.name = decoupled ? "adamw" : "adam";
      options.lr = 0.01;
      options.beta1 = 0.8;
      options.beta2 = 0.95;
      options.weight_decay = decay;
      auto parameters = some_parameters();
      auto reference = twins(parameters);
      Optimizer ours(parameters, options);
      std::unique_ptr<torch::optim::Optimizer> theirs;
      if (decoupled)
        theirs = std::make_unique<torch::optim::AdamW>(
            reference, torch::optim::AdamWOptions(0.01).betas({0.8, 0.95}).weight_decay(decay));
      else
        theirs = std::make_unique<torch::optim::Adam>(
            reference, torch::optim::AdamOptions(0.01).betas({0.8, 0.95}).weight_decay(decay));
      for (int step = 0; step < kSteps; ++step) {
        set_gradients(parameters, reference, step);
        ours.step();
        theirs->step();
      }
      expect_close(parameters, reference, options.name + str(" decay ", decay));
    }
}

TEST(Sgd, InFloat64AgreesToItsOwnPrecision) {
  OptimizerOptions options;
  options.weight_decay = 1e-3;
  auto parameters = some_parameters(at::kDouble);
  auto reference = twins(parameters);
  Optimizer ours(parameters, options);
  torch::optim::SGD theirs(reference, torch::optim::SGDOptions(0.1).momentum(0.9).weight_decay(1e-3));
  for (int step = 0; step < kSteps; ++step) {
    set_gradients(parameters, reference, step);
    ours.step();
    theirs.step();
  }
  // A state kept in float32 would show at 1e-7; this is 12 steps of roundings of 1.1e-16 at magnitude <= 16.
  for (std::size_t i = 0; i < reference.size(); ++i)
    EXPECT_LT((parameters[i].tensor - reference[i]).abs().max().item<double>(), 1e-13);
}

TEST(Optimizer, AMaskedStepEqualsTorchOnTheMaskedGradientAndLeavesZeros) {
  for (const std::string name : {"sgd", "adamw", "adam"}) {
    OptimizerOptions options;
    options.name = name;
    options.lr = 0.02;
    options.weight_decay = 0.05;
    auto parameters = some_parameters();
    std::vector<at::Tensor> masks{torch::rand({4, 3, 3, 3}) < 0.4, at::Tensor(), torch::rand({5, 7}) < 0.4};
    {
      const at::NoGradGuard no_grad;
      for (std::size_t i = 0; i < masks.size(); ++i)
        if (masks[i].defined()) parameters[i].tensor.mul_(masks[i]);
    }
    auto reference = twins(parameters);
    Optimizer ours(parameters, options);
    std::unique_ptr<torch::optim::Optimizer> theirs;
    if (name == "sgd")
      theirs = std::make_unique<torch::optim::SGD>(
          reference, torch::optim::SGDOptions(0.02).momentum(0.9).weight_decay(0.05));
    else if (name == "adamw")
      theirs = std::make_unique<torch::optim::AdamW>(reference,
                                                     torch::optim::AdamWOptions(0.02).weight_decay(0.05));
    else
      theirs =
          std::make_unique<torch::optim::Adam>(reference, torch::optim::AdamOptions(0.02).weight_decay(0.05));
    for (int step = 0; step < kSteps; ++step) {
      set_gradients(parameters, reference, step, masks);
      const auto dense = parameters[0].tensor.grad().clone();
      ours.step(masks);
      theirs->step();
      EXPECT_TRUE(at::equal(parameters[0].tensor.grad(), dense)) << "growth needs the dense gradient";
      for (std::size_t i = 0; i < masks.size(); ++i) {
        if (!masks[i].defined()) continue;
        const auto off = masks[i].logical_not();
        EXPECT_EQ(parameters[i].tensor.detach().masked_select(off).abs().sum().item<float>(), 0) << name;
        for (const auto& state : ours.state_of(i))
          EXPECT_EQ(state.masked_select(off).abs().sum().item<float>(), 0) << name;
      }
    }
    expect_close(parameters, reference, "masked " + name);
  }
}

/// Zero where the mask is false: the weight and all state.
bool zero_off_mask(const Optimizer& optimizer, std::size_t index, const at::Tensor& mask) {
  auto tensors = optimizer.state_of(index);
  tensors.push_back(optimizer.parameters()[index].tensor.detach());
  return std::all_of(tensors.begin(), tensors.end(), [&](const at::Tensor& t) {
    return t.masked_select(mask.logical_not()).eq(0).all().item<bool>();
  });
}

// From the second step under a mask on the optimizer promises zeros off-mask to the operator, which then
// passes over memory without active weights. Whatever anyone does to a tensor in between must end that: each
// of these leaves something where the mask is false (the lines of 16 there are empty), or moves the mask.
TEST(Optimizer, WritesBetweenMaskedStepsAreMaskedAway) {
  for (const std::string name : {"sgd", "adamw"}) {
    OptimizerOptions options;
    options.name = name;
    options.momentum = 0.9;
    options.per_weight_step = name == "adamw";
    auto weight = torch::ones({64, 32}).requires_grad_();
    Optimizer optimizer({{"w", weight}}, options);
    auto mask = at::zeros({64, 32}, at::kBool);
    mask.slice(0, 0, 8).fill_(true);
    const auto step = [&](const at::Tensor& by) {
      weight.mutable_grad() = torch::ones({64, 32});
      optimizer.step(by.defined() ? std::vector<at::Tensor>{by} : std::vector<at::Tensor>{});
    };
    const at::NoGradGuard no_grad;
    step({});  // dense momentum
    step(mask);
    ASSERT_TRUE(zero_off_mask(optimizer, 0, mask)) << name << ": after the first masked step";
    step(mask);
    ASSERT_TRUE(zero_off_mask(optimizer, 0, mask)) << name << ": after the second";
    const std::vector<std::pair<const char*, std::function<void()>>> disturbances{
        {"a weight in place", [&] { weight.fill_(1); }},
        {"a row of the weight", [&] { weight.select(0, 50).fill_(1); }},
        {"the weight's memory",
         [&] {
           weight.set_data(torch::ones({64, 32}));
         }},
        {"state", [&] { optimizer.state_of(0)[0].fill_(1); }},
        {"the last state", [&] { optimizer.state_of(0).back().fill_(1); }},
        {"a step without masks", [&] { step({}); }},
        {"a mask in place", [&] { mask.copy_(mask.roll(8, 0)); }},
        {"a mask in other memory", [&] { mask = mask.roll(8, 0); }},
        {"loaded state",
         [&] {
           NamedTensors state;
           for (const auto& t : optimizer.state())
             state.push_back({t.name, t.name == "optimizer.steps" ? t.tensor : at::ones_like(t.tensor)});
           optimizer.load_state(state);
         }},
    };
    for (const auto& [what, disturb] : disturbances) {
      disturb();
      step(mask);
      ASSERT_TRUE(zero_off_mask(optimizer, 0, mask)) << name << ": after a change of " << what;
      step(mask);
      ASSERT_TRUE(zero_off_mask(optimizer, 0, mask)) << name << ": a step after a change of " << what;
    }
    // Masks made anew for each step, as one long after another comes to lie at the same address.
    for (int i = 0; i < 8; ++i) {
      const auto fresh = mask.roll(8 * i, 0);
      step(fresh);
      ASSERT_TRUE(zero_off_mask(optimizer, 0, fresh)) << name << ": mask " << i;
    }
  }
}

// ... and that promise is made, not only kept: a write that no version counter sees stays.
TEST(Optimizer, PassesOverMemoryWithoutActiveWeights) {
  auto weight = torch::ones({64, 32}).requires_grad_();
  Optimizer optimizer({{"w", weight}}, {});
  auto mask = at::zeros({64, 32}, at::kBool);
  mask.slice(0, 0, 8).fill_(true);
  weight.mutable_grad() = torch::ones({64, 32});
  optimizer.step({mask});
  weight.data_ptr<float>()[50 * 32] = 1;
  optimizer.step({mask});
  EXPECT_EQ(weight.data_ptr<float>()[50 * 32], 1);
}

TEST(Optimizer, DecayCanLeaveOneDimensionalParametersAlone) {
  OptimizerOptions options;
  options.lr = 0.5;
  options.momentum = 0;
  options.weight_decay = 0.1;
  options.decay_one_dimensional = false;
  auto parameters = some_parameters();
  const auto bias = parameters[1].tensor.detach().clone(), weight = parameters[2].tensor.detach().clone();
  Optimizer ours(parameters, options);
  for (auto& p : parameters) p.tensor.mutable_grad() = at::zeros_like(p.tensor);
  ours.step();
  EXPECT_TRUE(at::equal(parameters[1].tensor.detach(), bias));
  EXPECT_TRUE(at::allclose(parameters[2].tensor.detach(), weight * 0.95));  // 1 - lr * decay
}

TEST(Optimizer, ClipsByTheNormOfTheMaskedGradient) {
  OptimizerOptions options;
  options.lr = 1;
  options.momentum = 0;
  options.weight_decay = 0;
  options.max_grad_norm = 1;
  const auto run = [&](std::vector<float> grad, std::vector<at::Tensor> masks) {
    NamedTensors p{{"w", at::zeros({1, 4}).requires_grad_()}};
    p[0].tensor.mutable_grad() = at::tensor(grad).view({1, 4});
    Optimizer ours(p, options);
    ours.step(masks);
    return p[0].tensor.detach().view(-1).clone();
  };
  // Masked norm of (3, 4) is 5; the 100s outside the mask do not count (with them the step would be 30 times
  // less).
  auto w = run({3, 4, 100, 100}, {torch::tensor({true, true, false, false}).view({1, 4})});
  EXPECT_TRUE(at::allclose(w, at::tensor({-0.6f, -0.8f, 0.0f, 0.0f})));  // float32 roundings
  w = run({3, 4, 0, 0}, {});
  EXPECT_TRUE(at::allclose(w, at::tensor({-0.6f, -0.8f, 0.0f, 0.0f})));
  // Below the limit nothing is scaled, not even by a rounding.
  w = run({0.3f, 0.4f, 100, 100}, {torch::tensor({true, true, false, false}).view({1, 4})});
  EXPECT_TRUE(at::equal(w, at::tensor({-0.3f, -0.4f, 0.0f, 0.0f})));
}

TEST(Optimizer, ContinuesFromSavedStateBitForBit) {
  for (const std::string name : {"sgd", "adamw", "adam"}) {
    OptimizerOptions options;
    options.name = name;
    options.lr = 0.01;
    options.dampening = 0.5;  // makes sgd's first step differ from all later ones
    options.per_weight_step = name == "adam";
    auto straight = some_parameters(), broken = some_parameters();
    Optimizer a(straight, options);
    auto b = std::make_unique<Optimizer>(broken, options);
    const auto unused = twins(straight);
    for (int step = 0; step < 6; ++step) {
      set_gradients(straight, unused, step);
      set_gradients(broken, unused, step);
      a.step();
      b->step();
      NamedTensors saved;
      for (const auto& entry : b->state()) saved.push_back({entry.name, entry.tensor.clone()});
      b = std::make_unique<Optimizer>(broken, options);
      b->load_state(saved);
      EXPECT_EQ(b->steps(), step + 1);
      for (std::size_t i = 0; i < straight.size(); ++i)
        ASSERT_TRUE(at::equal(straight[i].tensor, broken[i].tensor)) << name << " step " << step;
    }
  }
}

TEST(Optimizer, RefusesStateThatDoesNotFitBeforeChangingAnything) {
  auto parameters = some_parameters();
  Optimizer ours(parameters, {});
  set_gradients(parameters, twins(parameters), 0);
  ours.step();
  const auto before = ours.state_of(0)[0].clone();
  auto state = ours.state();
  state.back().tensor = at::zeros({2});
  state[1].tensor = at::ones_like(state[1].tensor);
  try {
    ours.load_state(state);
    FAIL();
  } catch (const ArgumentError& error) {
    EXPECT_STREQ(error.what(),
                 "'optimizer.momentum.fc.weight' has shape [2] in the checkpoint, but [5, 7] here");
  }
  EXPECT_TRUE(at::equal(ours.state_of(0)[0], before));
  state.pop_back();
  EXPECT_THROW(ours.load_state(state), ArgumentError);
}

TEST(Optimizer, NamesWhatIsWrong) {
  const auto message = [](const std::function<void()>& f) -> std::string {
    try {
      f();
    } catch (const ArgumentError& error) {
      return error.what();
    }
    return "no error";
  };
  OptimizerOptions options;
  options.name = "sgdm";
  EXPECT_EQ(message([&] { Optimizer(some_parameters(), options); }),
            "optimizer.name is 'sgdm', expected one of sgd, adamw, adam; did you mean 'sgd'?");
  options.name = "sgd";
  options.nesterov = true;
  options.momentum = 0;
  EXPECT_EQ(message([&] { Optimizer(some_parameters(), options); }),
            "optimizer.nesterov needs a momentum above 0 and no dampening");
  Optimizer ours(some_parameters(), {});
  EXPECT_EQ(message([&] { ours.step({at::Tensor()}); }), "optimizer step: 1 masks for 3 parameters");
}

TEST(Optimizer, ChoosingAdamwBringsItsRates) {
  OptimizerOptions options;
  Options declared;
  options.declare(declared);
  declared.set("name", std::string("adamw"), "test");
  EXPECT_EQ(options.lr, 1e-3);
  EXPECT_EQ(options.weight_decay, 1e-2);
  declared.set("name", std::string("sgd"), "test");
  EXPECT_EQ(options.lr, 0.1);
  EXPECT_EQ(options.weight_decay, 5e-4);
}

// --- the rate over a run

TEST(LrFactor, WarmsUpLinearlyThenFollowsTheCosine) {
  LrOptions options;
  options.warmup_epochs = 2;
  const int64_t per_epoch = 5, total = 110;
  EXPECT_DOUBLE_EQ(lr_factor(options, 1, total, per_epoch), 0.1);
  EXPECT_DOUBLE_EQ(lr_factor(options, 5, total, per_epoch), 0.5);
  EXPECT_DOUBLE_EQ(lr_factor(options, 10, total, per_epoch), 1.0);  // the last step of the warm-up
  EXPECT_DOUBLE_EQ(lr_factor(options, 11, total, per_epoch), 1.0);  // the first of the cosine
  EXPECT_DOUBLE_EQ(lr_factor(options, 61, total, per_epoch), 0.5);  // half-way: 50 of 100 steps
  // The last step is one hundredth before the end: (1 + cos(0.99 pi)) / 2.
  EXPECT_NEAR(lr_factor(options, 110, total, per_epoch), 2.467e-4, 1e-7);
  EXPECT_NEAR(lr_factor(options, 111, total, per_epoch), 0, 1e-15);
  options.min_factor = 0.1;
  EXPECT_DOUBLE_EQ(lr_factor(options, 61, total, per_epoch), 0.55);
  EXPECT_NEAR(lr_factor(options, 111, total, per_epoch), 0.1, 1e-15);
}

TEST(LrFactor, MilestonesFallExactlyAfterEpochs80And120Of160) {
  LrOptions options;
  options.schedule = "step";
  options.milestones = {0.5, 0.75};
  options.gamma = 0.1;
  for (const int64_t per_epoch : {1, 7, 390, 500}) {
    const int64_t total = 160 * per_epoch;
    EXPECT_DOUBLE_EQ(lr_factor(options, 80 * per_epoch, total, per_epoch), 1.0);
    EXPECT_DOUBLE_EQ(lr_factor(options, 80 * per_epoch + 1, total, per_epoch), 0.1);
    EXPECT_DOUBLE_EQ(lr_factor(options, 120 * per_epoch, total, per_epoch), 0.1);
    EXPECT_DOUBLE_EQ(lr_factor(options, 120 * per_epoch + 1, total, per_epoch), 0.01);
    EXPECT_DOUBLE_EQ(lr_factor(options, total, total, per_epoch), 0.01);
  }
  // Thirds are not exact in binary; the milestone still falls between steps 60 and 61 of 180.
  options.milestones = {1.0 / 3};
  EXPECT_DOUBLE_EQ(lr_factor(options, 60, 180, 1), 1.0);
  EXPECT_DOUBLE_EQ(lr_factor(options, 61, 180, 1), 0.1);
}

TEST(LrFactor, HandlesDegenerateRuns) {
  LrOptions options;
  options.warmup_epochs = 10;
  EXPECT_DOUBLE_EQ(lr_factor(options, 3, 3, 1), 0.3);  // the run ends within its warm-up
  options.warmup_epochs = 0;
  EXPECT_DOUBLE_EQ(lr_factor(options, 1, 1, 1), 1.0);
  options.schedule = "constant";
  EXPECT_DOUBLE_EQ(lr_factor(options, 77, 100, 10), 1.0);
  options.warmup_epochs = 0.5;  // half an epoch of 5 steps rounds to 3
  EXPECT_DOUBLE_EQ(lr_factor(options, 2, 100, 5), 2.0 / 3);
}

}  // namespace
}  // namespace glyptic::optim
