#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

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

// Rows of a channels-last map whose sums are kept apart: a number of its own, so that the sums do
// not depend on how many threads there are.
constexpr Index kRowsAtOnce = 512;

template <typename T>
void affine_row(const T* x, const T* scale, const T* shift, T* y, Index channels) {
  if (shift) {
    for (Index c = 0; c < channels; ++c) {
      y[c] = x[c] * scale[c] + shift[c];
    }
  } else {
    for (Index c = 0; c < channels; ++c) {
      y[c] = x[c] * scale[c];
    }
  }
}

template <typename T>
void affine_plane(const T* x, T scale, const T* shift, T* y, Index spatial) {
  if (shift) {
    const T offset = *shift;
    for (Index s = 0; s < spatial; ++s) {
      y[s] = x[s] * scale + offset;
    }
  } else {
    for (Index s = 0; s < spatial; ++s) {
      y[s] = x[s] * scale;
    }
  }
}

// sums[c] += sum over rows of a[row, c], or of a[row, c] * b[row, c].
template <typename T>
void add_rows(const T* a, const T* b, Index rows, Index channels, T* sums) {
  for (Index row = 0; row < rows; ++row, a += channels) {
    if (b) {
      for (Index c = 0; c < channels; ++c) {
        sums[c] += a[c] * b[c];
      }
      b += channels;
    } else {
      for (Index c = 0; c < channels; ++c) {
        sums[c] += a[c];
      }
    }
  }
}

struct ChannelAffineCpu {
  static constexpr bool kPlanarReduce = false;

  template <typename T>
  static void forward(const ChannelAffineGeometry& g, const T* x, const T* scale, const T* shift,
                      T* y, Index /*max_blocks*/, int /*device*/) {
    if (g.spatial == 1) {
      const Index grain = ceil_div(kGrain, g.channels);
      torch::stable::parallel_for(0, g.batch, grain, [&](int64_t begin, int64_t end) {
        for (Index row = begin * g.channels; row < end * g.channels; row += g.channels) {
          affine_row(x + row, scale, shift, y + row, g.channels);
        }
      });
      return;
    }
    const Index grain = ceil_div(kGrain, g.spatial);
    torch::stable::parallel_for(0, g.batch * g.channels, grain, [&](int64_t begin, int64_t end) {
      for (Index row = begin; row < end; ++row) {
        const Index c = row % g.channels;
        affine_plane(x + row * g.spatial, scale[c], shift ? shift + c : nullptr,
                     y + row * g.spatial, g.spatial);
      }
    });
  }

  template <typename T>
  static void reduce(const ChannelAffineGeometry& g, const T* grad_y, const T* x, T* grad_scale,
                     T* grad_shift, Index /*max_blocks*/, int /*device*/) {
    if (g.spatial == 1) {
      if (grad_scale) reduce_rows(g, grad_y, x, grad_scale);
      if (grad_shift) reduce_rows<T>(g, grad_y, nullptr, grad_shift);
    } else {
      reduce_planes(g, grad_y, x, grad_scale, grad_shift);
    }
  }

 private:
  // Each piece of kRowsAtOnce rows has sums of its own, which are added up in order.
  template <typename T>
  static void reduce_rows(const ChannelAffineGeometry& g, const T* a, const T* b, T* sums) {
    const Index pieces = ceil_div(g.batch, kRowsAtOnce);
    std::vector<T> parts(pieces * g.channels, 0);
    const Index grain = ceil_div(kGrain, kRowsAtOnce * g.channels);
    torch::stable::parallel_for(0, pieces, grain, [&](int64_t begin, int64_t end) {
      for (Index piece = begin; piece < end; ++piece) {
        const Index first = piece * kRowsAtOnce;
        const Index rows = std::min(kRowsAtOnce, g.batch - first);
        const Index offset = first * g.channels;
        add_rows(a + offset, b ? b + offset : nullptr, rows, g.channels,
                 parts.data() + piece * g.channels);
      }
    });
    std::vector<double> total(g.channels, 0);
    for (Index i = 0; i < pieces * g.channels; ++i) {
      total[i % g.channels] += parts[i];
    }
    std::copy(total.begin(), total.end(), sums);
  }

  // One thread owns whole channels and adds their planes in order: the same sums for any thread
  // count.
  template <typename T>
  static void reduce_planes(const ChannelAffineGeometry& g, const T* grad_y, const T* x,
                            T* grad_scale, T* grad_shift) {
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
