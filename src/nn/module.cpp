#include "glyptic/nn/module.h"

#include <torch/torch.h>

#include <unordered_set>

namespace glyptic::nn {
namespace {

NamedTensors distinct(const torch::OrderedDict<std::string, at::Tensor>& tensors) {
  NamedTensors list;
  std::unordered_set<const at::TensorImpl*> seen;
  for (const auto& item : tensors)
    if (item.value().defined() && seen.insert(item.value().unsafeGetTensorImpl()).second)
      list.push_back({item.key(), item.value()});
  return list;
}

}  // namespace

NamedTensors named_parameters(const torch::nn::Module& module) {
  return distinct(module.named_parameters());
}
NamedTensors named_buffers(const torch::nn::Module& module) {
  return distinct(module.named_buffers());
}

}  // namespace glyptic::nn
