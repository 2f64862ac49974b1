// Chase: channel-aware dynamic sparse training (arXiv 2305.19454, NeurIPS 2023; the rules are those of the
// released code, of which the paper's method section was not at hand). Unstructured dynamic sparse training
// with a global drop and grow and a soft memory bound; meanwhile the channels that it leaves sparse are
// removed for good, so that the network at the end is a smaller dense-shaped one.
#pragma once

#include <vector>

#include "glyptic/sparsity/sparsifier.h"

namespace glyptic::sparsity {

/// Channels of one group: rows of the active weight, read as input slices by the passive ones.
struct ChannelState {
  nn::ChannelGroup group;
  at::Tensor alive;  ///< bool [C] on the CPU
  int64_t live = 0;
  int64_t floor = 1;  ///< m_a = max(1, floor(C (1 - S_c) beta))
};

/// Removes the channels with the smallest score, over all groups at once, until `target` are left in total; a
/// group never falls below its floor. Returns, per group, the channels that go. Ties: group order, then
/// index.
std::vector<std::vector<int64_t>> rank_channels(const std::vector<ChannelState>& channels,
                                                const std::vector<at::Tensor>& scores, int64_t target);

class Chase final : public Method {
 public:
  Chase(const SparsityOptions& options, const std::vector<Layer>& layers,
        const std::vector<nn::ChannelGroup>& groups);

  bool due(int64_t step) const override;
  void update(EventContext& event) override;
  NamedTensors liveness() const override;
  NamedTensors state() const override;
  void load_state(const NamedTensors& state) override;

  /// r(t), the share of the B0 grouped channels that is gone after a removal at `step`.
  double channel_rate(int64_t step) const;
  /// b(t), the share of all prunable weights that the network may hold after an exploration at `step`.
  double soft_bound(int64_t step) const;
  const std::vector<ChannelState>& channels() const { return channels_; }

 private:
  bool removal_due(int64_t step) const;
  bool exploration_due(int64_t step) const;
  void remove_channels(EventContext& event);
  void explore_soft(EventContext& event);
  void explore_hard(EventContext& event);
  void grow_to(EventContext& event, int64_t count);
  ops::TensorList dead_positions(const std::vector<Layer>& layers) const;

  std::vector<ChannelState> channels_;
  int64_t total_channels_ = 0;           ///< B0
  int64_t total_weights_ = 0;            ///< N
  int64_t target_ = 0;                   ///< K*
  int64_t channel_end_ = 0;              ///< T_c
  int64_t hard_begin_ = 0;               ///< T - T_dst
  bool explore_at_channel_end_ = false;  ///< no exploration falls between T_c and the end
};

MethodInfo chase_info();

}  // namespace glyptic::sparsity
