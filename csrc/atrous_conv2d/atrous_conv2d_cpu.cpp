#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "../common/huge_pages.h"
#include "atrous_depthwise_entry.h"
#include "cpu/depthwise.h"
#include "cpu/direct.h"
#include "torch_threads.h"

namespace deeplab {
namespace {

// Work below this many elements is not worth a second thread.
constexpr Index kGrain = 32768;

// The outputs j of a row whose tap reads inside: [first, last).
void inside(Index out, Index in, Index stride, Index offset, Index* first, Index* last) {
  *first = std::clamp<Index>(offset >= 0 ? 0 : ceil_div(-offset, stride), 0, out);
  *last = std::clamp<Index>(offset >= in ? 0 : ceil_div(in - offset, stride), *first, out);
}

struct AtrousConv2dCpu {
  static constexpr const char* kDtypes = "float32 or float64";
  static constexpr bool kPlanarGradWeight = true;
  static constexpr bool kPlanarDepthwiseGradWeight = false;

  static bool accepts(torch::headeronly::ScalarType dtype) {
    using torch::headeronly::ScalarType;
    return dtype == ScalarType::Float || dtype == ScalarType::Double;
  }

  template <typename F>
  static void dispatch(const Tensor& t, const F& f) {
    dispatch_float(t, f);
  }

  template <typename T>
  static void forward(const ConvGeometry& g, const T* x, const T* weight, WeightStrides strides,
                      const T* bias, T* y, const ConvOptions& options) {
    direct_forward(g, x, weight, strides, bias, y, options, torch_threads());
  }

  template <typename T>
  static void grad_input(const ConvGeometry& g, const T* grad_y, const T* weight,
                         WeightStrides strides, T* grad_x, const ConvOptions& options) {
    direct_grad_input(g, grad_y, weight, strides, grad_x, options, torch_threads());
  }

  template <typename T>
  static void grad_weight(const ConvGeometry& g, const T* grad_y, const T* x, T* grad_weight,
                          const ConvOptions& options) {
    direct_grad_weight(g, grad_y, x, grad_weight, options, torch_threads());
  }

  template <typename T>
  static void depthwise(const ConvGeometry& g, const T* x, const T* weight, const T* bias, T* y,
                        const DepthwiseOptions& options) {
    prefer_huge_pages(y, g.batch * g.out_channels * g.out_pixels() * sizeof(T));
    depthwise_forward(g, x, weight, bias, y, options, torch_threads());
  }

  template <typename T>
  static void depthwise_grad_input(const ConvGeometry& g, const T* grad_y, const T* weight,
                                   T* grad_x, const DepthwiseOptions& options) {
    prefer_huge_pages(grad_x, g.batch * g.in_channels * g.in_pixels() * sizeof(T));
    deeplab::depthwise_grad_input(g, grad_y, weight, grad_x, options, torch_threads());
  }

  template <typename T>
  static void depthwise_grad_weight(const ConvGeometry& g, const T* grad_y, const T* x,
                                    T* grad_weight, const DepthwiseOptions& options) {
    deeplab::depthwise_grad_weight(g, grad_y, x, grad_weight, options, torch_threads());
  }

  // One row of the column matrix at a time: a tap of a channel, for all pixels.
  template <typename T>
  static void im2col(const ConvGeometry& g, const T* x, T* columns, const ConvOptions&) {
    const Index rows = g.batch * g.in_channels * g.taps();
    torch::stable::parallel_for(
        0, rows, ceil_div(kGrain, g.out_pixels()), [&](int64_t begin, int64_t end) {
          for (Index row = begin; row < end; ++row) {
            const Index tap = row % g.taps();
            const T* map = x + row / g.taps() * g.in_pixels();
            const Index r = tap / g.kernel_w, s = tap % g.kernel_w;
            Index first, last;
            inside(g.out_width, g.width, g.stride_w, g.in_column(0, s), &first, &last);
            T* to = columns + row * g.out_pixels();
            for (Index i = 0; i < g.out_height; ++i, to += g.out_width) {
              const Index y = g.in_row(i, r);
              if (y < 0 || y >= g.height) {
                std::fill(to, to + g.out_width, T{0});
                continue;
              }
              const T* from = map + y * g.width + g.in_column(0, s);
              std::fill(to, to + first, T{0});
              for (Index j = first; j < last; ++j) to[j] = from[j * g.stride_w];
              std::fill(to + last, to + g.out_width, T{0});
            }
          }
        });
  }

  // One channel at a time, which gathers its taps in order.
  template <typename T>
  static void col2im(const ConvGeometry& g, const T* columns, T* x, const ConvOptions&) {
    const Index per_channel = g.taps() * g.out_pixels();
    torch::stable::parallel_for(
        0, g.batch * g.in_channels, ceil_div(kGrain, per_channel), [&](int64_t begin, int64_t end) {
          for (Index channel = begin; channel < end; ++channel) {
            T* map = x + channel * g.in_pixels();
            std::fill(map, map + g.in_pixels(), T{0});
            for (Index tap = 0; tap < g.taps(); ++tap) {
              const Index r = tap / g.kernel_w, s = tap % g.kernel_w;
              Index first, last;
              inside(g.out_width, g.width, g.stride_w, g.in_column(0, s), &first, &last);
              const T* from = columns + channel * per_channel + tap * g.out_pixels();
              for (Index i = 0; i < g.out_height; ++i, from += g.out_width) {
                const Index y = g.in_row(i, r);
                if (y < 0 || y >= g.height) continue;
                T* to = map + y * g.width + g.in_column(0, s);
                for (Index j = first; j < last; ++j) to[j * g.stride_w] += from[j];
              }
            }
          }
        });
  }
};

}  // namespace
}  // namespace deeplab

STABLE_TORCH_LIBRARY_IMPL(deeplab_repro, CPU, m) {
  using deeplab::AtrousConv2dCpu;
  m.impl("atrous_conv2d_direct", TORCH_BOX(&deeplab::conv_direct<AtrousConv2dCpu>));
  m.impl("atrous_conv2d_direct_grad_input",
         TORCH_BOX(&deeplab::conv_direct_grad_input<AtrousConv2dCpu>));
  m.impl("atrous_conv2d_direct_grad_weight",
         TORCH_BOX(&deeplab::conv_direct_grad_weight<AtrousConv2dCpu>));
  m.impl("atrous_depthwise", TORCH_BOX(&deeplab::conv_depthwise<AtrousConv2dCpu>));
  m.impl("atrous_depthwise_grad_input",
         TORCH_BOX(&deeplab::conv_depthwise_grad_input<AtrousConv2dCpu>));
  m.impl("atrous_depthwise_grad_weight",
         TORCH_BOX(&deeplab::conv_depthwise_grad_weight<AtrousConv2dCpu>));
  m.impl("atrous_im2col", TORCH_BOX(&deeplab::conv_im2col<AtrousConv2dCpu>));
  m.impl("atrous_col2im", TORCH_BOX(&deeplab::conv_col2im<AtrousConv2dCpu>));
}
