#include "atrous_conv2d/atrous_conv2d_launch.cuh"

#include "on_host.h"

using namespace deeplab;

namespace {

// Small enough that the harness runs many of them, and more than one warp each way.
using SmallTile = Tile<32, 32, 2, 2>;

// What the kernels may use beside their arguments, filled with NaN.
class Workspace {
 public:
  void* operator()(Index bytes) const {
    blocks_.emplace_back(static_cast<std::size_t>(bytes) / sizeof(Chunk) + 1);
    std::memset(static_cast<void*>(blocks_.back().data()), 0xFF,
                blocks_.back().size() * sizeof(Chunk));
    return blocks_.back().data();
  }

 private:
  mutable std::vector<std::vector<Chunk>> blocks_;
};

ConvGeometry geometry_of(const Index* sizes) {
  ConvGeometry g;
  static_assert(sizeof(g) == 16 * sizeof(Index), "sizes holds one number for each field");
  std::memcpy(&g, sizes, sizeof(g));
  return g;
}

WeightStrides contiguous(const ConvGeometry& g) {
  return {g.group_in() * g.taps(), g.taps(), g.kernel_w, 1};
}

struct Settings {
  Index precision, tensor_cores, channels_last, relu, real_tiles, max_blocks;
};

ConvOptions options_of(const Settings& s) {
  ConvOptions options;
  options.precision = static_cast<Precision>(s.precision);
  options.relu = s.relu;
  options.channels_last = s.channels_last;
  options.max_blocks = s.max_blocks;
  return options;
}

template <typename T, typename F>
void with_way(const Settings& s, const F& f) {
  dispatch_way<T>(static_cast<Precision>(s.precision), s.tensor_cores, f);
}

template <typename T>
void direct(const ConvGeometry& g, const T* x, const T* weight, const T* bias, T* y,
            const Settings& s) {
  with_way<T>(s, [&](auto way) {
    const auto run = [&](auto tile) {
      launch_direct<decltype(way), decltype(tile)>(g, x, weight, contiguous(g), bias, y,
                                                   options_of(s), Workspace{}, nullptr);
    };
    s.real_tiles ? dispatch_tile<decltype(way)>(g.group_out(), run) : run(SmallTile{});
  });
}

template <typename T>
void grad_input(const ConvGeometry& g, const T* grad_y, const T* weight, T* grad_x,
                const Settings& s) {
  with_way<T>(s, [&](auto way) {
    const auto run = [&](auto tile) {
      launch_grad_input<decltype(way), decltype(tile)>(g, grad_y, weight, contiguous(g), grad_x,
                                                       options_of(s), Workspace{}, nullptr);
    };
    s.real_tiles ? dispatch_tile<decltype(way)>(g.group_in(), run) : run(SmallTile{});
  });
}

template <typename T>
void grad_weight(const ConvGeometry& g, const T* grad_y, const T* x, T* result, const Settings& s) {
  with_way<T>(s, [&](auto way) {
    const auto run = [&](auto tile) {
      launch_grad_weight<decltype(way), decltype(tile)>(g, grad_y, x, result, options_of(s),
                                                        Workspace{}, nullptr);
    };
    s.real_tiles ? dispatch_grad_tile<decltype(way)>(g.group_out(), g.group_in(), run)
                 : run(SmallTile{});
  });
}

}  // namespace

// The taps that the tiles of a forward product run, counted once for each pixel they have room for.
extern "C" int taps_run(const Index* sizes, Index tile_pixels, Index* result) {
  return guarded(0, [&] {
    const DirectPlan plan =
        forward_plan(geometry_of(sizes), {4, tile_pixels, 32, 132}, false, false);
    *result = 0;
    for (Index tile = 0; tile < plan.pixel_tiles(); ++tile) {
      *result += plan.box(tile).taps() * tile_pixels;
    }
  });
}

// How often a plan was made for the geometries, `count` in all, one after another; plans[i]: what
// was given for number i, the number of the first that is equal.
extern "C" int cached_plans(const Index* geometries, Index count, Index* plans, Index* made) {
  return guarded(0, [&] {
    Index number = 0;
    *made = 0;
    for (Index i = 0; i < count; ++i) {
      const auto make = [&] {
        ++*made;
        return number;
      };
      number = i;
      plans[i] = cached_plan({geometry_of(geometries + 16 * i), {4, 32, 32, 132}, 0, 1}, make);
    }
  });
}

#define FOR_TYPE(T, name)                                                                          \
  extern "C" int im2col_##name(const Index* sizes, const T* x, T* columns, Index max_blocks,       \
                               int order) {                                                        \
    return guarded(order,                                                                          \
                   [&] { launch_im2col(geometry_of(sizes), x, columns, max_blocks, nullptr); });   \
  }                                                                                                \
  extern "C" int col2im_##name(const Index* sizes, const T* columns, T* x, Index max_blocks,       \
                               int order) {                                                        \
    return guarded(order,                                                                          \
                   [&] { launch_col2im(geometry_of(sizes), columns, x, max_blocks, nullptr); });   \
  }                                                                                                \
  extern "C" int direct_##name(const Index* sizes, const T* x, const T* weight, const T* bias,     \
                               T* y, const Settings* settings, int order) {                        \
    return guarded(order, [&] { direct(geometry_of(sizes), x, weight, bias, y, *settings); });     \
  }                                                                                                \
  extern "C" int grad_input_##name(const Index* sizes, const T* grad_y, const T* weight,           \
                                   T* grad_x, const Settings* settings, int order) {               \
    return guarded(order,                                                                          \
                   [&] { grad_input(geometry_of(sizes), grad_y, weight, grad_x, *settings); });    \
  }                                                                                                \
  extern "C" int grad_weight_##name(const Index* sizes, const T* grad_y, const T* x, T* result,    \
                                    const Settings* settings, int order) {                         \
    return guarded(order, [&] { grad_weight(geometry_of(sizes), grad_y, x, result, *settings); }); \
  }

FOR_TYPE(float, float32)
FOR_TYPE(double, float64)
FOR_TYPE(Half, float16)
FOR_TYPE(BFloat16, bfloat16)

// Every 16-bit float as float32, and float32 rounded to them.
extern "C" int widen(const Half* half, const BFloat16* bfloat, Index count, float* wide) {
  return guarded(0, [&] {
    for (Index i = 0; i < count; ++i) {
      wide[i] = to_real(half[i]);
      wide[count + i] = to_real(bfloat[i]);
    }
  });
}
extern "C" int narrow(const float* wide, Index count, Half* half, BFloat16* bfloat) {
  return guarded(0, [&] {
    for (Index i = 0; i < count; ++i) {
      half[i] = from_real<Half>(wide[i]);
      bfloat[i] = from_real<BFloat16>(wide[i]);
    }
  });
}
