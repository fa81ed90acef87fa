// The ways to multiply a tile: on tensor cores at four precisions, or by fused multiply-adds.
//
// A way W has
//   W::Operand               what operands are stored as
//   W::Sum                   what sums are formed in
//   W::operand(v)            a float or double as such an operand
//   W::kExact                whether operand(v) is v where v has that type already
//   W::kOnTensorCores        whether it needs sm_80
//   W::add_rows(...)         sum += a b^T of two tiles whose rows run along k
//   W::add_columns(...)      the same of two tiles whose columns run along k
// A warp owns kM x 16 rows of a and kN x 8 rows of b. All ways share one ownership of the sums:
// lane 4 g + t has, of block (m, n), rows g (first two) and g + 8 (last two), columns 2t and 2t
// + 1.
#pragma once

#include "../common/mma.cuh"
#include "plan.h"

namespace deeplab {

// Where a chunk lies in a tile with rows of kRowBytes. Eight rows read at the same chunk, and eight
// chunks of one row, then fall into different banks.
DEVICE_INLINE int swizzled(int row, int chunk) {
  return row * kRowBytes + ((chunk ^ (row & 7)) * kChunkBytes);
}

// Tiles whose columns run along k are lines of one k each, wider by this many elements than what
// they hold: the 4 lines of 4-byte elements, or 8 of 2-byte ones, that one instruction reads then
// fall into different banks.
constexpr int kLinePad = 8;

template <int kM, int kN>
struct Fragments {
  unsigned a[kM][4];
  unsigned b[kN][2];

  DEVICE_INLINE void load_rows(const unsigned char* a_tile, const unsigned char* b_tile, int step) {
    static_assert(kN % 2 == 0, "matrices of b are loaded in pairs");
    const int lane = static_cast<int>(threadIdx.x) % 32;
    UNROLL
    for (int m = 0; m < kM; ++m) {
      load_matrices(a[m], a_tile + swizzled(16 * m + lane % 16, 2 * step + lane / 16));
    }
    UNROLL
    for (int n = 0; n < kN; n += 2) {
      unsigned both[4];
      load_matrices(both,
                    b_tile + swizzled(8 * n + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
      b[n][0] = both[0];
      b[n][1] = both[1];
      b[n + 1][0] = both[2];
      b[n + 1][1] = both[3];
    }
  }

  // 4-byte elements: a register is one element.
  template <int kLineA, int kLineB>
  DEVICE_INLINE void load_columns(const float* a_tile, const float* b_tile, int step) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int k = 8 * step + lane % 4;
    UNROLL
    for (int m = 0; m < kM; ++m) {
      UNROLL
      for (int i = 0; i < 4; ++i) {
        a[m][i] =
            bits_as<unsigned>(a_tile[(k + i / 2 * 4) * kLineA + 16 * m + i % 2 * 8 + lane / 4]);
      }
    }
    UNROLL
    for (int n = 0; n < kN; ++n) {
      UNROLL
      for (int i = 0; i < 2; ++i) {
        b[n][i] = bits_as<unsigned>(b_tile[(k + i * 4) * kLineB + 8 * n + lane / 4]);
      }
    }
  }

  // 2-byte elements: a register is two of one column, so matrices are transposed as they load.
  template <int kLineA, int kLineB, typename Operand>
  DEVICE_INLINE void load_columns(const Operand* a_tile, const Operand* b_tile, int step) {
    static_assert(sizeof(Operand) == 2 && kN % 2 == 0, "pairs of 2-byte elements");
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int k = 16 * step + lane % 8;
    UNROLL
    for (int m = 0; m < kM; ++m) {
      const int line = k + lane / 16 * 8;
      load_matrices_transposed(a[m], a_tile + line * kLineA + 16 * m + lane / 8 % 2 * 8);
    }
    UNROLL
    for (int n = 0; n < kN; n += 2) {
      unsigned both[4];
      const int line = k + lane / 8 % 2 * 8;
      load_matrices_transposed(both, b_tile + line * kLineB + 8 * n + lane / 16 * 8);
      b[n][0] = both[0];
      b[n][1] = both[1];
      b[n + 1][0] = both[2];
      b[n + 1][1] = both[3];
    }
  }
};

// What all tensor-core ways share: Way::add(sums, fragments) multiplies 32 bytes of k, a step. The
// lanes of a warp may come here apart, from the loops that chose what to copy. All steps of a tile
// are unrolled, so that the fragments of one step are loaded while another is multiplied.
template <typename Way>
struct OnTensorCores {
  using Sum = float;
  static constexpr bool kOnTensorCores = true;
  static constexpr int kStepsApart = 0;  // so many are summed by themselves, 0: none

