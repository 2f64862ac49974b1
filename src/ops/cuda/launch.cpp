#include "launch.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/torch.h>

namespace glyptic::ops::cuda {

namespace {

/// Several host arrays copied to the device in one transfer from pinned memory. The device memory belongs to
/// the caching allocator and may be released right after the launch: the allocator reuses it in stream order.
class Upload {
 public:
  template <class T>
  std::size_t add(const std::vector<T>& values) {
    return add(values.data(), values.size() * sizeof(T));
  }
  std::size_t add(const void* data, std::size_t bytes) {
    const std::size_t at = (bytes_.size() + 15) / 16 * 16;
    bytes_.resize(at + bytes);
    if (bytes) std::memcpy(bytes_.data() + at, data, bytes);
    return at;
  }
  void send(at::Device device) {
    const auto size = static_cast<int64_t>(std::max<std::size_t>(bytes_.size(), 1));
    const auto host = at::empty({size}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
    std::memcpy(host.data_ptr(), bytes_.data(), bytes_.size());
    device_ = at::empty({size}, at::TensorOptions().dtype(at::kByte).device(device));
    device_.copy_(host, /*non_blocking=*/true);
  }
  template <class T>
  const T* get(std::size_t at) const {
    return reinterpret_cast<const T*>(static_cast<const char*>(device_.const_data_ptr()) + at);
  }

 private:
  std::vector<char> bytes_;
  at::Tensor device_;
};

void* stream_of(at::Device device) {
  return static_cast<void*>(c10::cuda::getCurrentCUDAStream(device.index()).stream());
}

/// Uploads the table and calls launch(entries, map) with device pointers, if there is anything to do.
template <class Entry, class Launch>
void with_table(at::Device device, const Table<Entry>& table, const Launch& launch) {
  if (table.chunks() == 0) return;
  const c10::cuda::CUDAGuard guard(device);
  Upload upload;
  const auto entries = upload.add(table.entries);
  const auto first = upload.add(table.first);
  upload.send(device);
  auto map = table.map();
  map.first = upload.get<int64_t>(first);
  launch(upload.get<Entry>(entries), map, stream_of(device));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

void masked_sgd(at::Device device, const Table<kernels::SgdEntry>& table,
                const kernels::SgdScalars& scalars) {
  with_table(device, table, [&](const auto* entries, kernels::ChunkMap map, void* stream) {
    kernels::cuda::masked_sgd(entries, map, table.chunks(), scalars,
                              kernels::sgd_flags(table.entries.front(), scalars), stream);
  });
}

void masked_adamw(at::Device device, const Table<kernels::AdamEntry>& table,
                  const kernels::AdamScalars& scalars) {
  with_table(device, table, [&](const auto* entries, kernels::ChunkMap map, void* stream) {
    auto on_device = scalars;
    Upload corrections;
    if (scalars.table) {
      const auto at = corrections.add(
          scalars.table, static_cast<std::size_t>(scalars.table_size) * sizeof(kernels::AdamCorrection));
      corrections.send(device);
      on_device.table = corrections.get<kernels::AdamCorrection>(at);
    }
    kernels::cuda::masked_adamw(entries, map, table.chunks(), on_device,
                                kernels::adam_flags(table.entries.front(), scalars), stream);
  });
}

void mask_apply(at::Device device, const Table<kernels::MaskApplyEntry>& table) {
  with_table(device, table, [&](const auto* entries, kernels::ChunkMap map, void* stream) {
    kernels::cuda::mask_apply(entries, map, table.chunks(), stream);
  });
}

void mask_update(at::Device device, const Table<kernels::MaskUpdateEntry>& table,
                 const std::vector<kernels::MaskUpdateArray>& arrays, const at::Tensor& counts) {
  with_table(device, table, [&](const auto* entries, kernels::ChunkMap map, void* stream) {
    Upload upload;
    const auto at = upload.add(arrays);
    upload.send(device);
    kernels::cuda::mask_update(entries, upload.get<kernels::MaskUpdateArray>(at), map, table.chunks(),
                               counts.data_ptr<int64_t>(), stream);
  });
}

void channel_scores(at::Device device, const Table<kernels::RowEntry>& table, kernels::RowScore score) {
  with_table(device, table, [&](const auto* entries, kernels::ChunkMap map, void* stream) {
    kernels::cuda::channel_scores(entries, map, table.chunks(), score, stream);
  });
}

void channel_gather(at::Device device, const kernels::GatherArgs& args) {
  const c10::cuda::CUDAGuard guard(device);
  kernels::cuda::channel_gather(args, stream_of(device));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

void philox_fill(at::Device device, const kernels::FillArgs& args) {
  const c10::cuda::CUDAGuard guard(device);
  kernels::cuda::philox_fill(args, stream_of(device));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

namespace {

/// launch(entries, map, sums, total, stream) for a reduction: `sums` one per chunk, `total` three float64.
template <class Entry, class Launch>
at::Tensor reduced(at::Device device, const Table<Entry>& table, const Launch& launch) {
  const auto doubles = at::TensorOptions().dtype(at::kDouble).device(device);
  at::Tensor total = at::zeros({3}, doubles);
  const at::Tensor sums = at::empty({3 * table.chunks()}, doubles);
  with_table(device, table, [&](const auto* entries, kernels::ChunkMap map, void* stream) {
    launch(entries, map, reinterpret_cast<kernels::ProductSums*>(sums.data_ptr<double>()),
           reinterpret_cast<kernels::ProductSums*>(total.data_ptr<double>()), stream);
  });
  return total;
}

}  // namespace

at::Tensor inner_products(at::Device device, const Table<kernels::ProductsEntry>& table, double eta) {
  return reduced(device, table, [&](const auto* entries, auto map, auto* sums, auto* total, void* stream) {
    kernels::cuda::inner_products(entries, map, table.chunks(), eta, sums, total, stream);
  });
}

at::Tensor ema_direction(at::Device device, const Table<kernels::EmaEntry>& table,
                         const kernels::EmaScalars& scalars) {
  return reduced(device, table, [&](const auto* entries, auto map, auto* sums, auto* total, void* stream) {
    kernels::cuda::ema_direction(entries, map, table.chunks(), scalars, sums, stream);
    kernels::cuda::total_products(sums, table.chunks(), total, stream);
  });
}

at::Tensor noise_ascend(at::Device device, const Table<kernels::NoiseEntry>& table,
                        const kernels::NoiseScalars& scalars, const at::Tensor& coefficients) {
  return reduced(device, table, [&](const auto* entries, auto map, auto* sums, auto* total, void* stream) {
    Upload upload;
    const auto streams =
        upload.add(scalars.streams, static_cast<std::size_t>(scalars.draws) * sizeof(uint64_t));
    upload.send(device);
    auto on_device = scalars;
    on_device.streams = upload.get<uint64_t>(streams);
    on_device.coefficients = coefficients.const_data_ptr<double>();
    kernels::cuda::noise_ascend(entries, map, table.chunks(), on_device, sums, stream);
    kernels::cuda::total_products(sums, table.chunks(), total, stream);
  });
}

void ascend(at::Device device, const Table<kernels::AscendEntry>& table,
            const kernels::AscendScalars& scalars, const at::Tensor& norm) {
  with_table(device, table, [&](const auto* entries, kernels::ChunkMap map, void* stream) {
    kernels::cuda::ascend(entries, map, table.chunks(), scalars, norm.const_data_ptr<double>(), stream);
  });
}

void combine(at::Device device, const Table<kernels::CombineEntry>& table, const at::Tensor& coefficients) {
  with_table(device, table, [&](const auto* entries, kernels::ChunkMap map, void* stream) {
    kernels::cuda::combine(entries, map, table.chunks(), coefficients.const_data_ptr<double>(), stream);
  });
}

void pixel_noise(at::Device device, const kernels::PixelNoiseArgs& args) {
  const c10::cuda::CUDAGuard guard(device);
  kernels::cuda::pixel_noise(args, stream_of(device));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

std::vector<kernels::TopKReport> topk(at::Device device, const Table<kernels::TopKEntry>& table,
                                      const kernels::TopKTask& task) {
  const int64_t groups = task.global ? 1 : task.count;
  std::vector<kernels::TopKReport> report(static_cast<std::size_t>(groups));
  if (groups == 0) return report;
  const c10::cuda::CUDAGuard guard(device);
  Upload upload;
  const auto entries = upload.add(table.entries);
  const auto first = upload.add(table.first);
  const auto k = upload.add(task.k, static_cast<std::size_t>(groups) * sizeof(int64_t));
  upload.send(device);
  const auto bytes = at::TensorOptions().dtype(at::kByte).device(device);
  const auto scratch = at::empty({kernels::cuda::topk_scratch_bytes(groups, table.chunks())}, bytes);
  const auto on_device = at::empty({groups * static_cast<int64_t>(sizeof(kernels::TopKReport))}, bytes);
  auto map = table.map();
  map.first = upload.get<int64_t>(first);
  auto device_task = task;
  device_task.entries = upload.get<kernels::TopKEntry>(entries);
  device_task.k = upload.get<int64_t>(k);
  kernels::cuda::topk(device_task, map, table.chunks(),
                      static_cast<kernels::TopKReport*>(on_device.data_ptr()), scratch.data_ptr(),
                      stream_of(device));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  const auto host = on_device.cpu();
  std::memcpy(report.data(), host.const_data_ptr(), static_cast<std::size_t>(host.numel()));
  return report;
}

}  // namespace glyptic::ops::cuda
