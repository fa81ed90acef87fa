// What the CPU and the CUDA code of mean field agree on.
#pragma once

namespace deeplab {

enum class Normalization { none, after, before, symmetric };  // as in the op's schema

constexpr float kTinyNorm = 1e-20f;

}  // namespace deeplab
