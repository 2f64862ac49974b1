// What the operators share: checks at the door, the choice of a path, and tables of entries for the kernels.
// Internal to src/ops.
#pragma once

#include <torch/library.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "glyptic/core/error.h"
#include "glyptic/core/named_tensor.h"
#include "glyptic/kernels/chunks.h"
#include "glyptic/ops/ops.h"

namespace glyptic::ops {

/// What a list must hold, relative to the list it goes with.
struct ListRule {
  bool may_be_empty = false;
  bool same_dtype = false;
  std::optional<at::ScalarType> dtype;
};

/// The first list of an operator: every tensor defined, strided, all of different storage.
void check_first(const char* op, const char* name, const TensorList& list);
/// Another list: one tensor per tensor of `model`, of the same shape and device.
void check_like(const char* op, const char* name, const TensorList& list, const char* model_name,
                const TensorList& model, const ListRule& rule);
/// One tensor, called name[i] in messages: defined and strided; of the shape and device of another.
void check_strided(const char* op, const char* name, std::size_t i, const at::Tensor& tensor);
void check_matches(const char* op, const char* name, std::size_t i, const at::Tensor& tensor,
                   const char* model_name, std::size_t model_i, const at::Tensor& model);
void check_floating(const char* op, const char* name, const TensorList& list);
void check_finite(const char* op, const char* name, double value);

/// True where both are dense without overlap and walk memory in the same order.
bool same_layout(const at::Tensor& a, const at::Tensor& b);

/// Which implementation serves a tensor: our kernels for the CPU or the GPU, the composite, or (on the meta
/// device) none, after the checks.
enum class Path { cpu, cuda, composite, meta };
Path path_of(const at::Tensor& tensor);

/// Tells autograd that our kernels wrote to a tensor.
void mark_changed(const at::Tensor& tensor);

/// Threads for work on so many elements: one where waking others would cost more than they save.
int thread_count(int64_t elements);

/// Entries for one kernel call, with the chunks they are cut into.
template <class Entry>
struct Table {
  std::vector<Entry> entries;
  std::vector<int64_t> first;
  int64_t chunk = 0;
  int64_t elements = 0;

  bool empty() const { return entries.empty(); }
  int64_t chunks() const { return first.back(); }
  template <class Size>
  void cut(int64_t elements_per_chunk, Size size) {
    chunk = elements_per_chunk;
    elements = 0;
    for (const auto& entry : entries) elements += size(entry);
    first.resize(entries.size() + 1);
    kernels::number_chunks(
        static_cast<int64_t>(entries.size()), chunk,
        [&](int64_t i) { return size(entries[static_cast<std::size_t>(i)]); }, first.data());
  }
  int threads() const { return thread_count(elements); }
  kernels::ChunkMap map() const { return {first.data(), static_cast<int64_t>(entries.size()), chunk}; }
};

/// Elements per chunk of the elementwise kernels: 0.1 to 1 MB of traffic on the CPU, enough for a block on
/// the GPU.
constexpr int64_t kCpuChunk = 32768;
constexpr int64_t kCudaChunk = 8192;

inline const uint8_t* mask_data(const at::Tensor& mask) {
  return reinterpret_cast<const uint8_t*>(mask.const_data_ptr<bool>());
}

/// "float32", "bool", ... as Python writes them.
std::string dtype_name(at::ScalarType type);

bool score_reads_b(Score score);

/// Sorts the tensors of a call by where they are computed: `add(i, table)` appends entry i to a table.
template <class Entry>
struct Plan {
  Table<Entry> cpu;
  std::map<c10::DeviceIndex, Table<Entry>> cuda;
  std::vector<std::size_t> composite;

  Table<Entry>* table(const at::Tensor& tensor, bool dense) {
    const Path path = path_of(tensor);
    if (dense && path == Path::cpu) return &cpu;
    if (dense && path == Path::cuda) return &cuda[tensor.get_device()];
    return nullptr;
  }
};

inline TensorList pick(const TensorList& list, const std::vector<std::size_t>& indices) {
  TensorList result;
  if (list.empty()) return result;
  for (const auto i : indices) result.push_back(list[i]);
  return result;
}

template <class T>
T* data_of(const at::Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

inline bool is_meta(const TensorList& list) {
  return !list.empty() && list[0].is_meta();
}

template <class Entry>
int64_t size_of(const Entry& entry) {
  return entry.size;
}

// ---- composites

/// x where the mask is true or there is none, +0 elsewhere.
inline at::Tensor kept(const at::Tensor& mask, const at::Tensor& value) {
  return mask.defined() ? at::where(mask, value, at::zeros({}, value.options())) : value;
}

/// What products and sums of a type are computed in.
inline at::ScalarType wide_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

// ---- registration

inline TensorList list(at::TensorList tensors) {
  return tensors.vec();
}

/// Distribution, as Python writes it.
constexpr const char* kDistributions[] = {"uniform", "normal", "rademacher"};

/// The value of an enumeration that a word names; ArgumentError that lists all words.
template <class Enum, std::size_t n>
Enum named(const char* op, const char* argument, c10::string_view name, const char* const (&names)[n]) {
  for (std::size_t i = 0; i < n; ++i)
    if (name == names[i]) return static_cast<Enum>(i);
  std::string all;
  for (std::size_t i = 0; i < n; ++i) all += (i ? ", " : "") + std::string(names[i]);
  throw ArgumentError(str(op, ": ", argument, " is '", std::string(name), "', expected one of ", all));
}

}  // namespace glyptic::ops
