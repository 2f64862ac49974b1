#include "glyptic/core/named_tensor.h"

#include <torch/torch.h>

#include <unordered_set>

#include "glyptic/core/error.h"

namespace glyptic {

const at::Tensor* find(const NamedTensors& tensors, const std::string& name) {
  for (const auto& entry : tensors)
    if (entry.name == name) return &entry.tensor;
  return nullptr;
}

const at::Tensor& get(const NamedTensors& tensors, const std::string& name) {
  if (const auto* found = find(tensors, name)) return *found;
  std::vector<std::string> names;
  for (const auto& entry : tensors) names.push_back(entry.name);
  throw ArgumentError(str("no tensor is called '", name, "'", did_you_mean(name, names)));
}

std::string shape_string(at::IntArrayRef sizes) {
  std::ostringstream out;
  out << '[';
  for (std::size_t i = 0; i < sizes.size(); ++i) out << (i ? ", " : "") << sizes[i];
  out << ']';
  return out.str();
}

void check_names(const NamedTensors& tensors, const char* what) {
  std::unordered_set<std::string> seen;
  for (const auto& entry : tensors) {
    require(entry.tensor.defined(), what, ": tensor '", entry.name, "' is undefined");
    require(seen.insert(entry.name).second, what, ": two tensors are called '", entry.name, "'");
  }
}

at::Tensor aligned_copy(const at::Tensor& tensor) {
  auto copy = at::empty(tensor.sizes(), tensor.options().memory_format(at::MemoryFormat::Contiguous));
  copy.copy_(tensor);
  return copy;
}

namespace {

std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t up = row[j];
      const bool same = std::tolower(static_cast<unsigned char>(a[i - 1])) ==
                        std::tolower(static_cast<unsigned char>(b[j - 1]));
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (same ? 0 : 1)});
      diagonal = up;
    }
  }
  return row.back();
}

}  // namespace

std::vector<std::string> nearest(const std::string& word, const std::vector<std::string>& candidates,
                                 std::size_t most) {
  std::vector<std::pair<std::size_t, std::string>> scored;
  for (const auto& candidate : candidates) {
    const auto distance = edit_distance(word, candidate);
    const bool prefix = word.size() >= 3 && candidate.rfind(word, 0) == 0;
    if (prefix || distance <= std::max<std::size_t>(1, std::min(word.size(), candidate.size()) / 3))
      scored.emplace_back(distance, candidate);
  }
  std::sort(scored.begin(), scored.end());
  std::vector<std::string> result;
  for (const auto& entry : scored)
    if (result.size() < most) result.push_back(entry.second);
  return result;
}

std::string did_you_mean(const std::string& word, const std::vector<std::string>& candidates) {
  return did_you_mean(nearest(word, candidates));
}

std::string did_you_mean(const std::vector<std::string>& names) {
  if (names.empty()) return "";
  std::string text = "; did you mean ";
  for (std::size_t i = 0; i < names.size(); ++i)
    text += (i == 0 ? "'" : i + 1 == names.size() ? " or '" : ", '") + names[i] + "'";
  return text + "?";
}

}  // namespace glyptic
