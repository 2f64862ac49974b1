#include "glyptic/core/distributed.h"

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <algorithm>

#include "glyptic/core/error.h"

namespace glyptic {

namespace {

c10::intrusive_ptr<c10d::ProcessGroup> resolve(const std::string& group) {
  try {
    return c10d::resolve_process_group(group);
  } catch (const c10::Error&) {
    throw ArgumentError(str("there is no process group called '", group,
                            "'; call torch.distributed.init_process_group() first and pass its group_name"));
  }
}

/// Tensors of one type and device travel together: many short messages cost more than their bytes.
std::vector<std::vector<at::Tensor>> by_kind(const std::vector<at::Tensor>& tensors) {
  std::vector<std::vector<at::Tensor>> kinds;
  for (const auto& tensor : tensors) {
    if (!tensor.defined()) continue;
    const auto same = std::find_if(kinds.begin(), kinds.end(), [&](const auto& kind) {
      return kind[0].scalar_type() == tensor.scalar_type() && kind[0].device() == tensor.device();
    });
    if (same == kinds.end())
      kinds.push_back({tensor});
    else
      same->push_back(tensor);
  }
  return kinds;
}

/// call(flat) on all tensors of a kind joined, whose result is written back.
template <class Call>
void together(const std::vector<at::Tensor>& tensors, const Call& call) {
  const at::NoGradGuard no_grad;
  for (const auto& kind : by_kind(tensors)) {
    std::vector<at::Tensor> flat;
    for (const auto& tensor : kind) flat.push_back(tensor.detach().reshape({-1}));
    const auto joined = at::cat(flat);
    call(joined);
    int64_t at = 0;
    for (const auto& tensor : kind) {
      tensor.detach().copy_(joined.slice(0, at, at + tensor.numel()).view(tensor.sizes()));
      at += tensor.numel();
    }
  }
}

template <class Call>
void reaching_all(const Call& call) {
  try {
    call();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    const std::string what = error.what();
    throw Error(
        str("another process of this run cannot be reached: it ended or did not answer in time; see its "
            "own message, then continue with: torchrun ... glyptic resume FOLDER (",
            what.substr(0, what.find('\n')), ")"));
  }
}

Ranks& own_ranks() {
  static Ranks ranks;
  return ranks;
}

}  // namespace

const Ranks& ranks() {
  return own_ranks();
}

void set_ranks(Ranks ranks) {
  require(ranks.size >= 1 && ranks.rank >= 0 && ranks.rank < ranks.size, "set_ranks: rank ", ranks.rank,
          " of ", ranks.size);
  if (ranks.size > 1) resolve(ranks.group);
  own_ranks() = std::move(ranks);
}

void wait_for_all() {
  if (ranks().several()) all_reduce_sum(at::zeros({1}), ranks().group);
}

void all_reduce_sum(const at::Tensor& tensor, const std::string& group) {
  const auto process_group = resolve(group);
  reaching_all([&] {
    std::vector<at::Tensor> one{tensor};
    process_group->allreduce(one)->wait();
  });
}

void all_reduce_mean(const std::vector<at::Tensor>& tensors, const std::string& group) {
  const auto process_group = resolve(group);
  together(tensors, [&](const at::Tensor& joined) {
    all_reduce_sum(joined, group);
    // Gloo has no average; dividing the sum gives every rank the same bits.
    joined.div_(process_group->getSize());
  });
}

void broadcast(const std::vector<at::Tensor>& tensors, const std::string& group) {
  const auto process_group = resolve(group);
  together(tensors, [&](const at::Tensor& joined) {
    reaching_all([&] {
      std::vector<at::Tensor> one{joined};
      process_group->broadcast(one)->wait();
    });
  });
}

}  // namespace glyptic
