// What the direct convolution is asked to compute, and who computes it. No torch, no templates of
// the standard library: the files that include engine.h are compiled for particular processors, and
// nothing they share with others may be.
#pragma once

#include "../../common/team.h"
#include "../options.h"
#include "pixel_plan.h"

namespace deeplab {

// Runs body(i, context) for i in [0, count), on several threads where there are any.
struct Parallel {
  int threads;
  void (*run)(Index count, void (*body)(Index, void*), void* context);
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
