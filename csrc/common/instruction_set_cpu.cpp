#include "instruction_set.h"

#include <algorithm>
#include <cstdlib>
#include <string>

namespace deeplab {
namespace {

InstructionSet detect() {
  InstructionSet best = InstructionSet::baseline;
#if DEEPLAB_HAS_X86_TARGETS
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    best = InstructionSet::avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {
      best = InstructionSet::avx512;
    }
  }
#endif
  const char* text = std::getenv("DEEPLAB_REPRO_CPU");
  const std::string asked = text ? text : "";
  if (asked == "baseline") return InstructionSet::baseline;
  if (asked == "avx2") return std::min(best, InstructionSet::avx2);
  return best;
}

}  // namespace

InstructionSet instruction_set() {
  static const InstructionSet chosen = detect();
  return chosen;
}

}  // namespace deeplab
