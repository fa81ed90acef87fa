#include "simplex_cpu.h"

DEEPLAB_BEGIN_NO_CONTRACTION
#include "simplex_cpu.inc"
DEEPLAB_END_NO_CONTRACTION

namespace deeplab {

template <>
FindSimplex<float> baseline_find_simplex<float>() {
  return find_any<float>;
}

template <>
FindSimplex<double> baseline_find_simplex<double>() {
  return find_any<double>;
}

}  // namespace deeplab
