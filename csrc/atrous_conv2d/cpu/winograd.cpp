#include "winograd.h"

#include <algorithm>
#include <type_traits>

#include "kernels.h"

namespace deeplab {
namespace {

// Each block reads all filters, and writes and reads its transformed pixels and products: about 25
// numbers for each pair of channels, and 32 for each piece and channel. Blocks are so large that
// the filters are a third of that traffic, or as large as the second-level cache holds.
Index pieces_together(const ConvGeometry& g, Index element) {
  constexpr Index kSecondLevel = 1 << 19, kProducts = 12;
  const Index in = std::max<Index>(1, g.group_in()), out = g.group_out(), channels = in + out;
  return std::max({Index{32}, kSecondLevel / (kProducts * channels * element),
                   3 * 25 * in * out / (32 * channels)});
}

// What a job says of channels and filters.
template <typename T>
WinogradJob<T> job_of(const ConvGeometry& g, unsigned filter_set, const WinogradWeight<T>& weight,
                      Parallel parallel) {
  WinogradJob<T> job{};
  for (int i = 0; i < kAxisFilterCount; ++i) {
    job.row_filter[i] = filter_set >> i & 1;
    job.column_filter[i] = filter_set >> (kAxisFilterCount + i) & 1;
  }
  const WeightStrides& w = weight.strides;
  if (weight.transposed) {
    // The filters turned round, and their two ends exchanged.
    job.weights = {w.in, w.out, -w.row, -w.column, 3};
    job.weight = weight.data + 2 * w.row + 2 * w.column;
    job.weight_group_step = g.group_in() * w.out;
  } else {
    job.weights = {w.out, w.in, w.row, w.column, 3};
    job.weight = weight.data;
    job.weight_group_step = g.group_out() * w.out;
  }
  job.groups = g.groups;
  job.target_channels = g.group_out();
  job.source_channels = g.group_in();
  job.parallel = parallel;
  return job;
}

// The plan is to outlive the job.
template <typename T>
void set_plan(const ConvGeometry& g, WinogradPlan& plan, WinogradJob<T>& job) {
  const Index pieces = pieces_together(g, sizeof(T));
  const Index across = static_cast<Index>(plan.columns.pieces.size());
  const Index down = static_cast<Index>(plan.rows.pieces.size());
  plan.rows.cut(pieces / across);
  job.row_pieces = plan.rows.pieces.data();
  job.column_pieces = plan.columns.pieces.data();
  job.row_blocks = plan.rows.blocks.data();
  job.columns = plan.columns.blocks.data();
  job.row_block_count = static_cast<Index>(plan.rows.blocks.size());
  job.images = g.batch;
  job.images_together = std::clamp<Index>(pieces / (across * down), 1, std::max<Index>(1, g.batch));
  job.row_rate = g.rate_h;
  job.column_rate = g.rate_w;
  job.height = g.height;
  job.width = g.width;
  job.out_height = g.out_height;
  job.out_width = g.out_width;
}

}  // namespace

unsigned winograd_filter_set(const ConvGeometry& g, bool fast) {
  return plan_winograd(g, fast).filter_set();
}

Index winograd_filter_count(unsigned filter_set) { return count_filters(filter_set); }

template <typename T>
void winograd_filters(const ConvGeometry& g, unsigned filter_set, const WinogradWeight<T>& weight,
                      T* filters, Parallel parallel) {
  WinogradJob<T> job = job_of(g, filter_set, weight, parallel);
  job.filters_out = filters;
  if constexpr (std::is_same_v<T, float>) {
    DEEPLAB_BEST_KERNELS(Winograd).filters_float(job);
  } else {
    DEEPLAB_BEST_KERNELS(Winograd).filters_double(job);
  }
}

template <typename T>
void winograd_forward(const ConvGeometry& g, const T* x, const WinogradWeight<T>& weight,
                      const T* filters, unsigned filter_set, const T* bias, T* y,
                      const ConvOptions& options, bool fast, Parallel parallel) {
  constexpr Index kPanelMemory = 16 << 20;
  WinogradPlan plan = plan_winograd(g, fast);
  WinogradJob<T> job = job_of(g, filters ? filter_set : plan.filter_set(), weight, parallel);
  set_plan(g, plan, job);
  job.targets = MapStrides::of(g.out_channels, g.out_pixels(), options.channels_last);
  job.sources = MapStrides::of(g.in_channels, g.in_pixels(), options.channels_last);
  job.source = x;
  job.filters = filters;
  job.bias = bias;
  job.target = y;
  job.relu = options.relu;
  job.channels_last = options.channels_last;
  job.memory = kPanelMemory;
  if constexpr (std::is_same_v<T, float>) {
    DEEPLAB_BEST_KERNELS(Winograd).forward_float(job);
  } else {
    DEEPLAB_BEST_KERNELS(Winograd).forward_double(job);
  }
}

#define INSTANTIATE(T)                                                                        \
  template void winograd_filters(const ConvGeometry&, unsigned, const WinogradWeight<T>&, T*, \
                                 Parallel);                                                   \
  template void winograd_forward(const ConvGeometry&, const T*, const WinogradWeight<T>&,     \
                                 const T*, unsigned, const T*, T*, const ConvOptions&, bool,  \
                                 Parallel);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace deeplab
