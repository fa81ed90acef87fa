// What the direct convolution is asked to compute, and who computes it. No torch, no templates of
// the standard library: the files that include engine.h are compiled for particular processors, and
// nothing they share with others may be.
#pragma once

#include "../options.h"
#include "pixel_plan.h"

namespace deeplab {

// Runs body(i, context) for i in [0, count), on several threads where there are any.
struct Parallel {
  int threads;
  void (*run)(Index count, void (*body)(Index, void*), void* context);
};

// Threads that work through the same phases together. Each begins with its own part of a phase's
// items, the same part every time, whose memory is in its cache; then it helps the others; and a
// phase ends when all its items are done. One entry into the thread pool thus serves a whole
// convolution, and a thread that the system has put aside holds up nobody but by the item that it
// is at. Nothing is waited for that another thread does not already work on, so members may come
// one after the other, or not at all.
class Team {
 public:
  static constexpr int kMostMembers = 64;

  explicit Team(Index members) : members(members) {}

  // The next item of member m's, of those before `end`, or -1.
  Index claim(Index m, Index end);
  void finish(Index m);
  // Until `count` items have been finished by all members together.
  void wait(Index count) const;

  // The arithmetic does not suit the numbers; members see it after the phase in which it was said.
  void decline();
  bool declined() const;

  const Index members;

 private:
  // A cache line of its own for each.
  struct alignas(64) Counter {
    Index value = 0;
  };
  Counter claimed_[kMostMembers];
  Counter finished_[kMostMembers];
  alignas(64) bool declined_ = false;
};

// One thread of a team. Every member goes through the same phases.
class Member {
 public:
  Member(Team& team, Index index, unsigned char* shared, unsigned char* own)
      : shared(shared), own(own), team_(team), index_(index) {}

  // One phase: f(i) for i in [0, count), shared out among the members.
  template <typename F>
  void each(Index count, const F& f) {
    each_unfinished(count, f);
    team_.wait(done_);
  }

  // The same for a phase that the next one does not build upon.
  template <typename F>
  void each_unfinished(Index count, const F& f) {
    const Index members = team_.members;
    for (Index i = 0; i < members; ++i) {
      const Index m = (index_ + i) % members;
      const Index first = count * m / members, size = count * (m + 1) / members - first;
      for (Index item; (item = team_.claim(m, before_[m] + size)) >= 0;) {
        f(first + item - before_[m]);
        team_.finish(index_);
      }
      before_[m] += size;
    }
    done_ += count;
  }

  void decline() { team_.decline(); }
  bool declined() const { return team_.declined(); }

  unsigned char* const shared;  // memory of the team
  unsigned char* const own;     // memory of this member

 private:
  Team& team_;
  const Index index_;
  Index before_[Team::kMostMembers] = {};  // items of each member in the phases before
  Index done_ = 0;                         // items of all members so far
};

// A PixelPlan without its vectors.
struct PlanView {
  PlanView() = default;
  explicit PlanView(const PixelPlan& plan)
      : taps(plan.taps),
        source_step(plan.source_step),
        target_step(plan.target_step),
        tiles(plan.tiles.data()),
        tile_count(static_cast<Index>(plan.tiles.size())),
        pieces(plan.pieces.data()),
        tile_taps(plan.tile_taps.data()),
        region_offset(plan.region_offset.data()) {}

  Index taps = 0, source_step = 1, target_step = 1;
  const PixelTile* tiles = nullptr;
  Index tile_count = 0;
  const Piece* pieces = nullptr;
  const Index* tile_taps = nullptr;
  const Index* region_offset = nullptr;
};

// Steps in elements between taps, rows of taps and channels of the weights.
struct WeightView {
  Index target_channel, source_channel;  // (out, in) in the forward pass, (in, out) in the other
  Index row, column;
  Index kernel_w;

  Index tap(Index t) const { return t / kernel_w * row + t % kernel_w * column; }
};

// Steps in elements within a batch of maps.
struct MapStrides {
  Index image, channel, pixel;

  static MapStrides of(Index channels, Index pixels, bool channels_last) {
    return {channels * pixels, channels_last ? 1 : pixels, channels_last ? channels : 1};
  }
};

// target[k, p] = act(sum over c, t of weight[k, c, t] * source[c, p through tap t] + bias[k]), for
// every group; also the gradient with respect to the input, by the plan's and the weights' roles.
template <typename T>
struct ForwardJob {
  PlanView plan;
  WeightView weights;
  Index groups;
  Index target_channels, source_channels;  // of one group
  MapStrides targets, sources;
  Index source_pixels;  // of one map
  Index target_size;    // elements of all maps
  Index weight_group_step;
  const T* source;
  const T* weight;
  const T* bias;  // or null
  T* target;
  bool relu;
  bool channels_last;
  Index memory;  // bytes that packed weights may take
  Parallel parallel;
};

// grad_weight[k, c, t] = sum over p of grad_y[k, p] * x[c, p through tap t], contiguous, for every
// group. Planar maps only.
template <typename T>
struct GradWeightJob {
  PlanView plan;  // of the forward pass
  Index groups;
  Index out_channels, in_channels;  // of one group
  MapStrides outputs, inputs;
  const T* grad_y;
  const T* x;
  T* grad_weight;
  Index memory;  // bytes that packed gradients may take
  Parallel parallel;
};

// The direct convolution on one instruction set. forward and grad_weight return false where their
// arithmetic does not suit these numbers; the next instruction set has to be asked then.
struct DirectKernels {
  int rows;  // of a product, for the plan of the forward jobs
  bool (*forward_float)(const ForwardJob<float>&, Precision);
  bool (*forward_double)(const ForwardJob<double>&, Precision);
  bool (*grad_weight_float)(const GradWeightJob<float>&, Precision);
  bool (*grad_weight_double)(const GradWeightJob<double>&, Precision);
};

// Memory of one block of work, aligned for vectors and tiles.
class AlignedBytes {
 public:
  explicit AlignedBytes(Index size);
  ~AlignedBytes();
  AlignedBytes(const AlignedBytes&) = delete;
  AlignedBytes& operator=(const AlignedBytes&) = delete;
  unsigned char* get() const { return bytes_; }

 private:
  unsigned char* bytes_;
  Index size_;
};

}  // namespace deeplab
