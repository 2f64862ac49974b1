#include "support.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <unordered_set>

namespace glyptic::ops {

void check_first(const char* op, const char* name, const TensorList& list) {
  std::unordered_set<const void*> seen;
  for (std::size_t i = 0; i < list.size(); ++i) {
    check_strided(op, name, i, list[i]);
    if (list[i].is_meta() || list[i].numel() == 0) continue;
    require(seen.insert(list[i].const_data_ptr()).second, op, ": ", name, "[", i,
            "] is the memory of an earlier tensor of the list; list a tied weight once");
  }
}

void check_strided(const char* op, const char* name, std::size_t i, const at::Tensor& tensor) {
  require(tensor.defined(), op, ": ", name, "[", i, "] is undefined");
  require(tensor.layout() == at::kStrided, op, ": ", name, "[", i, "] is sparse, expected a strided tensor");
}

void check_matches(const char* op, const char* name, std::size_t i, const at::Tensor& tensor,
                   const char* model_name, std::size_t model_i, const at::Tensor& model) {
  // Messages are composed only when needed: this runs for every tensor of every step. Symbolic sizes let the
  // same check serve torch.compile with dynamic shapes.
  if (!tensor.sym_sizes().equals(model.sym_sizes())) [[unlikely]]
    throw ArgumentError(str(op, ": ", name, "[", i, "] has shape ", shape_string(tensor.sizes()), ", but ",
                            model_name, "[", model_i, "] has ", shape_string(model.sizes())));
  if (tensor.device() != model.device()) [[unlikely]]
    throw ArgumentError(str(op, ": ", name, "[", i, "] is on ", tensor.device().str(), ", but ", model_name,
                            "[", model_i, "] is on ", model.device().str()));
}

void check_like(const char* op, const char* name, const TensorList& list, const char* model_name,
                const TensorList& model, const ListRule& rule) {
  if (list.empty() && rule.may_be_empty) return;
  require(list.size() == model.size(), op, ": ", name, " has ", list.size(), " tensors, but ", model_name,
          " has ", model.size(),
          rule.may_be_empty ? "; expected one each, or none at all" : "; expected one each");
  for (std::size_t i = 0; i < list.size(); ++i) {
    const auto& t = list[i];
    const auto& m = model[i];
    check_strided(op, name, i, t);
    check_matches(op, name, i, t, model_name, i, m);
    if (rule.same_dtype && t.scalar_type() != m.scalar_type()) [[unlikely]]
      throw ArgumentError(str(op, ": ", name, "[", i, "] is ", dtype_name(t.scalar_type()), ", but ",
                              model_name, "[", i, "] is ", dtype_name(m.scalar_type())));
    if (rule.dtype && t.scalar_type() != *rule.dtype) [[unlikely]]
      throw ArgumentError(str(op, ": ", name, "[", i, "] is ", dtype_name(t.scalar_type()), ", expected ",
                              dtype_name(*rule.dtype)));
  }
}

void check_floating(const char* op, const char* name, const TensorList& list) {
  for (std::size_t i = 0; i < list.size(); ++i)
    if (!list[i].is_floating_point()) [[unlikely]]
      throw ArgumentError(str(op, ": ", name, "[", i, "] is ", dtype_name(list[i].scalar_type()),
                              ", expected a floating-point type"));
}

void check_finite(const char* op, const char* name, double value) {
  require(std::isfinite(value), op, ": ", name, " is ", value, ", expected a finite number");
}

bool same_layout(const at::Tensor& a, const at::Tensor& b) {
  if (!a.is_non_overlapping_and_dense() || !b.is_non_overlapping_and_dense()) return false;
  for (int64_t d = 0; d < a.dim(); ++d)
    if (a.size(d) != 1 && a.stride(d) != b.stride(d)) return false;
  return true;
}

Path path_of(const at::Tensor& tensor) {
  if (tensor.is_meta()) return Path::meta;
  if (tensor.is_cpu()) return Path::cpu;
#ifdef GLYPTIC_WITH_CUDA
  if (tensor.is_cuda()) return Path::cuda;
#endif
  return Path::composite;
}

void mark_changed(const at::Tensor& tensor) {
  if (!tensor.is_inference()) tensor.unsafeGetTensorImpl()->bump_version();
}

int thread_count(int64_t elements) {
  return elements <= kCpuChunk ? 1 : at::get_num_threads();
}

std::string dtype_name(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return "float32";
    case at::kDouble:
      return "float64";
    case at::kHalf:
      return "float16";
    case at::kBFloat16:
      return "bfloat16";
    case at::kBool:
      return "bool";
    case at::kByte:
      return "uint8";
    case at::kChar:
      return "int8";
    case at::kShort:
      return "int16";
    case at::kInt:
      return "int32";
    case at::kLong:
      return "int64";
    default:
      return c10::toString(type);
  }
}

bool score_reads_b(Score score) {
  return score == Score::mest || score == Score::taylor;
}

}  // namespace glyptic::ops
