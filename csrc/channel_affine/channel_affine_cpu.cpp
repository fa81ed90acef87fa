#include <torch/csrc/stable/library.h>

#include "channel_affine_entry.h"

namespace deeplab {
namespace {

// Work below this many elements is not worth a second thread.
constexpr Index kGrain = 32768;

// Partial sums kept side by side, so that the compiler may use vector registers without being
// allowed to reorder additions (no fast-math).
constexpr int kLanes = 16;

template <typename T>
double sum_row(const T* a, Index count) {
  T lanes[kLanes] = {};
  Index i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int k = 0; k < kLanes; ++k) {
      lanes[k] += a[i + k];
    }
  }
  double sum = 0;
  for (const T lane : lanes) {
    sum += lane;
  }
  for (; i < count; ++i) {
    sum += a[i];
  }
  return sum;
}

template <typename T>
double dot_row(const T* a, const T* b, Index count) {
  T lanes[kLanes] = {};
  Index i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int k = 0; k < kLanes; ++k) {
      lanes[k] += a[i + k] * b[i + k];
    }
  }
  double sum = 0;
  for (const T lane : lanes) {
    sum += lane;
  }
  for (; i < count; ++i) {
    sum += static_cast<double>(a[i]) * b[i];
  }
  return sum;
}

struct ChannelAffineCpu {
  template <typename T>
  static void forward(const ChannelAffineGeometry& g, const T* x, const T* scale, const T* shift,
                      T* y, Index /*max_blocks*/, int /*device*/) {
    const Index grain = ceil_div(kGrain, g.spatial);
    torch::stable::parallel_for(0, g.batch * g.channels, grain, [&](int64_t begin, int64_t end) {
      for (Index row = begin; row < end; ++row) {
        const Index c = row % g.channels;
        const T* from = x + row * g.spatial;
        T* to = y + row * g.spatial;
        const T factor = scale[c];
        if (shift) {
          const T offset = shift[c];
          for (Index s = 0; s < g.spatial; ++s) {
            to[s] = from[s] * factor + offset;
          }
        } else {
          for (Index s = 0; s < g.spatial; ++s) {
            to[s] = from[s] * factor;
          }
        }
      }
    });
  }

  // One thread owns whole channels and adds their rows in order: the same sums for any thread
  // count.
  template <typename T>
  static void reduce(const ChannelAffineGeometry& g, const T* grad_y, const T* x, T* grad_scale,
                     T* grad_shift, Index /*max_blocks*/, int /*device*/) {
    const Index per_channel = g.batch * g.spatial;
    const Index grain = ceil_div(kGrain, per_channel > 0 ? per_channel : 1);
    torch::stable::parallel_for(0, g.channels, grain, [&](int64_t begin, int64_t end) {
      for (Index c = begin; c < end; ++c) {
        double scale_sum = 0;
        double shift_sum = 0;
        for (Index n = 0; n < g.batch; ++n) {
          const Index row = g.row(n, c);
          if (grad_scale) {
            scale_sum += dot_row(grad_y + row, x + row, g.spatial);
          }
          if (grad_shift) {
            shift_sum += sum_row(grad_y + row, g.spatial);
          }
        }
        if (grad_scale) {
          grad_scale[c] = static_cast<T>(scale_sum);
        }
        if (grad_shift) {
          grad_shift[c] = static_cast<T>(shift_sum);
        }
      }
    });
  }
};

}  // namespace
}  // namespace deeplab

STABLE_TORCH_LIBRARY_IMPL(deeplab_repro, CPU, m) {
  using deeplab::ChannelAffineCpu;
  m.impl("channel_affine", TORCH_BOX(&deeplab::channel_affine_forward<ChannelAffineCpu>));
  m.impl("channel_affine_backward", TORCH_BOX(&deeplab::channel_affine_backward<ChannelAffineCpu>));
}
