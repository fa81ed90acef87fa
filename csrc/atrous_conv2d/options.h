// How an atrous convolution is to be computed, beside its shapes.
#pragma once

#include "geometry.h"

namespace deeplab {

// How float32 operands are multiplied. Sums are float32 in any case.
enum class Precision { fp32, tf32, bf16, fp16 };

// Steps in elements from one index of weight (K, C, R, S) to the next, so that weights of any
// memory format, transposed or mirrored, are read where they lie.
struct WeightStrides {
  Index out, in, row, column;
};

struct ConvOptions {
  Precision precision = Precision::fp32;
  bool relu = false;
  bool channels_last = false;  // of x and y, or their gradients; columns and weights have their own
  Index max_blocks = 0;
  int device = -1;
};

// What follows a convolution: nothing, max(y, 0), or that and no more than 6.
enum class Activation { none, relu, relu6 };

// How the convolution of single channels treats what it reads and what it writes.
struct DepthwiseOptions {
  bool channels_last = false;  // of x and y, or their gradients
  bool relu_before = false;    // max(x, 0) in place of x
  Activation activation = Activation::none;
  Index max_blocks = 0;
  int device = -1;
};

}  // namespace deeplab
