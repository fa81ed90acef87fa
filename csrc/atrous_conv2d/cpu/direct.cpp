#include "direct.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "kernels.h"
#include "pointwise.h"

namespace deeplab {

namespace {

template <typename F>
void in_parallel(const Parallel& parallel, Index count, const F& f) {
  parallel.run(
      count, [](Index i, void* context) { (*static_cast<const F*>(context))(i); },
      const_cast<F*>(&f));
}

// What this processor may run, worst first. Every one after the first may decline.
const std::vector<const DirectKernels*>& all_kernels() {
  static const std::vector<const DirectKernels*> kernels = [] {
    std::vector<const DirectKernels*> found = {&kBaselineKernels};
#if DEEPLAB_HAS_X86_TARGETS
    if (cpu_target() >= CpuTarget::avx2) found.push_back(&kAvx2Kernels);
    if (cpu_target() >= CpuTarget::avx512) found.push_back(&kAvx512Kernels);
    if (cpu_target() >= CpuTarget::amx) found.push_back(&kAmxKernels);
#endif
    return found;
  }();
  return kernels;
}

// run(kernels) for the best that does not decline.
template <typename Run>
void first_that_suits(const Run& run) {
  const auto& kernels = all_kernels();
  for (auto k = kernels.rbegin(); k != kernels.rend(); ++k) {
    if (run(**k)) return;
  }
}

// Packed operands stay in a second-level cache of 2 MB beside what streams through, and below a
// twentieth of what a column buffer would take.
Index block_memory(const ConvGeometry& g, Index channels, Index element) {
  constexpr Index kMost = 1 << 20, kLeast = 1 << 16;
  const Index columns = channels * g.taps() * g.out_pixels() * element;
  const Index wanted = columns / 48;
  return wanted < kLeast ? kLeast : wanted > kMost ? kMost : wanted;
}

template <typename T>
bool run_whole(const ForwardJob<T>& job, const DirectKernels& kernels, Precision precision) {
  if constexpr (std::is_same_v<T, float>) {
    return kernels.forward_float(job, precision);
  } else {
    return kernels.forward_double && kernels.forward_double(job, precision);
  }
}

// Many channels and few filters, as in the heads of the networks: two threads would do little but
// pass each other packed pixels. Each takes half the channels instead, and the sums are added up at
// the end; so they are for any number of threads, for the same bits.
template <typename T>
bool is_head(const ForwardJob<T>& job) {
  constexpr Index kFewFilters = 64, kManyChannels = 512;
  return job.target_channels <= kFewFilters && job.source_channels >= kManyChannels &&
         job.groups == 1;
}

template <typename T>
bool run_head(const ForwardJob<T>& job, const DirectKernels& kernels, Precision precision) {
  constexpr Index kSlices = 2;
  bool suits[kSlices];
  const AlignedBytes memory(kSlices * job.target_size * static_cast<Index>(sizeof(T)));
  T* const sums = reinterpret_cast<T*>(memory.get());
  const Parallel alone = {1, [](Index count, void (*body)(Index, void*), void* context) {
                            for (Index i = 0; i < count; ++i) body(i, context);
                          }};
  const bool together = job.parallel.threads > kSlices;
  in_parallel(together ? alone : job.parallel, kSlices, [&](Index s) {
    ForwardJob<T> slice = job;
    const Index first = job.source_channels * s / kSlices;
    slice.source_channels = job.source_channels * (s + 1) / kSlices - first;
    slice.source += first * job.sources.channel;
    slice.weight += first * job.weights.source_channel;
    slice.bias = nullptr;
    slice.relu = false;
    slice.target = sums + s * job.target_size;
    if (!together) slice.parallel = alone;
    suits[s] = run_whole(slice, kernels, precision);
  });
  if (!suits[0] || !suits[1]) return false;
  // Rows of one channel, or channels-last of one pixel.
  const Index row = job.channels_last ? job.target_channels : job.targets.channel;
  in_parallel(job.parallel, job.target_size / row, [&](Index r) {
    T* const to = job.target + r * row;
    const T* const from = sums + r * row;
    std::copy(from, from + row, to);
    for (Index s = 1; s < kSlices; ++s) {
      for (Index i = 0; i < row; ++i) to[i] += from[s * job.target_size + i];
    }
    if (job.bias && job.channels_last) {
      for (Index i = 0; i < row; ++i) to[i] += job.bias[i];
    } else if (job.bias) {
      for (Index i = 0; i < row; ++i) to[i] += job.bias[r % job.target_channels];
    }
    if (job.relu) {
      for (Index i = 0; i < row; ++i) to[i] = to[i] < 0 ? 0 : to[i];  // NaN stays NaN
    }
  });
  return true;
}

// What the matrix unit is there for, it does itself.
bool is_one_product(const ConvGeometry& g, const ConvOptions& options) {
  return is_pointwise(g, options.channels_last) && cpu_target() != CpuTarget::amx;
}

// plan_of(rows): the plan for kernels that multiply so many rows.
template <typename T, typename PlanOf>
void run_forward(ForwardJob<T> job, Precision precision, const PlanOf& plan_of) {
  first_that_suits([&](const DirectKernels& kernels) {
    const PixelPlan plan = plan_of(kernels.rows);
    job.plan = PlanView(plan);
    return is_head(job) ? run_head(job, kernels, precision) : run_whole(job, kernels, precision);
  });
}

}  // namespace

template <typename T>
void direct_forward(const ConvGeometry& g, const T* x, const T* weight, WeightStrides strides,
                    const T* bias, T* y, const ConvOptions& options, Parallel parallel) {
  if (is_one_product(g, options)) {
    pointwise_forward<T>(g, x, weight, strides, bias, options.relu, y, parallel);
    return;
  }
  ForwardJob<T> job{};
  job.weights = {strides.out, strides.in, strides.row, strides.column, g.kernel_w};
  job.groups = g.groups;
  job.target_channels = g.group_out();
  job.source_channels = g.group_in();
  job.targets = MapStrides::of(g.out_channels, g.out_pixels(), options.channels_last);
  job.sources = MapStrides::of(g.in_channels, g.in_pixels(), options.channels_last);
  job.source_pixels = g.in_pixels();
  job.target_size = g.batch * g.out_channels * g.out_pixels();
  job.weight_group_step = g.group_out() * strides.out;
  job.source = x;
  job.weight = weight;
  job.bias = bias;
  job.target = y;
  job.relu = options.relu;
  job.channels_last = options.channels_last;
  job.memory = block_memory(g, g.group_in(), sizeof(T));
  job.parallel = parallel;
  run_forward(job, options.precision, [&](int rows) { return plan_forward(g, rows); });
}

template <typename T>
void direct_grad_input(const ConvGeometry& g, const T* grad_y, const T* weight,
                       WeightStrides strides, T* grad_x, const ConvOptions& options,
                       Parallel parallel) {
  if (is_one_product(g, options) && g.stride_h == 1 && g.stride_w == 1) {
    pointwise_grad_input(g, grad_y, weight, strides, grad_x, parallel);
    return;
  }
  ForwardJob<T> job{};
  job.weights = {strides.in, strides.out, strides.row, strides.column, g.kernel_w};
  job.groups = g.groups;
  job.target_channels = g.group_in();
  job.source_channels = g.group_out();
  job.targets = MapStrides::of(g.in_channels, g.in_pixels(), options.channels_last);
  job.sources = MapStrides::of(g.out_channels, g.out_pixels(), options.channels_last);
  job.source_pixels = g.out_pixels();
  job.target_size = g.batch * g.in_channels * g.in_pixels();
  job.weight_group_step = g.group_out() * strides.out;
  job.source = grad_y;
  job.weight = weight;
  job.target = grad_x;
  job.channels_last = options.channels_last;
  job.memory = block_memory(g, g.group_out(), sizeof(T));
  job.parallel = parallel;
  run_forward(job, options.precision, [&](int rows) { return plan_grad_input(g, rows); });
}

template <typename T>
void direct_grad_weight(const ConvGeometry& g, const T* grad_y, const T* x, T* grad_weight,
                        const ConvOptions& options, Parallel parallel) {
  const PixelPlan plan = plan_forward(g, 0);
  GradWeightJob<T> job{};
  job.plan = PlanView(plan);
  job.groups = g.groups;
  job.out_channels = g.group_out();
  job.in_channels = g.group_in();
  job.outputs = MapStrides::of(g.out_channels, g.out_pixels(), false);
  job.inputs = MapStrides::of(g.in_channels, g.in_pixels(), false);
  job.grad_y = grad_y;
  job.x = x;
  job.grad_weight = grad_weight;
  job.memory = block_memory(g, g.group_in(), sizeof(T));
  job.parallel = parallel;
  first_that_suits([&](const DirectKernels& kernels) {
    if constexpr (std::is_same_v<T, float>) {
      return kernels.grad_weight_float(job, options.precision);
    } else {
      return kernels.grad_weight_double && kernels.grad_weight_double(job, options.precision);
    }
  });
}

#define INSTANTIATE(T)                                                                           \
  template void direct_forward(const ConvGeometry&, const T*, const T*, WeightStrides, const T*, \
                               T*, const ConvOptions&, Parallel);                                \
  template void direct_grad_input(const ConvGeometry&, const T*, const T*, WeightStrides, T*,    \
                                  const ConvOptions&, Parallel);                                 \
  template void direct_grad_weight(const ConvGeometry&, const T*, const T*, T*,                  \
                                   const ConvOptions&, Parallel);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace deeplab
