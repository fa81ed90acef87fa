// Launchers: grid, block, tile and workspace of each kernel, for nvcc and for the host harness.
//
// An Allocate is called with a number of bytes and returns device memory, aligned to 16 bytes at
// least, that lives until the stream has run what was launched here.
#pragma once

#include <stdexcept>
#include <string>

#include "../common/cuda_launch.cuh"
#include "direct_kernels.cuh"
#include "grad_weight_kernels.cuh"
#include "im2col_kernels.cuh"
#include "options.h"
#include "pack_kernels.cuh"
#include "plan_cache.h"

namespace deeplab {

template <typename A, typename B>
struct Same {
  static constexpr bool kValue = false;
};
template <typename A>
struct Same<A, A> {
  static constexpr bool kValue = true;
};

template <typename T>
void launch_im2col(const ConvGeometry& g, const T* x, T* columns, Index max_blocks,
                   cudaStream_t stream) {
  const Index items = g.batch * g.in_channels * g.out_pixels();
  launch(im2col_kernel<T>, grid_size(items, kIm2colThreads, max_blocks), kIm2colThreads, stream, g,
         x, columns);
}

template <typename T>
void launch_col2im(const ConvGeometry& g, const T* columns, T* x, Index max_blocks,
                   cudaStream_t stream) {
  const Index items = g.batch * g.in_channels * g.in_pixels();
  launch(col2im_kernel<T>, grid_size(items, kIm2colThreads, max_blocks), kIm2colThreads, stream, g,
         columns, x);
}

// Kernels find rows and columns in 32 bits; offsets have 64.
inline void check_extents(const ConvGeometry& g) {
  const Index extents[] = {g.batch,
                           g.height,
                           g.width,
                           g.out_height,
                           g.out_width,
                           g.stride_h,
                           g.stride_w,
                           g.pad_h,
                           g.pad_w,
                           g.rate_h * (g.kernel_h - 1),
                           g.rate_w * (g.kernel_w - 1)};
  for (const Index extent : extents) {
    if (extent > kMaxExtent) {
      throw std::runtime_error(
          "atrous_conv2d: sizes, stride, padding and reach of the filter must be "
          "at most " +
          std::to_string(kMaxExtent) + " pixels on CUDA, got " + std::to_string(extent));
    }
  }
}

// A map ready to be multiplied: packed, or where it is if it lies that way already and the way
// takes its values as they are.
template <typename Way, typename T, typename Allocate>
const typename Way::Operand* packed_map(const T* x, Index images, Index pixels, Index channels,
                                        Index groups, const ConvOptions& options,
                                        const Allocate& allocate, cudaStream_t stream) {
  using Operand = typename Way::Operand;
  constexpr Index kPerChunk = kChunkBytes / sizeof(Operand);
  const Index padded = round_up(channels / groups, kPerChunk);
  if constexpr (Same<T, Operand>::kValue && Way::kExact) {
    const bool aligned = reinterpret_cast<unsigned long long>(x) % kChunkBytes == 0;
    if (options.channels_last && padded == channels / groups && aligned) return x;
  }
  const Index elements = images * pixels * groups * padded;
  auto* const packed =
      static_cast<Operand*>(allocate(elements * static_cast<Index>(sizeof(Operand))));
  if (elements > 0) {
    const PackMap map =
        pack_map_of(images, pixels, channels, groups, padded, options.channels_last);
    launch(pack_map_kernel<Way, T>, grid_size(map.squares(), 1, options.max_blocks), kPackThreads,
           stream, map, x, packed);
  }
  return packed;
}

template <typename Way, typename T, typename Allocate>
const typename Way::Operand* packed_weight(const ConvGeometry& g, const T* weight,
                                           const WeightStrides& strides, bool transposed,
                                           const ConvOptions& options, const Allocate& allocate,
                                           cudaStream_t stream) {
  using Operand = typename Way::Operand;
  constexpr Index kPerChunk = kChunkBytes / sizeof(Operand);
  const Index padded = round_up(transposed ? g.group_out() : g.group_in(), kPerChunk);
  const Index elements = g.groups * g.taps() * padded * (transposed ? g.group_in() : g.group_out());
  auto* const packed =
      static_cast<Operand*>(allocate(elements * static_cast<Index>(sizeof(Operand))));
  if (elements > 0) {
    const PackWeight bank = pack_weight_of(g, strides, padded, transposed);
    launch(pack_weight_kernel<Way, T>, grid_size(bank.items(), kPackThreads, options.max_blocks),
           kPackThreads, stream, bank, weight, packed);
  }
  return packed;
}

// Runs one plan on packed operands.
template <typename Way, typename TileOfPlan, typename T, typename Allocate>
void launch_plan(const DirectPlan& plan, const typename Way::Operand* x,
                 const typename Way::Operand* w, const T* bias, T* y, Index max_blocks,
                 const Allocate& allocate, cudaStream_t stream) {
  using Sum = typename Way::Sum;
  Sum* partial = nullptr;
  Index* targets = nullptr;
  const Index elements = plan.tiles() * plan.tile_size();
  if (plan.pieces > 1) {
    partial = static_cast<Sum*>(allocate(plan.pieces * elements * static_cast<Index>(sizeof(Sum))));
    targets = static_cast<Index*>(allocate(plan.targets() * static_cast<Index>(sizeof(Index))));
  }
  launch_with_shared(direct_kernel<Way, TileOfPlan, T>,
                     grid_size(plan.tiles() * plan.pieces, 1, max_blocks), TileOfPlan::kThreads,
                     TileOfPlan::kSharedBytes, stream, plan, x, w, bias, y, partial, targets);
  if (plan.pieces > 1) {
    launch(direct_sum_kernel<Way, TileOfPlan, T>,
           grid_size(elements, kDirectSumThreads, max_blocks), kDirectSumThreads, stream, plan,
           static_cast<const Sum*>(partial), static_cast<const Index*>(targets), bias, y);
  }
}

template <typename Way, typename TileOfPlan, typename T, typename Allocate>
void launch_direct(const ConvGeometry& g, const T* x, const T* weight, const WeightStrides& strides,
                   const T* bias, T* y, const ConvOptions& options, const Allocate& allocate,
                   cudaStream_t stream) {
  check_extents(g);
  const Setup setup = setup_of<Way, TileOfPlan>();
  const DirectPlan plan = cached_plan({g, setup, options.channels_last, options.relu}, [&] {
    return forward_plan(g, setup, options.channels_last, options.relu);
  });
  const auto* const map = packed_map<Way>(x, g.batch, g.in_pixels(), g.in_channels, g.groups,
                                          options, allocate, stream);
  const auto* const bank =
      packed_weight<Way>(g, weight, strides, /*transposed=*/false, options, allocate, stream);
  launch_plan<Way, TileOfPlan>(plan, map, bank, bias, y, options.max_blocks, allocate, stream);
}

template <typename Way, typename TileOfPlan, typename T, typename Allocate>
void launch_grad_input(const ConvGeometry& g, const T* grad_y, const T* weight,
                       const WeightStrides& strides, T* grad_x, const ConvOptions& options,
                       const Allocate& allocate, cudaStream_t stream) {
  check_extents(g);
  const auto* const map = packed_map<Way>(grad_y, g.batch, g.out_pixels(), g.out_channels, g.groups,
                                          options, allocate, stream);
  const auto* const bank =
      packed_weight<Way>(g, weight, strides, /*transposed=*/true, options, allocate, stream);
  const Setup setup = setup_of<Way, TileOfPlan>();
  for (Index r = 0; r < least(g.stride_h, g.height); ++r) {
    for (Index s = 0; s < least(g.stride_w, g.width); ++s) {
      const Index remainder = r * g.stride_w + s;
      const DirectPlan plan = cached_plan({g, setup, options.channels_last, remainder}, [&] {
        return grad_input_plan(g, setup, options.channels_last, r, s);
      });
      launch_plan<Way, TileOfPlan>(plan, map, bank, static_cast<const T*>(nullptr), grad_x,
                                   options.max_blocks, allocate, stream);
    }
  }
}

template <typename Way, typename TileOfPlan, typename T, typename Allocate>
void launch_grad_weight(const ConvGeometry& g, const T* grad_y, const T* x, T* grad_weight,
                        const ConvOptions& options, const Allocate& allocate, cudaStream_t stream) {
  using Operand = typename Way::Operand;
  using Sum = typename Way::Sum;
  check_extents(g);
  const auto* const y_map = packed_map<Way>(grad_y, g.batch, g.out_pixels(), g.out_channels,
                                            g.groups, options, allocate, stream);
  const auto* const x_map = packed_map<Way>(x, g.batch, g.in_pixels(), g.in_channels, g.groups,
                                            options, allocate, stream);
  const Setup setup = setup_of<Way, TileOfPlan>();
  const GradWeightPlan plan =
      cached_plan({g, setup, 0, 0}, [&] { return grad_weight_plan(g, setup); });
  const Index sums = plan.pieces * g.taps() * plan.weights();
  auto* const partial = static_cast<Sum*>(allocate(sums * static_cast<Index>(sizeof(Sum))));
  launch_with_shared(grad_weight_kernel<Way, TileOfPlan>,
                     grid_size(plan.tiles() * plan.pieces, 1, options.max_blocks),
                     TileOfPlan::kThreads, GradTile<TileOfPlan, Operand>::kSharedBytes, stream,
                     plan, y_map, x_map, partial);
  launch(grad_weight_sum_kernel<Way, T>,
         grid_size(plan.weights(), kGradSumThreads, options.max_blocks), kGradSumThreads, stream,
         plan, static_cast<const Sum*>(partial), grad_weight);
}

// f(way): how tensors of type T are to be multiplied on a GPU with or without tensor cores.
template <typename T, typename F>
void dispatch_way(Precision precision, bool tensor_cores, const F& f) {
  if constexpr (Same<T, double>::kValue) {
    f(MultiplyAdd<double>{});
  } else if (!tensor_cores) {
    f(MultiplyAdd<float>{});
  } else if constexpr (Same<T, Half>::kValue) {
    f(Fp16{});
  } else if constexpr (Same<T, BFloat16>::kValue) {
    f(Bf16{});
  } else if (precision == Precision::tf32) {
    f(Tf32{});
  } else if (precision == Precision::bf16) {
    f(Bf16{});
  } else if (precision == Precision::fp16) {
    f(Fp16{});
  } else {
    f(Tf32x3{});
  }
}

// f(tile): for so many filters of a group, or filters and channels.
template <typename Way, typename F>
void dispatch_tile(Index filters, const F& f) {
  if constexpr (!Way::kOnTensorCores) {
    f(PlainTile{});
  } else if (filters <= NarrowTile::kFilters) {
    f(NarrowTile{});
  } else {
    f(WideTile{});
  }
}

template <typename Way, typename F>
void dispatch_grad_tile(Index filters, Index channels, const F& f) {
  if constexpr (Way::kOnTensorCores) {
    if (filters <= LowTile::kPixels) return f(LowTile{});
  }
  dispatch_tile<Way>(channels, f);
}

}  // namespace deeplab
