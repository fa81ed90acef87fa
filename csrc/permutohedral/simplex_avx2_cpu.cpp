#include "simplex_cpu.h"

#if DEEPLAB_HAS_X86_TARGETS

// Without "fma": see FindSimplex.
DEEPLAB_BEGIN_TARGET("avx2")
#include "simplex_cpu.inc"
DEEPLAB_END_TARGET

namespace deeplab {

template <>
FindSimplex<float> avx2_find_simplex<float>() {
  return find_any<float>;
}

template <>
FindSimplex<double> avx2_find_simplex<double>() {
  return find_any<double>;
}

}  // namespace deeplab

#endif
