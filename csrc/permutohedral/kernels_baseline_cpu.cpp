#include "kernels_cpu.h"

#define DEEPLAB_VECTOR_BYTES 16
#include "kernels_cpu.inc"

namespace deeplab {

template <>
const KernelSet<float>& baseline_kernels<float>() {
  return kFloatKernels;
}

template <>
const KernelSet<double>& baseline_kernels<double>() {
  return kDoubleKernels;
}

}  // namespace deeplab
