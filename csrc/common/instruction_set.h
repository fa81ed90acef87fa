// One library for every x86-64: a file of hot loops is compiled several times, each for its own
// instruction set, and the best that the processor has is taken at run time.
//
// Such a file includes all other headers first, then
//   DEEPLAB_BEGIN_TARGET("avx2,fma") ... DEEPLAB_END_TARGET
// around functions in an anonymous namespace. The region uses no templates and no inline functions
// from outside it: the linker would keep one copy of these, perhaps the one that needs AVX-512.
#pragma once

#if defined(__x86_64__)
#define DEEPLAB_HAS_X86_TARGETS 1
#else
#define DEEPLAB_HAS_X86_TARGETS 0
#endif

// DEEPLAB_BEGIN_NO_CONTRACTION ... DEEPLAB_END_NO_CONTRACTION: a * b + c is rounded twice, also on
// processors where a compiler would fuse it unasked.
#define DEEPLAB_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define DEEPLAB_BEGIN_TARGET(names) \
  DEEPLAB_PRAGMA(clang attribute push(__attribute__((target(names))), apply_to = function))
#define DEEPLAB_END_TARGET DEEPLAB_PRAGMA(clang attribute pop)
#define DEEPLAB_BEGIN_NO_CONTRACTION DEEPLAB_PRAGMA(clang fp contract(off))
#define DEEPLAB_END_NO_CONTRACTION
#else
#define DEEPLAB_BEGIN_TARGET(names) \
  DEEPLAB_PRAGMA(GCC push_options)  \
  DEEPLAB_PRAGMA(GCC target(names))
#define DEEPLAB_END_TARGET DEEPLAB_PRAGMA(GCC pop_options)
#define DEEPLAB_BEGIN_NO_CONTRACTION \
  DEEPLAB_PRAGMA(GCC push_options)   \
  DEEPLAB_PRAGMA(GCC optimize("fp-contract=off"))
#define DEEPLAB_END_NO_CONTRACTION DEEPLAB_PRAGMA(GCC pop_options)
#endif

namespace deeplab {

// In this order: each has what those before it have.
enum class CpuTarget { baseline, avx2, avx512, amx };

// The best of the processor, or what DEEPLAB_REPRO_CPU_ISA caps it to; throws where that is not one
// of the processor's.
CpuTarget cpu_target();

// "baseline", "avx2", "avx512" or "amx".
const char* name_of(CpuTarget target);

}  // namespace deeplab
