// What a plan does with tensors, and its JSON.
#include <torch/torch.h>

#include <nlohmann/json.hpp>

#include "../core/json.h"
#include "glyptic/core/error.h"
#include "glyptic/nn/model.h"
#include "glyptic/sparsity/extract.h"

namespace glyptic::sparsity {
namespace {

using nlohmann::ordered_json;

constexpr const char* kFormat = "glyptic extraction plan";

at::Tensor index_of(const std::vector<int64_t>& kept, const at::Device& device) {
  return at::tensor(kept, at::kLong).to(device);
}

void check_size(const DimKeep& keep, const std::string& name, const at::Tensor& tensor, int64_t expected) {
  require(keep.dim < tensor.dim() && tensor.size(keep.dim) == expected, "extraction of '", name,
          "': the tensor has shape ", shape_string(tensor.sizes()), ", expected ", expected, " in dimension ",
          keep.dim);
}

}  // namespace

at::Tensor ExtractionPlan::apply(const std::string& name, const at::Tensor& tensor) const {
  if (tensor.dim() == 0) return tensor;
  const at::NoGradGuard no_grad;
  auto result = tensor;
  for (const auto& keep : dims) {
    if (keep.tensor != name) continue;
    check_size(keep, name, tensor, keep.original);
    result = at::index_select(result, keep.dim, index_of(keep.kept, tensor.device()));
  }
  return result.is_same(tensor) ? tensor : result.contiguous(tensor.suggest_memory_format());
}

NamedTensors ExtractionPlan::apply_all(const NamedTensors& tensors) const {
  const at::NoGradGuard no_grad;
  check_names(tensors, "ExtractionPlan::apply_all");
  NamedTensors result;
  for (const auto& spec : graph.tensors) {
    const auto* original = find(tensors, spec.name);
    const auto created =
        std::any_of(absorptions.begin(), absorptions.end(),
                    [&](const Absorption& absorption) { return absorption.bias == spec.name; });
    require(original != nullptr || created, "ExtractionPlan::apply_all: tensor '", spec.name, "' is missing");
    if (original == nullptr) {
      const auto absorption = std::find_if(absorptions.begin(), absorptions.end(),
                                           [&](const Absorption& entry) { return entry.bias == spec.name; });
      result.push_back({spec.name, at::zeros(spec.shape, get(tensors, absorption->weight).options())});
    } else {
      result.push_back({spec.name, apply(spec.name, original->detach()).clone()});
    }
  }
  // bias += (sum over the kernel of the dropped column) x constant, summed in float64 before the one
  // rounding.
  std::map<std::string, at::Tensor> additions;
  for (const auto& [weight, bias, channel, value] : absorptions) {
    const auto& filters = get(tensors, weight);
    auto column =
        filters.detach().select(1, channel).to(at::kDouble).reshape({filters.size(0), -1}).sum(1) * value;
    auto& sum = additions[bias];
    sum = sum.defined() ? sum + column : column;
  }
  for (const auto& [bias, addition] : additions) {
    auto target = get(result, bias);
    target.copy_(target.to(at::kDouble) + apply(bias, addition));
  }
  return result;
}

at::Tensor ExtractionPlan::expand(const std::string& name, const at::Tensor& small, double fill) const {
  if (small.dim() == 0) return small;
  const at::NoGradGuard no_grad;
  auto result = small;
  for (auto keep = dims.rbegin(); keep != dims.rend(); ++keep) {
    if (keep->tensor != name) continue;
    check_size(*keep, name, small, static_cast<int64_t>(keep->kept.size()));
    auto sizes = result.sizes().vec();
    sizes[static_cast<std::size_t>(keep->dim)] = keep->original;
    result = at::full(sizes, fill, small.options())
                 .index_copy(keep->dim, index_of(keep->kept, small.device()), result);
  }
  return result.is_same(small) ? small : result.contiguous(small.suggest_memory_format());
}

std::string ExtractionPlan::to_string() const {
  std::ostringstream out;
  std::size_t width = 0;
  std::vector<const DimKeep*> spaces;
  for (const auto& keep : dims) {
    const auto* spec = graph.find_tensor(keep.tensor);
    if (keep.dim != 0 || spec == nullptr || spec->shape.size() < 2) continue;
    spaces.push_back(&keep);
    width = std::max(width, keep.tensor.size());
  }
  for (const auto* keep : spaces)
    out << keep->tensor << std::string(width - keep->tensor.size() + 2, ' ') << keep->kept.size() << " / "
        << keep->original << '\n';
  const auto total = nn::cost(graph);
  out << total.parameters << " parameters, " << total.macs << " MACs\n";
  for (const auto& note : notes) out << "note: " << note << '\n';
  return out.str();
}

std::string ExtractionPlan::to_json() const {
  ordered_json document;
  document["format"] = kFormat;
  document["version"] = 1;
  auto& dim_list = document["dims"] = ordered_json::array();
  for (const auto& keep : dims)
    dim_list.push_back(
        {{"tensor", keep.tensor}, {"dim", keep.dim}, {"original", keep.original}, {"kept", keep.kept}});
  auto& absorption_list = document["absorptions"] = ordered_json::array();
  for (const auto& a : absorptions)
    absorption_list.push_back(
        {{"weight", a.weight}, {"bias", a.bias}, {"channel", a.channel}, {"value", a.value}});
  document["notes"] = notes;
  document["graph"] = ordered_json::parse(graph.to_json());
  return document.dump(1) + "\n";
}

ExtractionPlan ExtractionPlan::from_json(const std::string& text) {
  ExtractionPlan plan;
  std::string where = "extraction plan JSON";
  try {
    const auto document = files::parse_json<ordered_json>(text, where);
    require<DataError>(document.is_object(), where, " is not an object");
    require<DataError>(document.at("format") == kFormat && document.at("version") == 1, where,
                       ": it is not version 1 of '", kFormat, "'");
    plan.graph = nn::Graph::from_json(document.at("graph").dump());
    for (const auto& entry : document.at("dims")) {
      where = str("extraction plan JSON: dims[", plan.dims.size(), "]");
      plan.dims.push_back({entry.at("tensor").get<std::string>(), entry.at("dim").get<int>(),
                           entry.at("original").get<int64_t>(),
                           entry.at("kept").get<std::vector<int64_t>>()});
    }
    for (const auto& entry : document.at("absorptions")) {
      where = str("extraction plan JSON: absorptions[", plan.absorptions.size(), "]");
      plan.absorptions.push_back({entry.at("weight").get<std::string>(), entry.at("bias").get<std::string>(),
                                  entry.at("channel").get<int64_t>(), entry.at("value").get<double>()});
    }
    where = "extraction plan JSON: notes";
    plan.notes = document.at("notes").get<std::vector<std::string>>();
  } catch (const nlohmann::json::exception& error) {
    throw DataError(str(where, ": ", error.what()));
  }

  for (std::size_t i = 0; i < plan.dims.size(); ++i) {
    const auto& keep = plan.dims[i];
    where = str("extraction plan JSON: dims[", i, "] of '", keep.tensor, "'");
    const auto* spec = plan.graph.find_tensor(keep.tensor);
    require<DataError>(spec != nullptr, where, ": the graph has no such tensor");
    require<DataError>(0 <= keep.dim && static_cast<std::size_t>(keep.dim) < spec->shape.size(), where,
                       ": dim ", keep.dim, " is not one of its ", spec->shape.size());
    require<DataError>(
        static_cast<int64_t>(keep.kept.size()) == spec->shape[static_cast<std::size_t>(keep.dim)], where,
        ": ", keep.kept.size(), " indices are kept, but the graph's tensor has ",
        spec->shape[static_cast<std::size_t>(keep.dim)]);
    int64_t last = -1;
    for (const auto index : keep.kept) {
      require<DataError>(last < index && index < keep.original, where, ": index ", index,
                         " is out of order or not below ", keep.original);
      last = index;
    }
  }
  for (std::size_t i = 0; i < plan.absorptions.size(); ++i) {
    const auto& absorption = plan.absorptions[i];
    where = str("extraction plan JSON: absorptions[", i, "]");
    require<DataError>(plan.graph.find_tensor(absorption.weight) != nullptr &&
                           plan.graph.find_tensor(absorption.bias) != nullptr,
                       where, ": the graph has no tensor '", absorption.weight, "' or '", absorption.bias,
                       "'");
    const auto column = std::find_if(plan.dims.begin(), plan.dims.end(), [&](const DimKeep& keep) {
      return keep.tensor == absorption.weight && keep.dim == 1;
    });
    require<DataError>(
        column != plan.dims.end() && 0 <= absorption.channel && absorption.channel < column->original &&
            !std::binary_search(column->kept.begin(), column->kept.end(), absorption.channel),
        where, ": channel ", absorption.channel, " of '", absorption.weight, "' is not a dropped one");
  }
  return plan;
}

double check_extraction(const nn::Graph& graph, const NamedTensors& tensors, const ExtractionPlan& plan,
                        int64_t batch, double tolerance, uint64_t seed) {
  require(batch >= 1, "check_extraction: batch is ", batch);
  const at::NoGradGuard no_grad;
  const auto run = [&](const nn::Graph& network, const NamedTensors& values, const at::Tensor& x) {
    NamedTensors copies;  // in float32, and so that no one's tensors start to require grad
    for (const auto& [name, tensor] : values)
      if (network.find_tensor(name) != nullptr)
        copies.push_back(
            {name, tensor.is_floating_point() ? tensor.detach().to(at::kFloat, false, true) : tensor});
    nn::Model model(network, copies);
    model.train(false);
    return model.forward(x).to(at::kDouble);
  };
  std::vector<int64_t> shape = {batch};
  for (const auto& node : graph.nodes)
    if (node.op == nn::Op::input) {
      const auto sizes = node.integers("shape", {});
      shape.insert(shape.end(), sizes.begin(), sizes.end());
    }
  require(!tensors.empty(), "check_extraction: there are no tensors");
  const auto x = RngStream(seed, "check_extraction").normal(shape).to(tensors.front().tensor.device());
  const auto large = run(graph, tensors, x);
  const auto small = run(plan.graph, plan.apply_all(tensors), x);
  const auto largest = large.abs().max().item<double>();
  const auto scale = largest > 0 ? largest : 1.0;
  const auto difference = (large - small).abs().max().item<double>() / scale;
  require<Error>(tolerance == 0 || difference <= tolerance,
                 "check_extraction: outputs of the small network differ by ", difference,
                 " relative, more than ", tolerance,
                 "; the weights may be too large for float32, or allow_inexact dropped live channels");
  return difference;
}

}  // namespace glyptic::sparsity
