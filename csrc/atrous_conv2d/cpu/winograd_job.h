// What minimal filtering is asked to compute. No torch, no templates of the standard library, as in
// jobs.h.
#pragma once

#include "jobs.h"
#include "winograd_plan.h"

namespace deeplab {

// target = act(source * weight + bias), 3x3 filters of stride 1; also the gradient with respect to
// the input, by the plan's and the weights' roles.
template <typename T>
struct WinogradJob {
  const WinogradPiece *row_pieces, *column_pieces;
  const WinogradBlock* row_blocks;
  Index row_block_count;
  const WinogradBlock* columns;  // all of them
  Index images_together;         // in a block
  Index row_rate, column_rate;
  bool row_filter[kAxisFilterCount], column_filter[kAxisFilterCount];  // that any piece needs

  WeightView weights;
  Index weight_group_step;
  Index images, groups;
  Index target_channels, source_channels;  // of one group
  Index height, width, out_height, out_width;
  MapStrides targets, sources;
  const T* source;
  const T* weight;
  const T* filters;  // transformed before, in place of weight; or null
  T* filters_out;    // where they are to go, if they alone are asked for
  const T* bias;     // or null
  T* target;
  bool relu;
  bool channels_last;
  Index memory;  // bytes that filters and products of some panels may take
  Parallel parallel;
};

struct WinogradKernels {
  void (*forward_float)(const WinogradJob<float>&);
  void (*forward_double)(const WinogradJob<double>&);
  void (*filters_float)(const WinogradJob<float>&);
  void (*filters_double)(const WinogradJob<double>&);
};

}  // namespace deeplab
