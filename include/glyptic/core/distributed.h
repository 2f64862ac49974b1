// Processes that train together, through torch's own c10d. A group is named, as `torch.distributed` names it
// (`torch.distributed.group.WORLD.group_name` in Python); a plain C++ program is one process unless its owner
// registers a group under a name with c10d::register_process_group.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace glyptic {

/// The processes that a run of the command line is made of: one, unless somebody says otherwise (under
/// torchrun the Python entry point does, which also makes the group).
struct Ranks {
  std::string group;
  int rank = 0;
  int size = 1;
  bool leads() const { return rank == 0; }
  bool several() const { return size > 1; }
};
const Ranks& ranks();
/// ArgumentError unless 0 <= rank < size, and for several ranks without a known group.
void set_ranks(Ranks ranks);
/// Returns when all ranks have come here; at once when there is one.
void wait_for_all();

// A rank that cannot be reached (it ended, or did not answer within the group's timeout) is an Error that
// says so.

/// Replaces each tensor by its mean over the ranks of `group`, in place. ArgumentError for an unknown group.
void all_reduce_mean(const std::vector<at::Tensor>& tensors, const std::string& group);

/// Replaces a tensor by its sum over the ranks of `group`.
void all_reduce_sum(const at::Tensor& tensor, const std::string& group);

/// Replaces each tensor by that of rank 0.
void broadcast(const std::vector<at::Tensor>& tensors, const std::string& group);

}  // namespace glyptic
