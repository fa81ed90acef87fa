// Plans made on the device, for CuPy: where nothing but NVRTC compiles, these kernels of one thread
// let Python know what the launchers would choose. A plan depends on sizes alone, so Python asks
// once for each geometry.
#pragma once

#include "direct_kernels.cuh"
#include "grad_weight_kernels.cuh"
#include "pack_kernels.cuh"

namespace deeplab {

// A plan, and what a launch of it takes. _cupy/atrous_conv2d.py reads it as a row of int64.
template <typename Plan>
struct PlanRecord {
  Index plan_bytes;
  Index work;  // blocks with something to do
  Index threads, shared_bytes;
  Index sums;      // elements of `partial`
  Index sum_work;  // threads with something to do in the kernel that adds them; 0 = not to be run
  Index targets;   // elements of `targets`
  Plan plan;
};

template <typename T>
__device__ PlanRecord<DirectPlan> direct_record(const DirectPlan& plan) {
  const bool cut = plan.pieces > 1;
  return {sizeof(plan),
          plan.tiles() * plan.pieces,
          T::kThreads,
          T::kSharedBytes,
          cut ? plan.tiles() * plan.pieces * plan.tile_size() : 0,
          cut ? plan.tiles() * plan.tile_size() : 0,
          cut ? plan.targets() : 0,
          plan};
}

template <typename Way, typename T>
__global__ void forward_plan_kernel(ConvGeometry g, Index channels_last, Index relu,
                                    PlanRecord<DirectPlan>* record) {
  *record = direct_record<T>(forward_plan(g, setup_of<Way, T>(), channels_last != 0, relu != 0));
}

template <typename Way, typename T>
__global__ void grad_input_plan_kernel(ConvGeometry g, Index channels_last, Index row_remainder,
                                       Index column_remainder, PlanRecord<DirectPlan>* record) {
  *record = direct_record<T>(
      grad_input_plan(g, setup_of<Way, T>(), channels_last != 0, row_remainder, column_remainder));
}

template <typename Way, typename T>
__global__ void grad_weight_plan_kernel(ConvGeometry g, PlanRecord<GradWeightPlan>* record) {
  using Operand = typename Way::Operand;
  const GradWeightPlan plan = grad_weight_plan(g, setup_of<Way, T>());
  *record = {sizeof(plan),
             plan.tiles() * plan.pieces,
             T::kThreads,
             GradTile<T, Operand>::kSharedBytes,
             plan.pieces * g.taps() * plan.weights(),
             plan.weights(),
             0,
             plan};
}

}  // namespace deeplab
