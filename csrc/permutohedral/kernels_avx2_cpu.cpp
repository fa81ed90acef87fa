#include "kernels_cpu.h"

#if DEEPLAB_HAS_X86_TARGETS

DEEPLAB_BEGIN_TARGET("avx2,fma")
#define DEEPLAB_VECTOR_BYTES 32
#include "kernels_cpu.inc"
DEEPLAB_END_TARGET

namespace deeplab {

template <>
const KernelSet<float>& avx2_kernels<float>() {
  return kFloatKernels;
}

template <>
const KernelSet<double>& avx2_kernels<double>() {
  return kDoubleKernels;
}

}  // namespace deeplab

#endif
