// Every compiled version of the direct convolution. Constants, so that no code of theirs runs when
// the library is loaded.
#pragma once

#include "../../common/instruction_set.h"
#include "depthwise_job.h"
#include "pointwise_job.h"
#include "winograd_job.h"

namespace deeplab {

extern const DirectKernels kBaselineKernels;
extern const PointwiseKernels kBaselinePointwise;
extern const WinogradKernels kBaselineWinograd;
extern const DepthwiseKernels kBaselineDepthwise;
#if DEEPLAB_HAS_X86_TARGETS
extern const DirectKernels kAvx2Kernels;
extern const DirectKernels kAvx512Kernels;
extern const PointwiseKernels kAvx2Pointwise;
extern const PointwiseKernels kAvx512Pointwise;
extern const WinogradKernels kAvx2Winograd;
extern const WinogradKernels kAvx512Winograd;
extern const DepthwiseKernels kAvx2Depthwise;
extern const DepthwiseKernels kAvx512Depthwise;
// float32 alone; its doubles are those of AVX-512.
extern const DirectKernels kAmxKernels;
#endif

}  // namespace deeplab

// Those of a kind (Pointwise, Winograd, Depthwise) for the best instruction set of this processor.
#if DEEPLAB_HAS_X86_TARGETS
#define DEEPLAB_BEST_KERNELS(Kind)                   \
  (cpu_target() >= CpuTarget::avx512 ? kAvx512##Kind \
   : cpu_target() >= CpuTarget::avx2 ? kAvx2##Kind   \
                                     : kBaseline##Kind)
#else
#define DEEPLAB_BEST_KERNELS(Kind) kBaseline##Kind
#endif
