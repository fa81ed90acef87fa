// The matrix unit in software: the six instructions that csrc uses, for processors without them.
// Included before all else by what is compiled for that unit.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace amx_on_host {

struct Config {
  std::uint8_t palette, start_row, reserved[14];
  std::uint16_t column_bytes[16];
  std::uint8_t rows[16];
};

inline thread_local Config config;
inline thread_local unsigned char tiles[8][16][64];

inline void load_config(const void* from) { std::memcpy(&config, from, sizeof(Config)); }
inline void release() { std::memset(&config, 0, sizeof(Config)); }
inline void zero(int t) { std::memset(tiles[t], 0, sizeof(tiles[t])); }

// Rows beyond those that are configured become 0, as the unit has it.
inline void load(int t, const void* from, long long step) {
  zero(t);
  for (int r = 0; r < config.rows[t]; ++r) {
    std::memcpy(tiles[t][r], static_cast<const char*>(from) + r * step, config.column_bytes[t]);
  }
}

inline void store(int t, void* to, long long step) {
  for (int r = 0; r < config.rows[t]; ++r) {
    std::memcpy(static_cast<char*>(to) + r * step, tiles[t][r], config.column_bytes[t]);
  }
}

inline float value(const unsigned char* bf16) {
  std::uint32_t bits = static_cast<std::uint32_t>(bf16[0] | bf16[1] << 8) << 16;
  if ((bits & 0x7f800000u) == 0) bits &= 0x80000000u;  // what is subnormal counts as 0
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

// sums[m][n] += left[m][2k] * right[k][2n] + left[m][2k + 1] * right[k][2n + 1]
inline void multiply(int sums, int left, int right) {
  for (int m = 0; m < config.rows[sums]; ++m) {
    for (int k = 0; k < config.rows[right]; ++k) {
      for (int n = 0; n < 16; ++n) {
        float sum;
        std::memcpy(&sum, tiles[sums][m] + 4 * n, 4);
        for (int i = 0; i < 2; ++i) {
          sum += value(tiles[left][m] + 4 * k + 2 * i) * value(tiles[right][k] + 4 * n + 2 * i);
        }
        std::memcpy(tiles[sums][m] + 4 * n, &sum, 4);
      }
    }
  }
}

}  // namespace amx_on_host

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig amx_on_host::load_config
#define _tile_release amx_on_host::release
#define _tile_zero amx_on_host::zero
#define _tile_loadd amx_on_host::load
#define _tile_stored amx_on_host::store
#define _tile_dpbf16ps amx_on_host::multiply
