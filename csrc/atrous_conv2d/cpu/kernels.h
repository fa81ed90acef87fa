// Every compiled version of the direct convolution, best last.
#pragma once

#include "jobs.h"

namespace deeplab {

extern const DirectKernels kBaselineKernels;
#if defined(__x86_64__)
extern const DirectKernels kAvx2Kernels;
extern const DirectKernels kAvx512Kernels;
// float32 alone; its doubles are those of AVX-512.
extern const DirectKernels kAmxKernels;
#endif

}  // namespace deeplab
