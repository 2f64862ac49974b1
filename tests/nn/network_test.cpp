#include <gtest/gtest.h>
#include <torch/torch.h>

#include "glyptic/core/error.h"
#include "glyptic/nn/model.h"

namespace glyptic::nn {
namespace {

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
TEST(Networks, ParametersAndMacs) {
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

}  // namespace
}  // namespace glyptic::nn
