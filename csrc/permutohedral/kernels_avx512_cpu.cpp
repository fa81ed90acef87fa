#include "kernels_cpu.h"

#if DEEPLAB_HAS_X86_TARGETS

DEEPLAB_BEGIN_TARGET("avx2,fma,avx512f,avx512vl,avx512dq,avx512bw")
#define DEEPLAB_VECTOR_BYTES 32
#include "kernels_cpu.inc"
DEEPLAB_END_TARGET

namespace deeplab {

template <>
const KernelSet<float>& avx512_kernels<float>() {
  return kFloatKernels;
}

template <>
const KernelSet<double>& avx512_kernels<double>() {
  return kDoubleKernels;
}

}  // namespace deeplab

#endif
