// One update of the marginals of all points: what every kernel's blurred table gives, the unary
// term and the softmax, in one launch.
#pragma once

#include "../common/kernel.cuh"
#include "../permutohedral/slice.cuh"

namespace deeplab {

constexpr int kMaxKernels = 16;
constexpr int kWarp = 32;
constexpr float kLowest = -3.402823466e38f;

enum class Compatibility { potts, diagonal, matrix };

struct UpdateKernel {
  Index corners;
  const int* vertex;           // (points, corners)
  const float* weight;         // (points, corners)
  const float* table;          // (vertices, C), blurred
  const float* scale;          // (points) or null = 1
  const float* kernel_weight;  // one value
  const float* mu;             // (C) or (C, C)
  float alpha;
  Compatibility compatibility;
};

struct UpdateArguments {
  Index points;   // of all pictures
  Index picture;  // points of one
  Index classes;
  Index kernels;  // 0: softmax of -unary alone
  float cutoff;
  float relaxation;
  const float* unary;  // (B, C, P)
  const float* old;    // (points, C), the last marginals; read where relaxation is not 1
  float* message;      // (points, C), for matrices
  float* marginals;    // (points, C)
  float* result;       // (B, C, P) or null
  UpdateKernel kernel[kMaxKernels];

  HOST_DEVICE Index planar(Index point, Index c) const {
    return (point / picture * classes + c) * picture + point % picture;
  }
};

__device__ inline float warp_max(float value) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, step));
  }
  return value;
}

__device__ inline float warp_sum(float value) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value += __shfl_xor_sync(0xffffffff, value, step);
  }
  return value;
}

// row[c] -= what kernel k says of class c, for the classes lane, lane + 32, ... of a point.
__device__ inline void subtract_message(const UpdateArguments& a, const UpdateKernel& k,
                                        Index point, Index lane, float* row) {
  const float factor = *k.kernel_weight * k.alpha * (k.scale ? k.scale[point] : 1.0f);
  float* message = a.message + point * a.classes;
  for (Index c = lane; c < a.classes; c += kWarp) {
    const float value =
        factor * sliced(k.corners, a.classes, k.vertex, k.weight, k.table, point, c);
    if (k.compatibility == Compatibility::potts) {
      row[c] += value;
    } else if (k.compatibility == Compatibility::diagonal) {
      row[c] -= k.mu[c] * value;
    } else {
      message[c] = value;
    }
  }
  if (k.compatibility != Compatibility::matrix) return;
  __syncwarp();
  for (Index c = lane; c < a.classes; c += kWarp) {
    float sum = 0;
    for (Index other = 0; other < a.classes; ++other) {
      sum += k.mu[c * a.classes + other] * message[other];
    }
    row[c] -= sum;
  }
  __syncwarp();  // the next kernel writes the message anew
}

// One warp, one point.
static __global__ void update_kernel(UpdateArguments a) {
  const Index lane = threadIdx.x % kWarp;
  const Index warps = static_cast<Index>(gridDim.x) * (blockDim.x / kWarp);
  for (Index point = (static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
       point < a.points; point += warps) {
    float* row = a.marginals + point * a.classes;
    for (Index c = lane; c < a.classes; c += kWarp) row[c] = -a.unary[a.planar(point, c)];
    for (Index k = 0; k < a.kernels; ++k) subtract_message(a, a.kernel[k], point, lane, row);
    float top = kLowest;
    for (Index c = lane; c < a.classes; c += kWarp) top = fmaxf(top, row[c]);
    top = warp_max(top);
    float total = 0;
    for (Index c = lane; c < a.classes; c += kWarp) {
      const float below = row[c] - top;
      row[c] = below < -a.cutoff ? 0.0f : expf(below);
      total += row[c];
    }
    total = warp_sum(total);
    for (Index c = lane; c < a.classes; c += kWarp) {
      float q = row[c] / total;
      if (a.kernels > 0 && a.relaxation != 1) {
        q = (1 - a.relaxation) * a.old[point * a.classes + c] + a.relaxation * q;
      }
      row[c] = q;
      if (a.result) a.result[a.planar(point, c)] = q;
    }
  }
}

// marginals (points, C) = planes (B, C, P), and to result too where that is not null.
static __global__ void start_from_kernel(UpdateArguments a, const float* planes) {
  GRID_STRIDE_LOOP(i, a.points * a.classes) {
    const Index point = i / a.classes;
    const Index c = i - point * a.classes;
    a.marginals[i] = planes[a.planar(point, c)];
    if (a.result) a.result[a.planar(point, c)] = a.marginals[i];
  }
}

// norm becomes the factor of a point, 1 / norm or its root.
static __global__ void normalizer_kernel(Index points, bool root, float tiny, float* norm) {
  GRID_STRIDE_LOOP(i, points) { norm[i] = 1 / (root ? sqrtf(norm[i] + tiny) : norm[i] + tiny); }
}

}  // namespace deeplab
