// Processes that train together, through torch's own c10d. A group is named, as `torch.distributed` names it
// (`torch.distributed.group.WORLD.group_name` in Python); a plain C++ program is one process unless its owner
// registers a group under a name with c10d::register_process_group.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace glyptic {

/// Replaces each tensor by its mean over the ranks of `group`, in place. ArgumentError for an unknown group.
void all_reduce_mean(const std::vector<at::Tensor>& tensors, const std::string& group);

/// Replaces each tensor by that of rank 0.
void broadcast(const std::vector<at::Tensor>& tensors, const std::string& group);

}  // namespace glyptic