  template <int kM, int kN>
  static DEVICE_INLINE void add_rows(float (&sums)[kM][kN][4], const unsigned char* a_tile,
                                     const unsigned char* b_tile) {
    add_steps<kRowChunks / 2>(sums, [&](Fragments<kM, kN>& fragments, int step) {
      fragments.load_rows(a_tile, b_tile, step);
    });
  }

  template <int kLineA, int kLineB, int kLines, int kM, int kN, typename Operand>
  static DEVICE_INLINE void add_columns(float (&sums)[kM][kN][4], const Operand* a_tile,
                                        const Operand* b_tile) {
    constexpr int kSteps = kLines * static_cast<int>(sizeof(Operand)) / 32;
    add_steps<kSteps>(sums, [&](Fragments<kM, kN>& fragments, int step) {
      fragments.template load_columns<kLineA, kLineB>(a_tile, b_tile, step);
    });
  }

 private:
  template <int kSteps, int kM, int kN, typename Load>
  static DEVICE_INLINE void add_steps(float (&sums)[kM][kN][4], const Load& load) {
    constexpr int kTogether = Way::kStepsApart > 0 ? Way::kStepsApart : kSteps;
    static_assert(kSteps % kTogether == 0, "no steps are left over");
    __syncwarp();
    // Not unrolled: two sets of sums apart at a time would not fit the registers.
    NO_UNROLL
    for (int first = 0; first < kSteps; first += kTogether) {
      if constexpr (Way::kStepsApart > 0) {
        float apart[kM][kN][4] = {};
        multiply<kTogether>(apart, load, first);
        UNROLL
        for (int m = 0; m < kM; ++m) {
          UNROLL
          for (int n = 0; n < kN; ++n) {
            UNROLL
            for (int i = 0; i < 4; ++i) sums[m][n][i] += apart[m][n][i];
          }
        }
      } else {
        multiply<kTogether>(sums, load, first);
      }
    }
  }

  template <int kSteps, int kM, int kN, typename Load>
  static DEVICE_INLINE void multiply(float (&sums)[kM][kN][4], const Load& load, int first) {
    UNROLL
    for (int step = first; step < first + kSteps; ++step) {
      Fragments<kM, kN> fragments;
      load(fragments, step);
      Way::add(sums, fragments);
    }
  }
};

struct Tf32 : OnTensorCores<Tf32> {
  using Operand = float;
  static constexpr bool kExact = false;
  static DEVICE_INLINE float operand(float value) { return round_tf32(value); }

  template <int kM, int kN>
  static DEVICE_INLINE void add(float (&sums)[kM][kN][4], const Fragments<kM, kN>& f) {
    UNROLL
    for (int m = 0; m < kM; ++m) {
      UNROLL
      for (int n = 0; n < kN; ++n) mma_tf32(sums[m][n], f.a[m], f.b[n]);
    }
  }
};

struct Bf16 : OnTensorCores<Bf16> {
  using Operand = BFloat16;
  static constexpr bool kExact = true;
  static DEVICE_INLINE BFloat16 operand(float value) { return from_real<BFloat16>(value); }

  template <int kM, int kN>
  static DEVICE_INLINE void add(float (&sums)[kM][kN][4], const Fragments<kM, kN>& f) {
    UNROLL
    for (int m = 0; m < kM; ++m) {
      UNROLL
      for (int n = 0; n < kN; ++n) mma_bf16(sums[m][n], f.a[m], f.b[n]);
    }
  }
};

struct Fp16 : OnTensorCores<Fp16> {
  using Operand = Half;
  static constexpr bool kExact = true;
  static DEVICE_INLINE Half operand(float value) { return from_real<Half>(value); }

  template <int kM, int kN>
  static DEVICE_INLINE void add(float (&sums)[kM][kN][4], const Fragments<kM, kN>& f) {
    UNROLL
    for (int m = 0; m < kM; ++m) {
      UNROLL
      for (int n = 0; n < kN; ++n) mma_fp16(sums[m][n], f.a[m], f.b[n]);
    }
  }
};

// float32 by three TF32 products: an operand is high + low, and of the four products only low * low
// is dropped, below float32's own rounding. High is the operand rounded to TF32's 11 bits, so low
// has 12 at most and either sign alike: that the hardware ignores its last bit is no bias. Tensor
// cores cut their sums off towards zero, which over thousands of channels would be a bias far above
// float32's error; so they only ever add the 48 products of two steps, and the long sum is a
// float32 addition that rounds to nearest. An infinite operand has no rest: it gives NaN.
struct Tf32x3 : OnTensorCores<Tf32x3> {
  using Operand = float;
  static constexpr bool kExact = true;
  static constexpr int kStepsApart = 2;
  static DEVICE_INLINE float operand(float value) { return value; }

