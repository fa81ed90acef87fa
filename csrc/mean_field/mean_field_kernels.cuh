// One update of the marginals of all points: what every kernel's blurred table gives, the unary
// term and the softmax, in one launch.
#pragma once

#include "../common/float16.h"
#include "../common/kernel.cuh"
#include "../permutohedral/rows.cuh"

namespace deeplab {

constexpr int kMaxKernels = 16;
constexpr int kWarp = 32;
constexpr float kLowest = -3.402823466e38f;

enum class Compatibility { potts, diagonal, matrix };

struct UpdateKernel {
  Index corners;
  const int* vertex;           // (points, corners)
  const float* weight;         // (points, corners)
  const float* table;          // (vertices, quads), blurred
  const float* scale;          // (points) or null = 1
  const float* kernel_weight;  // one value
  const float* mu;             // (C) or (C, C)
  float alpha;
  Compatibility compatibility;
};

// Rows (points, quads) hold the classes of a point, padded to quads of four.
struct UpdateArguments {
  Index points;  // of all pictures
  Index classes;
  Index kernels;  // 0: softmax of the logits alone
  float cutoff;
  float relaxation;
  const float* logits;  // rows of -unary; the padding is -infinity, and its marginals 0
  const float* old;     // rows of the last marginals; read where relaxation is not 1
  float* message;       // rows, for matrices
  float* marginals;     // rows
  UpdateKernel kernel[kMaxKernels];
};

// Over kLanes neighbouring lanes.
template <int kLanes>
__device__ float most_of_lanes(float value) {
  UNROLL
  for (int step = kLanes / 2; step > 0; step /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, step));
  }
  return value;
}

template <int kLanes>
__device__ float sum_of_lanes(float value) {
  UNROLL
  for (int step = kLanes / 2; step > 0; step /= 2) {
    value += __shfl_xor_sync(0xffffffff, value, step);
  }
  return value;
}

// The quads of one point that a lane owns, lane, lane + kLanes, ...: in registers, or where there
// are more than kHeld, for which 0 stands, in the row of the marginals that they become.
template <int kHeld>
struct OwnQuads {
  Quad<float> held[kHeld];

  __device__ OwnQuads(float*, unsigned, unsigned) {}
  __device__ Quad<float> get(int i, unsigned) const { return held[i]; }
  __device__ void set(int i, unsigned, const Quad<float>& quad) { held[i] = quad; }
};

template <>
struct OwnQuads<0> {
  float* marginals;
  unsigned quads, point;

  __device__ OwnQuads(float* marginals, unsigned quads, unsigned point)
      : marginals(marginals), quads(quads), point(point) {}
  __device__ Quad<float> get(int, unsigned q) const {
    return Column<float>(marginals, quads, q)[point];
  }
  __device__ void set(int, unsigned q, const Quad<float>& quad) {
    WrittenColumn<float>(marginals, quads, q).write(point, quad);
  }
};

// A point as kLanes lanes of a warp work on it.
template <int kLanes, int kHeld>
struct PointUpdate {
  const UpdateArguments& a;
  unsigned quads, lane, point;
  OwnQuads<kHeld> own;

  __device__ PointUpdate(const UpdateArguments& a, unsigned point)
      : a(a),
        quads(static_cast<unsigned>(quads_of(a.classes))),
        lane(threadIdx.x % kLanes),
        point(point),
        own(a.marginals, quads, point) {}

  // f(quad, q) for every quad that the lane owns; what it does to the quad stays.
  template <typename F>
  __device__ void each(const F& f) {
    const int count = kHeld > 0 ? kHeld : static_cast<int>((quads + kLanes - 1) / kLanes);
    UNROLL
    for (int i = 0; i < count; ++i) {
      const unsigned q = lane + i * kLanes;
      if (q >= quads) break;
      Quad<float> quad = own.get(i, q);
      f(quad, q);
      own.set(i, q, quad);
    }
  }

