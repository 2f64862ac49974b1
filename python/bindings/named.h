// Named tensors as Python sees them: a list of (name, tensor).
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

#include "glyptic/core/named_tensor.h"

namespace glyptic {

using NamedList = std::vector<std::pair<std::string, at::Tensor>>;

inline NamedTensors to_named(const NamedList& list) {
  NamedTensors result;
  for (const auto& [name, tensor] : list) result.push_back({name, tensor});
  return result;
}

inline NamedList to_pairs(const NamedTensors& list) {
  NamedList result;
  for (const auto& entry : list) result.emplace_back(entry.name, entry.tensor);
  return result;
}

}  // namespace glyptic
