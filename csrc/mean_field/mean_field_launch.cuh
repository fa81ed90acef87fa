// The sequence of kernels of mean field, for nvcc and for the host harness alike. Nothing waits for
// the device, so that the whole can be captured in a graph.
#pragma once

#include <limits>
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

// (points) 1 / norm, or its root. pairs: of the lattice, without a scale.
template <typename Device>
float* normalizer(Device& device, DeviceLattice<float> lattice, const SplatPair<float>* pairs,
                  bool root) {
  lattice.geometry.channels = 1;
  const Index points = lattice.geometry.points;
  FilterTables<float> tables(device, lattice.geometry);
  float* ones = device.template allocate<float>(points * kQuad);
  float* norm = device.template allocate<float>(points);
  launch_items(device, points * kQuad, fill_kernel<float>, points * kQuad, 1.0f, ones);
  splat_and_blur(device, lattice, pairs, static_cast<const float*>(ones), false, tables);
  slice(device, lattice, static_cast<const float*>(tables.table), norm);
  launch_items(device, points, normalizer_kernel, points, root, kTinyNorm, norm);
  return norm;
}

// As many lanes for a point as it has quads, or the next power of two.
template <typename Device>
void launch_update(const Device& device, const UpdateArguments& a) {
  const Index quads = quads_of(a.classes);
  const auto run = [&](auto kernel, Index lanes) {
    launch(kernel, grid_size(a.points, kMeanFieldThreads / lanes, device.max_blocks),
           kMeanFieldThreads, device.stream, a);
  };
  if (quads <= 1) return run(update_kernel<1, 1>, 1);
  if (quads <= 2) return run(update_kernel<2, 1>, 2);
  if (quads <= 4) return run(update_kernel<4, 1>, 4);
  if (quads <= 8) return run(update_kernel<8, 1>, 8);
  if (quads <= 16) return run(update_kernel<16, 1>, 16);
  if (quads <= 32) return run(update_kernel<32, 1>, 32);
  if (quads <= 64) return run(update_kernel<32, 2>, 32);
  return run(update_kernel<32, 0>, 32);
}

// There must be points, and at most kMaxKernels kernels.
template <typename Device>
void launch_mean_field(Device& device, const MeanFieldInput& input,
                       const std::vector<MeanFieldInputKernel>& kernels, float* result) {
  UpdateArguments a = {};
  a.points = input.pictures * input.points;
  a.classes = input.classes;
  a.cutoff = input.cutoff;
  a.relaxation = input.relaxation;
  const auto new_rows = [&] {
    return device.template allocate<float>(a.points * quads_of(a.classes) * kQuad);
  };
  const Planes planes{a.points, divisor_of(input.points), a.classes};
  constexpr float kNothing = -std::numeric_limits<float>::infinity();  // its exponential is 0
  float* const logits = new_rows();
  launch_items(device, a.points, rows_of_planes_kernel<float>, planes, input.unary, -1.0f, kNothing,
               logits);
  a.logits = logits;
  float* marginals[2] = {new_rows(), nullptr};
  marginals[1] = input.relaxation == 1 ? marginals[0] : new_rows();

  std::vector<FilterTables<float>> tables;
  std::vector<const SplatPair<float>*> pairs;
  bool matrices = false;
  for (std::size_t k = 0; k < kernels.size(); ++k) {
    const MeanFieldInputKernel& from = kernels[k];
    const DeviceLattice<float>& lattice = from.lattice;
    const Normalization norm = from.normalization;
    const float* scale = nullptr;
    pairs.push_back(launch_pairs<Device, float>(device, lattice, nullptr));
    if (norm != Normalization::none) {
      scale = normalizer(device, lattice, pairs[k], norm == Normalization::symmetric);
      if (norm != Normalization::after) pairs[k] = launch_pairs(device, lattice, scale);
    }
    tables.emplace_back(device, lattice.geometry);
    a.kernel[k] = {lattice.geometry.corners,
                   lattice.vertex,
                   lattice.weight,
                   nullptr,
                   norm == Normalization::before ? nullptr : scale,
                   from.weight,
                   from.mu,
                   lattice.alpha(),
                   from.compatibility};
    matrices |= from.compatibility == Compatibility::matrix;
  }
  if (matrices) a.message = new_rows();

  for (Index step = 0; step <= input.iterations; ++step) {
    a.kernels = step == 0 ? 0 : static_cast<Index>(kernels.size());
    a.old = marginals[0];
    a.marginals = marginals[1];
    for (std::size_t k = 0; step > 0 && k < kernels.size(); ++k) {
      splat_and_blur(device, kernels[k].lattice, pairs[k], a.old, false, tables[k]);
      a.kernel[k].table = tables[k].table;
    }
    if (step == 0 && input.initial) {
      launch_items(device, a.points, rows_of_planes_kernel<float>, planes, input.initial, 1.0f,
                   0.0f, a.marginals);
    } else {
      launch_update(device, a);
    }
    std::swap(marginals[0], marginals[1]);
  }
  launch_items(device, a.points, planes_of_rows_kernel<float>, planes,
               static_cast<const float*>(marginals[0]), result);
}

}  // namespace deeplab