  // Rounds as an integer, ties away from zero: three instructions, where conversions take seven. A
  // NaN may become a high of zero, and is then in low.
  static DEVICE_INLINE void split(unsigned bits, unsigned& high, unsigned& low) {
    high = (bits + 0x1000u) & 0xffffe000u;
    low = bits_as<unsigned>(bits_as<float>(bits) - bits_as<float>(high));
  }

  template <int kM, int kN>
  static DEVICE_INLINE void add(float (&sums)[kM][kN][4], const Fragments<kM, kN>& f) {
    unsigned b_high[kN][2], b_low[kN][2];
    UNROLL
    for (int n = 0; n < kN; ++n) {
      UNROLL
      for (int i = 0; i < 2; ++i) split(f.b[n][i], b_high[n][i], b_low[n][i]);
    }
    UNROLL
    for (int m = 0; m < kM; ++m) {
      unsigned a_high[4], a_low[4];
      UNROLL
      for (int i = 0; i < 4; ++i) split(f.a[m][i], a_high[i], a_low[i]);
      // Loops apart, so that neighbouring products do not wait for each other.
      UNROLL
      for (int n = 0; n < kN; ++n) mma_tf32(sums[m][n], a_low, b_high[n]);
      UNROLL
      for (int n = 0; n < kN; ++n) mma_tf32(sums[m][n], a_high, b_low[n]);
      UNROLL
      for (int n = 0; n < kN; ++n) mma_tf32(sums[m][n], a_high, b_high[n]);
    }
  }
};

// Without tensor cores: any GPU for float, 16-bit tensors before sm_80, and double everywhere.
template <typename T>
struct MultiplyAdd {
  using Operand = T;
  using Sum = T;
  static constexpr bool kExact = true;
  static constexpr bool kOnTensorCores = false;
  static DEVICE_INLINE T operand(T value) { return value; }

  template <int kM, int kN>
  static DEVICE_INLINE void add(T (&sums)[kM][kN][4], const T (&a)[kM][2], const T (&b)[kN][2]) {
    UNROLL
    for (int m = 0; m < kM; ++m) {
      UNROLL
      for (int n = 0; n < kN; ++n) {
        UNROLL
        for (int i = 0; i < 4; ++i) sums[m][n][i] += a[m][i / 2] * b[n][i % 2];
      }
    }
  }

  template <int kM, int kN>
  static DEVICE_INLINE void add_rows(T (&sums)[kM][kN][4], const unsigned char* a_tile,
                                     const unsigned char* b_tile) {
    constexpr int kPerChunk = kChunkBytes / static_cast<int>(sizeof(T));
    struct alignas(kChunkBytes) Values {
      T at[kPerChunk];
    };
    const int g = static_cast<int>(threadIdx.x) % 32 / 4, t = static_cast<int>(threadIdx.x) % 4;
    for (int chunk = 0; chunk < kRowChunks; ++chunk) {
      Values a[kM][2], b[kN][2];
      UNROLL
      for (int i = 0; i < 2; ++i) {
        UNROLL
        for (int m = 0; m < kM; ++m) {
          a[m][i] = *reinterpret_cast<const Values*>(a_tile + swizzled(16 * m + 8 * i + g, chunk));
        }
        UNROLL
        for (int n = 0; n < kN; ++n) {
          b[n][i] = *reinterpret_cast<const Values*>(b_tile + swizzled(8 * n + 2 * t + i, chunk));
        }
      }
      UNROLL
      for (int k = 0; k < kPerChunk; ++k) {
        T a_k[kM][2], b_k[kN][2];
        UNROLL
        for (int i = 0; i < 2; ++i) {
          UNROLL
          for (int m = 0; m < kM; ++m) a_k[m][i] = a[m][i].at[k];
          UNROLL
          for (int n = 0; n < kN; ++n) b_k[n][i] = b[n][i].at[k];
        }
        add(sums, a_k, b_k);
      }
    }
  }

  template <int kLineA, int kLineB, int kLines, int kM, int kN>
  static DEVICE_INLINE void add_columns(T (&sums)[kM][kN][4], const T* a_tile, const T* b_tile) {
    const int g = static_cast<int>(threadIdx.x) % 32 / 4, t = static_cast<int>(threadIdx.x) % 4;
    UNROLL
    for (int k = 0; k < kLines; ++k) {
      T a[kM][2], b[kN][2];
      UNROLL
      for (int i = 0; i < 2; ++i) {
        UNROLL
        for (int m = 0; m < kM; ++m) a[m][i] = a_tile[k * kLineA + 16 * m + 8 * i + g];
        UNROLL
        for (int n = 0; n < kN; ++n) b[n][i] = b_tile[k * kLineB + 8 * n + 2 * t + i];
      }
      add(sums, a, b);
    }
  }
};

}  // namespace deeplab
