// The sequence of kernels of mean field, for nvcc and for the host harness alike. Nothing waits for
// the device, so that the whole can be captured in a graph.
#pragma once

#include <vector>

#include "../permutohedral/filter_launch.cuh"
#include "mean_field_kernels.cuh"
#include "normalization.h"

namespace deeplab {

constexpr int kMeanFieldThreads = 256;

struct MeanFieldInput {
  Index pictures, points, classes;  // points of a picture
  const float* unary;               // (B, C, P)
  const float* initial;             // (B, C, P) or null
  float relaxation;
  Index iterations;
  float cutoff;
};

struct MeanFieldInputKernel {
  DeviceLattice<float> lattice;  // its channels: the classes
  Normalization normalization;
  Compatibility compatibility;
  const float* weight;  // one value
  const float* mu;
};

// (points) 1 / norm, or its root.
template <typename Device>
float* normalizer(Device& device, DeviceLattice<float> lattice, bool root) {
  lattice.geometry.channels = 1;
  const Index points = lattice.geometry.points;
  float* ones = device.template allocate<float>(points);
  float* norm = device.template allocate<float>(points);
  launch_items(device, points, fill_kernel<float>, points, 1.0f, ones);
  launch_filter(device, lattice, ones, false, norm);
  launch_items(device, points, normalizer_kernel, points, root, kTinyNorm, norm);
  return norm;
}

// There must be points, and at most kMaxKernels kernels.
template <typename Device>
void launch_mean_field(Device& device, const MeanFieldInput& input,
                       const std::vector<MeanFieldInputKernel>& kernels, float* result) {
  UpdateArguments a = {};
  a.points = input.pictures * input.points;
  a.picture = input.points;
  a.classes = input.classes;
  a.cutoff = input.cutoff;
  a.relaxation = input.relaxation;
  a.unary = input.unary;
  float* marginals[2] = {device.template allocate<float>(a.points * a.classes), nullptr};
  marginals[1] =
      input.relaxation == 1 ? marginals[0] : device.template allocate<float>(a.points * a.classes);

  std::vector<FilterTables<float>> tables;
  std::vector<const float*> splat_scale;
  bool matrices = false;
  for (std::size_t k = 0; k < kernels.size(); ++k) {
    const MeanFieldInputKernel& from = kernels[k];
    const FilterGeometry& g = from.lattice.geometry;
    const Normalization norm = from.normalization;
    float* scale = norm == Normalization::none
                       ? nullptr
                       : normalizer(device, from.lattice, norm == Normalization::symmetric);
    splat_scale.push_back(norm == Normalization::after ? nullptr : scale);
    tables.emplace_back(device, g);
    a.kernel[k] = {g.corners,
                   from.lattice.vertex,
                   from.lattice.weight,
                   nullptr,
                   norm == Normalization::before ? nullptr : scale,
                   from.weight,
                   from.mu,
                   from.lattice.alpha(),
                   from.compatibility};
    matrices |= from.compatibility == Compatibility::matrix;
  }
  if (matrices) a.message = device.template allocate<float>(a.points * a.classes);

  for (Index step = 0; step <= input.iterations; ++step) {
    a.kernels = step == 0 ? 0 : static_cast<Index>(kernels.size());
    a.old = marginals[0];
    a.marginals = marginals[1];
    a.result = step == input.iterations ? result : nullptr;
    for (std::size_t k = 0; step > 0 && k < kernels.size(); ++k) {
      splat_and_blur(device, kernels[k].lattice, splat_scale[k], a.old, false, tables[k]);
      a.kernel[k].table = tables[k].table;
    }
    if (step == 0 && input.initial) {
      launch_items(device, a.points * a.classes, start_from_kernel, a, input.initial);
    } else {
      launch(update_kernel, grid_size(a.points, kMeanFieldThreads / kWarp, device.max_blocks),
             kMeanFieldThreads, device.stream, a);
    }
    std::swap(marginals[0], marginals[1]);
  }
}

}  // namespace deeplab
