// Launchers of the CUDA kernels: move the tables to the device and start on the current stream. Present only
// in builds with CUDA.
#pragma once

#include "../support.h"
#include "glyptic/kernels/ascend.h"
#include "glyptic/kernels/channel_gather.h"
#include "glyptic/kernels/channel_scores.h"
#include "glyptic/kernels/inner_products.h"
#include "glyptic/kernels/mask_apply.h"
#include "glyptic/kernels/mask_update.h"
#include "glyptic/kernels/masked_adamw.h"
#include "glyptic/kernels/masked_sgd.h"
#include "glyptic/kernels/noise_ascend.h"
#include "glyptic/kernels/philox_fill.h"
#include "glyptic/kernels/pixel_noise.h"
#include "glyptic/kernels/topk.h"

namespace glyptic::ops::cuda {

void masked_sgd(at::Device device, const Table<kernels::SgdEntry>& table, const kernels::SgdScalars& scalars);
/// scalars.table is in host memory here.
void masked_adamw(at::Device device, const Table<kernels::AdamEntry>& table,
                  const kernels::AdamScalars& scalars);
void mask_apply(at::Device device, const Table<kernels::MaskApplyEntry>& table);
/// `counts`: int64 [entries, 3] on the device, zero.
void mask_update(at::Device device, const Table<kernels::MaskUpdateEntry>& table,
                 const std::vector<kernels::MaskUpdateArray>& arrays, const at::Tensor& counts);
void channel_scores(at::Device device, const Table<kernels::RowEntry>& table, kernels::RowScore score);
void channel_gather(at::Device device, const kernels::GatherArgs& args);
void philox_fill(at::Device device, const kernels::FillArgs& args);
/// Return float64 [3] on the device (aa, ab, bb of inner_products.h).
at::Tensor inner_products(at::Device device, const Table<kernels::ProductsEntry>& table, double eta);
at::Tensor ema_direction(at::Device device, const Table<kernels::EmaEntry>& table,
                         const kernels::EmaScalars& scalars);
/// scalars.streams in host memory; `coefficients` on the device takes the place of scalars.coefficients.
at::Tensor noise_ascend(at::Device device, const Table<kernels::NoiseEntry>& table,
                        const kernels::NoiseScalars& scalars, const at::Tensor& coefficients);
/// `norm`, `coefficients`: float64 on the device.
void ascend(at::Device device, const Table<kernels::AscendEntry>& table,
            const kernels::AscendScalars& scalars, const at::Tensor& norm);
void combine(at::Device device, const Table<kernels::CombineEntry>& table, const at::Tensor& coefficients);
/// All pointers in device memory.
void pixel_noise(at::Device device, const kernels::PixelNoiseArgs& args);
/// task.k in host memory. The report is read back at the end: the one synchronisation, after the select.
std::vector<kernels::TopKReport> topk(at::Device device, const Table<kernels::TopKEntry>& table,
                                      const kernels::TopKTask& task);

}  // namespace glyptic::ops::cuda
