// Division by a number that a whole launch shares, without dividing: a product and a shift in place
// of some 20 instructions (70 for 64 bits).
#pragma once

#include "host_device.h"

namespace deeplab {

// What is divided is below 2^31.
struct Divisor {
  Index value;
  Index factor;  // 2^shift / value, rounded up; below 2^32
  Index shift;

  HOST_DEVICE unsigned quotient(unsigned number) const {
    const unsigned long long product =
        static_cast<unsigned long long>(number) * static_cast<unsigned>(factor);
    return static_cast<unsigned>(product >> static_cast<unsigned>(shift));
  }
};

// value: 1 to 2^31 - 1. That the factor is rounded up adds less than number / 2^shift, which is at
// most 1 / value, to the exact quotient, and so never reaches the next whole number.
HOST_DEVICE Divisor divisor_of(Index value) {
  Index shift = 31;
  while (Index{1} << (shift - 31) < value) ++shift;
  return {value, static_cast<Index>(((1ULL << shift) + value - 1) / value), shift};
}

}  // namespace deeplab
