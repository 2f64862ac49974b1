#include "glyptic/core/distributed.h"

#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

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

}  // namespace

void all_reduce_mean(const std::vector<at::Tensor>& tensors, const std::string& group) {
  const auto process_group = resolve(group);
  for (const auto& tensor : tensors) {
    if (!tensor.defined()) continue;
    std::vector<at::Tensor> one{tensor};
    process_group->allreduce(one)->wait();
    // Gloo has no average; dividing the sum gives every rank the same bits.
    tensor.div_(process_group->getSize());
  }
}

void broadcast(const std::vector<at::Tensor>& tensors, const std::string& group) {
  const auto process_group = resolve(group);
  for (const auto& tensor : tensors) {
    std::vector<at::Tensor> one{tensor};
    process_group->broadcast(one)->wait();
  }
}

}  // namespace glyptic
