#include "instruction_set.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#if DEEPLAB_HAS_X86_TARGETS && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace deeplab {
namespace {

#if DEEPLAB_HAS_X86_TARGETS
// The system hands the matrix unit's registers out on request, once for all threads.
bool has_amx() {
#if defined(__linux__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kBf16) == 0 || (d & kTile) == 0) {
    return false;
  }
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

CpuTarget best_target() {
#if DEEPLAB_HAS_X86_TARGETS
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return CpuTarget::baseline;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512bw")) {
    return CpuTarget::avx2;
  }
  return has_amx() ? CpuTarget::amx : CpuTarget::avx512;
#else
  return CpuTarget::baseline;
#endif
}

CpuTarget chosen_target() {
  const CpuTarget best = best_target();
  const char* asked = std::getenv("DEEPLAB_REPRO_CPU_ISA");
  if (!asked || !*asked) return best;
  std::string known;
  for (int t = 0; t <= static_cast<int>(best); ++t) {
    const CpuTarget target = static_cast<CpuTarget>(t);
    if (std::string(asked) == name_of(target)) return target;
    known += (t ? ", " : "") + std::string(name_of(target));
  }
  throw std::runtime_error("DEEPLAB_REPRO_CPU_ISA: this processor has " + known + ", got " + asked);
}

}  // namespace

CpuTarget cpu_target() {
  static const CpuTarget chosen = chosen_target();
  return chosen;
}

const char* name_of(CpuTarget target) {
  static const char* const kNames[] = {"baseline", "avx2", "avx512", "amx"};
  return kNames[static_cast<int>(target)];
}

}  // namespace deeplab