  // Adds what kernel k says of each class.
  __device__ void add_message(const UpdateKernel& k) {
    const auto corners = static_cast<int>(k.corners);
    const Index first = Index{point} * corners;
    const float factor = *k.kernel_weight * k.alpha * (k.scale ? k.scale[point] : 1.0f);
    each([&](Quad<float>& quad, unsigned q) {
      Quad<float> message =
          sliced(corners, k.vertex + first, k.weight + first, Column<float>(k.table, quads, q));
      if (k.compatibility == Compatibility::potts) {
        add_product(quad, factor, message);
        return;
      }
      UNROLL
      for (int i = 0; i < kQuad; ++i) message.at[i] *= factor;
      if (k.compatibility == Compatibility::matrix) {
        WrittenColumn<float>(a.message, quads, q).write(point, message);
        return;
      }
      UNROLL
      for (int i = 0; i < kQuad; ++i) {
        const Index c = Index{q} * kQuad + i;
        if (c < a.classes) quad.at[i] -= k.mu[c] * message.at[i];
      }
    });
    if (k.compatibility == Compatibility::matrix) subtract_mixed(k);
  }

  // Every class's message is in a.message; of each, mu's row of them all is subtracted.
  __device__ void subtract_mixed(const UpdateKernel& k) {
    __syncwarp();
    const float* const message = a.message + Index{point} * quads * kQuad;
    each([&](Quad<float>& quad, unsigned q) {
      UNROLL
      for (int i = 0; i < kQuad; ++i) {
        const Index c = Index{q} * kQuad + i;
        if (c >= a.classes) break;
        float sum = 0;
        NO_UNROLL
        for (Index other = 0; other < a.classes; ++other) {
          sum += k.mu[c * a.classes + other] * message[other];
        }
        quad.at[i] -= sum;
      }
    });
    __syncwarp();  // the next kernel writes the message anew
  }

  __device__ void softmax() {
    float top = kLowest;
    each([&](const Quad<float>& quad, unsigned) {
      UNROLL
      for (int i = 0; i < kQuad; ++i) top = fmaxf(top, quad.at[i]);
    });
    top = most_of_lanes<kLanes>(top);
    float total = 0;
    each([&](Quad<float>& quad, unsigned) {
      UNROLL
      for (int i = 0; i < kQuad; ++i) {
        const float below = quad.at[i] - top;
        quad.at[i] = below < -a.cutoff ? 0.0f : expf(below);
        total += quad.at[i];
      }
    });
    const float share = 1 / sum_of_lanes<kLanes>(total);
    each([&](Quad<float>& quad, unsigned) {
      UNROLL
      for (int i = 0; i < kQuad; ++i) quad.at[i] *= share;
    });
  }
};

// kLanes lanes, one point. kHeld quads of a lane at most, 0 for any number.
template <int kLanes, int kHeld>
__global__ void update_kernel(const __grid_constant__ UpdateArguments a) {
  static_assert(kHeld > 0 || kLanes == kWarp, "no two lanes may write one place");
  const auto points = static_cast<unsigned>(a.points);
  const unsigned in_block = blockDim.x / kLanes;
  // All lanes of a warp stay together, for the shuffles: behind the last point, they repeat it.
  const unsigned own = threadIdx.x / kLanes, in_warp = own % (kWarp / kLanes);
  for (unsigned first = blockIdx.x * in_block + own - in_warp; first < points;
       first += gridDim.x * in_block) {
    const bool exists = first + in_warp < points;
    PointUpdate<kLanes, kHeld> update(a, exists ? first + in_warp : points - 1);
    update.each([&](Quad<float>& quad, unsigned q) {
      quad = Column<float>(a.logits, update.quads, q)[update.point];
    });
    NO_UNROLL
    for (int k = 0; k < static_cast<int>(a.kernels); ++k) update.add_message(a.kernel[k]);
    update.softmax();
    update.each([&](Quad<float>& quad, unsigned q) {
      if (a.kernels > 0 && a.relaxation != 1) {
        const Quad<float> old = Column<float>(a.old, update.quads, q)[update.point];
        UNROLL
        for (int i = 0; i < kQuad; ++i) {
          quad.at[i] = (1 - a.relaxation) * old.at[i] + a.relaxation * quad.at[i];
        }
      }
      if (exists) WrittenColumn<float>(a.marginals, update.quads, q).write(update.point, quad);
    });
  }
}

// norm becomes the factor of a point, 1 / norm or its root.
static __global__ void normalizer_kernel(Index points, bool root, float tiny, float* norm) {
  GRID_STRIDE_LOOP(i, points) { norm[i] = 1 / (root ? sqrtf(norm[i] + tiny) : norm[i] + tiny); }
}

}  // namespace deeplab
