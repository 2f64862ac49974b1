#include "glyptic/nn/graph.h"

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "glyptic/core/error.h"
#include "glyptic/nn/builder.h"
#include "glyptic/nn/model.h"

namespace glyptic::nn {
namespace {

template <class E>
void expect_message(const std::function<void()>& call, const std::vector<std::string>& parts) {
  try {
    call();
    FAIL() << "no error; expected " << parts.front();
  } catch (const E& error) {
    for (const auto& part : parts)
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
          << error.what() << "\n lacks: " << part;
  }
}

Graph small() {
  GraphBuilder b;
  auto x = b.input({3, 9, 9});
  x = b.relu(b.batch_norm("bn", b.conv("conv", x, 4, {3, 1}, {.stride = {2, 1}, .padding = {1, 0}})));
  return b.build(b.linear("fc", b.flatten(b.max_pool(x, 2, {.stride = 3, .padding = 1})), 5), "small");
}

TEST(Graph, ShapesAndCosts) {
  const auto graph = small();
  const auto shapes = node_shapes(graph);
  const auto of = [&](const char* name) { return shapes[static_cast<std::size_t>(graph.find_node(name))]; };
  EXPECT_EQ(of("conv"), (std::vector<int64_t>{4, 5, 9}));
  EXPECT_EQ(of("max_pool2d_4"), (std::vector<int64_t>{4, 2, 4}));
  EXPECT_EQ(of("flatten_5"), std::vector<int64_t>{32});
  EXPECT_EQ(of("output"), std::vector<int64_t>{5});
  const auto total = cost(graph);
  ASSERT_EQ(total.rows.size(), 3u);
  EXPECT_EQ(total.rows[0].macs, 4 * 5 * 9 * 3 * 3);
  EXPECT_EQ(total.rows[0].parameters, 4 * 9 + 4);
  EXPECT_EQ(total.rows[1].macs, 0);  // normalisation is not counted
  EXPECT_EQ(total.rows[1].parameters, 8);
  EXPECT_EQ(total.rows[2].macs, 5 * 32);
  EXPECT_EQ(total.macs, 1620 + 160);
  EXPECT_EQ(total.parameters, 40 + 8 + 165);
  // The same convolutions on another input; the linear layer does not fit it.
  expect_message<ArgumentError>(
      [&] {
        cost(graph, {3, 30, 30});
      },
      {"'fc'", "'fc.weight'", "reads 32 features"});
  EXPECT_EQ(cost(build_graph("resnet50"), {3, 448, 448}).parameters, 25557032);
  // Grouped: each output reads its own group.
  GraphBuilder b;
  const auto x = b.input({6, 4, 4});
  EXPECT_EQ(cost(b.build(b.conv("g", x, 4, 3, {.groups = 2, .bias = false}))).macs, 4 * 2 * 2 * 3 * 9);
}

TEST(Graph, JsonRoundTrip) {
  auto graph = small();
  graph.nodes[2].attributes["eps"].reals = {1e-3};
  graph.nodes[1].attributes["many"].reals = {1.0, 0.1 + 0.2};
  graph.nodes[1].attributes["padding_mode"].word = "reflect";
  const auto copy = Graph::from_json(graph.to_json());
  EXPECT_EQ(copy.to_json(), graph.to_json());
  EXPECT_EQ(copy.model, "small");
  ASSERT_EQ(copy.nodes.size(), graph.nodes.size());
  for (std::size_t i = 0; i < copy.nodes.size(); ++i) {
    const auto &a = graph.nodes[i], &b = copy.nodes[i];
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.op, b.op);
    EXPECT_EQ(a.inputs, b.inputs);
    EXPECT_EQ(a.tensors, b.tensors);
    ASSERT_EQ(a.attributes.size(), b.attributes.size());
    for (const auto& [key, value] : a.attributes) {
      EXPECT_EQ(value.ints, b.attributes.at(key).ints) << key;
      EXPECT_EQ(value.reals, b.attributes.at(key).reals) << key;
      EXPECT_EQ(value.word, b.attributes.at(key).word) << key;
    }
  }
  ASSERT_EQ(copy.tensors.size(), graph.tensors.size());
  for (std::size_t i = 0; i < copy.tensors.size(); ++i) {
    const auto &a = graph.tensors[i], &b = copy.tensors[i];
    EXPECT_EQ(std::tie(a.name, a.shape, a.trainable, a.dtype, a.init, a.fan_in),
              std::tie(b.name, b.shape, b.trainable, b.dtype, b.init, b.fan_in));
  }
}

TEST(Graph, BadJsonSaysWhatAndWhere) {
  const auto good = small().to_json();
  const auto with = [&](const std::string& from, const std::string& to) {
    auto text = good;
    const auto at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  const auto refused = [](const std::string& text, const std::vector<std::string>& parts) {
    expect_message<DataError>([&] { Graph::from_json(text); }, parts);
  };
  refused("", {"does not parse"});
  refused("[1, 2]", {"is array, expected an object"});
  refused("{\n\"format\": \"glyptic graph\",\n\"version\": }", {"line 3"});
  refused(with("glyptic graph", "other"), {"format is 'other'"});
  refused(with("\"version\": 1", "\"version\": 2"), {"version 2"});
  refused(with("\"op\":\"relu\"", "\"op\":\"relo\""), {"nodes[3]", "'relo'", "did you mean 'relu'"});
  refused(with("\"op\":\"relu\"", "\"op\":7"), {"nodes[3].op is number"});
  refused(with("\"inputs\":[2]", "\"inputs\":[9]"), {"'relu_3'", "node number 9"});
  refused(with("\"inputs\":[2]", "\"inputs\":[-1]"), {"nodes[3].inputs", "-1"});
  refused(with("\"inputs\":[2]", "\"inputs\":[2.5]"), {"nodes[3].inputs", "2.5"});
  refused(with("\"inputs\":[2]", "\"input\":[2]"),
          {"nodes[3]", "unknown key 'input'", "did you mean 'inputs'"});
  refused(with("\"shape\":[5,32]", "\"shape\":[5,33]"), {"'fc'", "'fc.weight'", "[5, 33]"});
  refused(with("\"shape\":[5,32]", "\"shape\":[5,99999999999999]"), {"'fc.weight'", "possible dimension"});
  refused(with("\"shape\":[5,32]", "\"shape\":[5,18446744073709551615]"), {"tensors[7].shape", "64 bits"});
  refused(with("\"init\":\"ones\"", "\"init\":\"twos\""), {"'bn.weight'", "twos"});
  refused(with("\"init\":\"ones\"", "\"init\":\"normal:x\""), {"'bn.weight'", "number"});
  refused(with("\"trainable\":true", "\"trainable\":1"), {"tensors[0].trainable", "true or false"});
  refused(with("\"name\":\"conv\"", "\"name\":\"bn\""), {"two nodes are called 'bn'"});
  refused(with("\"name\":\"fc.bias\"", "\"name\":\"fc.weight\""), {"two tensors are called 'fc.weight'"});
  refused(with("\"weight\":\"conv.weight\"", "\"weight\":\"conv.wait\""),
          {"'conv'", "'conv.wait'", "not in the graph"});
  refused(with("\"stride\":[2,1]", "\"stride\":[0,1]"), {"'conv'", "stride 0"});
  refused(with("\"stride\":[2,1]", "\"stride\":[1,1,1]"), {"'conv'", "3 numbers"});
  refused(with("\"padding\":[1,0]", "\"padding\":[-1,0]"), {"'conv'", "padding -1"});
  refused(with("\"padding\":[1,0]", "\"padding\":{}"), {"nodes[1].attributes.padding"});
  refused(with("\"op\":\"output\"", "\"op\":\"identity\""), {"output"});
  // Truncated anywhere, and with any byte changed: an error or a graph, never a crash.
  for (std::size_t cut = 0; cut + 2 < good.size(); cut += 11)
    EXPECT_THROW(Graph::from_json(good.substr(0, cut)), DataError) << cut;
  for (std::size_t i = 0; i < good.size(); i += 3) {
    auto text = good;
    text[i] = static_cast<char>(text[i] ^ (1 + i % 100));
    try {
      Graph::from_json(text);
    } catch (const DataError&) {
    }
  }
  EXPECT_THROW(Graph::from_json(std::string(200000, '[')), DataError);
}

TEST(Graph, ValidateNamesNodeOrTensor) {
  const auto broken = [](const std::function<void(Graph&)>& change, const std::vector<std::string>& parts) {
    auto graph = small();
    change(graph);
    expect_message<ArgumentError>([&] { graph.validate(); }, parts);
  };
  broken([](Graph& g) { g.nodes.clear(); }, {"no nodes"});
  broken([](Graph& g) { g.nodes.pop_back(); }, {"'fc'", "output"});
  broken([](Graph& g) { g.nodes[3].inputs = {3}; }, {"'relu_3'", "does not come before"});
  broken([](Graph& g) { g.nodes[3].inputs = {1, 2}; }, {"'relu_3'", "reads 2 nodes"});
  broken([](Graph& g) { g.nodes[2].tensors.erase("running_mean"); }, {"'bn'", "'running_mean'"});
  broken([](Graph& g) { g.nodes[2].tensors["running_mean"] = "bn.num_batches_tracked"; }, {"'bn'", "int64"});
  broken([](Graph& g) { g.nodes[2].attributes["eps"].reals = {-1}; }, {"'bn'", "eps"});
  broken([](Graph& g) { g.nodes[2].attributes["eps"].word = "x"; }, {"'bn'", "'eps'", "more than one kind"});
  broken([](Graph& g) { g.find_tensor("fc.bias")->shape = {6}; }, {"'fc'", "'fc.bias'", "[6]", "[5]"});
  broken([](Graph& g) { g.find_tensor("fc.bias")->dtype = "float16"; }, {"'fc.bias'", "float16"});
  broken([](Graph& g) { g.find_tensor("fc.bias")->fan_in = 0; }, {"'fc.bias'", "fan_in"});
  broken([](Graph& g) { g.nodes[1].attributes["groups"].ints = {2}; }, {"'conv'", "groups = 2"});
  broken([](Graph& g) { g.nodes[1].attributes["padding_mode"].word = "mirror"; }, {"'conv'", "mirror"});
}

TEST(Builder, SaysWhatIsWrongWhileWriting) {
  GraphBuilder b;
  const auto x = b.input({4, 6, 6});
  expect_message<ArgumentError>([&] { b.input({1}); }, {"first call"});
  expect_message<ArgumentError>([&] { b.relu(17); }, {"node number 17"});
  const auto y = b.conv("conv", x, 3, 3);
  expect_message<ArgumentError>([&] { b.conv("conv", x, 3, 3); }, {"'conv.weight'"});
  expect_message<ArgumentError>([&] { b.add({x, y}); }, {"add", "[4, 6, 6]", "[3, 4, 4]"});
  expect_message<ArgumentError>([&] { b.mul(x, y); }, {"do not broadcast"});
  expect_message<ArgumentError>([&] { b.concat({x, y}); }, {"differ beside the channels"});
  expect_message<ArgumentError>([&] { b.conv("big", y, 3, 5); }, {"'big'", "larger input"});
  expect_message<ArgumentError>([&] { b.conv("odd", x, 3, 1, {.groups = 3}); }, {"'odd'", "groups = 3"});
  expect_message<ArgumentError>([&] { b.max_pool(x, 2, {.padding = 2}); }, {"half the kernel"});
  expect_message<ArgumentError>([&] { b.group_norm("gn", x, 3); }, {"'gn'", "num_groups = 3"});
  EXPECT_EQ(b.shape(y), (std::vector<int64_t>{3, 4, 4}));
  EXPECT_EQ(b.dropout(y, 0), y);
  // It may end in one place, and then in another.
  EXPECT_EQ(b.build(y).nodes.size(), 3u);
  EXPECT_EQ(b.build(b.flatten(y)).nodes.size(), 4u);
}

}  // namespace
}  // namespace glyptic::nn
