#include "glyptic/nn/dependency.h"

#include <gtest/gtest.h>

#include "glyptic/nn/builder.h"
#include "glyptic/nn/model.h"

namespace glyptic::nn {
namespace {

const ChannelSpace& space_of(const std::vector<ChannelSpace>& spaces, const std::string& weight) {
  for (const auto& space : spaces)
    for (const auto& producer : space.producers)
      if (producer.tensor == weight) return space;
  throw std::runtime_error("no space for " + weight);
}

std::string text(const std::vector<Slice>& slices) {
  std::string result;
  for (const auto& s : slices)
    result += s.tensor + "/" + std::to_string(s.dim) + "+" + std::to_string(s.offset) + "x" +
              std::to_string(s.repeat) + " ";
  return result;
}

int64_t total_channels(const std::vector<ChannelGroup>& groups) {
  int64_t total = 0;
  for (const auto& group : groups) total += group.channels;
  return total;
}

TEST(Groups, OfTheChaseNetworks) {
  const auto vgg = prunable_groups(build_graph("vgg19_bn"));
  EXPECT_EQ(vgg.size(), 15u);  // every conv -> next conv, the last conv exempt
  EXPECT_EQ(vgg[0].active, "features.0.weight");
  EXPECT_EQ(text(vgg[0].passive), "features.3.weight/1+0x1 ");
  EXPECT_EQ(
      text(vgg[0].companions),
      "features.0.bias/0+0x1 features.1.weight/0+0x1 features.1.bias/0+0x1 features.1.running_mean/0+0x1 "
      "features.1.running_var/0+0x1 ");
  EXPECT_EQ(prunable_groups(build_graph("vgg19_bn"), true).size(), 16u);

  const auto bottlenecks = prunable_groups(build_graph("resnet50"));
  EXPECT_EQ(bottlenecks.size(), 32u);
  EXPECT_EQ(total_channels(bottlenecks), 7552);
  EXPECT_EQ(bottlenecks[1].active, "layer1.0.conv2.weight");
  EXPECT_EQ(text(bottlenecks[1].passive), "layer1.0.conv3.weight/1+0x1 ");

  for (const char* name : {"resnet18", "resnet18_cifar"}) {
    const auto basic = prunable_groups(build_graph(name));
    EXPECT_EQ(basic.size(), 8u);
    for (const auto& group : basic)
      EXPECT_NE(group.active.find(".conv1.weight"), std::string::npos) << group.active;
  }
  EXPECT_EQ(prunable_groups(build_graph("wide_resnet32")).size(), 15u);
  EXPECT_EQ(total_channels(prunable_groups(build_graph("mlp"))), 400);
  EXPECT_EQ(prunable_groups(build_graph("lenet")).size(), 3u);        // conv1, fc1, fc2
  EXPECT_EQ(prunable_groups(build_graph("lenet"), true).size(), 4u);  // and conv2 -> fc1
}

TEST(Spaces, FlattenRepeatsChannels) {
  const auto spaces = channel_spaces(build_graph("lenet"));
  EXPECT_TRUE(spaces[0].is_input);
  EXPECT_EQ(text(space_of(spaces, "conv2.weight").consumers), "fc1.weight/1+0x25 ");
  EXPECT_TRUE(space_of(spaces, "fc3.weight").is_output);
  EXPECT_FALSE(space_of(spaces, "fc3.weight").prunable());
}

TEST(Spaces, AddJoinsAndConcatOffsets) {
  GraphBuilder b;
  const auto in = b.input({3, 8, 8});
  const auto stem = b.relu(b.conv("stem", in, 4, 3, {.padding = 1}));
  const auto sum = b.add({stem, b.conv("branch", stem, 4, 1)});
  const auto side = b.conv("side", in, 5, 1);
  const auto joined = b.batch_norm("bn", b.concat({side, sum, side}));
  const auto graph = b.build(b.linear("fc", b.flatten(b.max_pool(joined, 4)), 2));
  const auto spaces = channel_spaces(graph);
  const auto& residual = space_of(spaces, "branch.weight");
  EXPECT_EQ(&residual, &space_of(spaces, "stem.weight"));
  EXPECT_TRUE(residual.residual);
  EXPECT_EQ(text(residual.producers), "stem.weight/0+0x1 branch.weight/0+0x1 ");
  EXPECT_EQ(text(residual.consumers), "branch.weight/1+0x1 fc.weight/1+20x4 ");
  const auto& twice = space_of(spaces, "side.weight");
  EXPECT_FALSE(twice.residual);
  EXPECT_EQ(text(twice.consumers), "fc.weight/1+0x4 fc.weight/1+36x4 ");
  EXPECT_NE(text(twice.companions).find("bn.weight/0+0x1 bn.weight/0+9x1 "), std::string::npos);
  const auto groups = prunable_groups(graph, true);
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_EQ(groups[0].active, "side.weight");
}

TEST(Spaces, DepthwiseFollowsItsInput) {
  GraphBuilder b;
  auto x = b.relu(b.conv("expand", b.input({3, 8, 8}), 6, 1));
  x = b.relu(b.batch_norm("bn", b.depthwise_conv("dw", x, 3, {.padding = 1})));
  const auto graph = b.build(b.conv("project", x, 4, 1));
  const auto space = ChannelSpace(space_of(channel_spaces(graph), "dw.weight"));
  EXPECT_EQ(text(space.producers), "expand.weight/0+0x1 dw.weight/0+0x1 ");
  EXPECT_EQ(text(space.consumers), "project.weight/1+0x1 ");
  const auto groups = prunable_groups(graph);
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_EQ(groups[0].active, "expand.weight");
  EXPECT_NE(text(groups[0].companions).find("dw.weight/0+0x1"), std::string::npos);
}

TEST(Spaces, SqueezeAndExciteGate) {
  GraphBuilder b;
  const auto x = b.conv("conv", b.input({3, 8, 8}), 6, 3);
  const auto gate = b.sigmoid(b.conv("gate", b.relu(b.conv("squeeze", b.global_avg_pool(x), 2, 1)), 6, 1));
  const auto graph = b.build(b.conv("last", b.mul(x, gate), 4, 1));
  const auto spaces = channel_spaces(graph);
  EXPECT_EQ(&space_of(spaces, "conv.weight"), &space_of(spaces, "gate.weight"));
  EXPECT_TRUE(space_of(spaces, "gate.weight").residual);
  EXPECT_EQ(prunable_groups(graph).size(), 1u);  // squeeze -> gate
}

TEST(Spaces, RefusesWhatItCannotFollow) {
  const auto reason = [](const std::function<int(GraphBuilder&, int)>& layer, const std::string& weight) {
    GraphBuilder b;
    const auto x = layer(b, b.conv("conv", b.input({3, 8, 8}), 6, 3));
    const auto space = space_of(channel_spaces(b.build(b.conv("last", x, 4, 1))), weight);
    EXPECT_FALSE(space.prunable());
    return space.fixed_because;
  };
  const auto contains = [](const std::string& whole, const std::string& part) {
    EXPECT_NE(whole.find(part), std::string::npos) << whole;
  };
  contains(reason([](auto& b, int x) { return b.group_norm("gn", x, 2); }, "conv.weight"), "GroupNorm 'gn'");
  contains(reason([](auto& b, int x) { return b.conv("g", x, 6, 1, {.groups = 2}); }, "conv.weight"),
           "'g' has groups");
  contains(reason([](auto& b, int x) { return b.conv("g", x, 6, 1, {.groups = 2}); }, "g.weight"),
           "'g' has groups");
  contains(reason([](auto& b, int x) { return b.linear("l", x, 9); }, "conv.weight"), "linear 'l'");
  contains(reason([](auto& b, int x) { return b.layer_norm("n", x); }, "conv.weight"), "LayerNorm 'n'");
  contains(reason([](auto& b, int x) { return b.log_softmax(x); }, "conv.weight"), "log-softmax");
  contains(reason([](auto& b, int x) { return b.mul(x, b.sigmoid(b.conv("one", x, 1, 1))); }, "one.weight"),
           "broadcasts");
  contains(reason(
               [](auto& b, int x) {
                 return b.add({b.concat({b.conv("p", x, 2, 1), b.conv("q", x, 4, 1)}), x});
               },
               "p.weight"),
           "do not line up");
  const auto tied = [](auto& b, int x) {
    x = b.conv("first", x, 6, 1);
    auto again = Node{"second", Op::conv2d, {x}, {{"weight", "first.weight"}}, {}};
    return b.node(again);
  };
  contains(reason(tied, "first.weight"), "'first.weight' is shared by nodes 'first' and 'second'");
  contains(reason(tied, "conv.weight"), "'first.weight' is shared");

  // InstanceNorm (one channel a group) is per channel; LayerNorm over features only with allow_inexact.
  GraphBuilder b;
  const auto x = b.group_norm("in", b.conv("conv", b.input({3, 4, 4}), 6, 3), 6);
  const auto y = b.layer_norm("ln", b.linear("fc1", b.flatten(x), 7));
  const auto spaces = channel_spaces(b.build(b.linear("fc2", y, 2)));
  EXPECT_TRUE(space_of(spaces, "conv.weight").prunable());
  EXPECT_FALSE(space_of(spaces, "fc1.weight").prunable());
  EXPECT_TRUE(space_of(spaces, "fc1.weight").prunable(true));
  EXPECT_NE(space_of(spaces, "fc1.weight").inexact_because.find("LayerNorm 'ln'"), std::string::npos);
}

}  // namespace
}  // namespace glyptic::nn
