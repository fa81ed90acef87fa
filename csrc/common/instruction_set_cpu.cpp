#include "instruction_set.h"

#include <algorithm>
#include <cstdlib>
#include <string>

namespace deeplab {
namespace {

CpuTarget detect() {
  CpuTarget best = CpuTarget::baseline;
#if DEEPLAB_HAS_X86_TARGETS
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    best = CpuTarget::avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {
      best = CpuTarget::avx512;
    }
  }
#endif
  const char* text = std::getenv("DEEPLAB_REPRO_CPU_ISA");
  const std::string asked = text ? text : "";
  if (asked == "baseline") return CpuTarget::baseline;
  if (asked == "avx2") return std::min(best, CpuTarget::avx2);
  return best;
}

}  // namespace

CpuTarget cpu_target() {
  static const CpuTarget chosen = detect();
  return chosen;
}

}  // namespace deeplab
