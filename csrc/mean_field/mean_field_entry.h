// Checks and allocation, shared by the CPU and the CUDA entries; only the launch differs.
#pragma once

#include <optional>
#include <vector>

#include "../permutohedral/permutohedral_entry.h"
#include "normalization.h"

namespace deeplab {

// densecrf's exp is exactly 0 below this. The other: what float32 can hold without denormals.
constexpr float kDeeplabCutoff = 20.0f;
constexpr float kExactCutoff = 87.0f;

struct MeanFieldKernel {
  LatticeTensors lattice;
  Normalization normalization;
  Tensor compatibility;  // (0) = Potts, (C), or (C, C)
};

struct MeanFieldProblem {
  Index batch, classes, points;
  Tensor unary;                   // (B, C, P)
  std::optional<Tensor> initial;  // (B, C, P)
  Tensor weights;                 // (K)
  std::vector<MeanFieldKernel> kernels;
  float relaxation;
  Index iterations;
  float cutoff;
};

// Launch::mean_field(problem, result, max_blocks)
template <typename Launch>
Tensor mean_field(const Tensor& unary, const std::optional<Tensor>& initial,
                  const std::vector<Tensor>& lattices, const Tensor& weights,
                  const std::vector<Tensor>& compatibility,
                  const std::vector<int64_t>& normalization, double relaxation, int64_t iterations,
                  bool exact, int64_t max_blocks) {
  const char* op = "mean_field";
  check(unary.scalar_type() == torch::headeronly::ScalarType::Float, op,
        ": unary must be float32, got ", torch::headeronly::toString(unary.scalar_type()));
  check(unary.dim() == 3 && unary.size(1) > 0, op,
        ": unary must have shape (B, C, P) with C > 0, got ", shape_of(unary));
  const std::size_t kernels = compatibility.size();
  check(lattices.size() == 5 * kernels && normalization.size() == kernels, op,
        ": five lattice tensors and one normalization are needed for each of ", kernels,
        " compatibilities");
  check(kernels > 0, op, ": at least one kernel is needed");
  check_like(op, "weights", weights, "unary", unary);
  check_vector(op, "weights", weights, static_cast<int64_t>(kernels));
  check(iterations >= 0, op, ": iterations must not be negative");

  MeanFieldProblem problem;
  problem.batch = unary.size(0);
  problem.classes = unary.size(1);
  problem.points = unary.size(2);
  problem.unary = torch::stable::contiguous(unary);
  if (initial) {
    check_like(op, "initial", *initial, "unary", unary);
    check_same_shape(op, "initial", *initial, "unary", unary);
    problem.initial = torch::stable::contiguous(*initial);
  }
  problem.weights = torch::stable::contiguous(weights);
  for (std::size_t k = 0; k < kernels; ++k) {
    const Tensor* t = lattices.data() + 5 * k;
    LatticeTensors lattice(op, t[0], t[1], t[2], t[3], t[4], unary);
    check(lattice.batch == problem.batch && lattice.points == problem.points, op,
          ": a lattice has (B, P) = (", lattice.batch, ", ", lattice.points, "), unary has ",
          shape_of(unary));
    check(normalization[k] >= 0 && normalization[k] <= 3, op, ": normalization must be in 0..3");
    const Tensor mu = torch::stable::contiguous(compatibility[k]);
    check_like(op, "compatibility", mu, "unary", unary);
    if (mu.dim() == 2) {
      check_shape(op, "compatibility", mu, {problem.classes, problem.classes});
    } else if (mu.numel() != 0) {
      check_vector(op, "compatibility", mu, problem.classes);
    }
    problem.kernels.push_back({lattice, static_cast<Normalization>(normalization[k]), mu});
  }
  problem.relaxation = static_cast<float>(relaxation);
  problem.iterations = iterations;
  problem.cutoff = exact ? kExactCutoff : kDeeplabCutoff;

  const Tensor result = torch::stable::new_empty(problem.unary, problem.unary.sizes());
  if (result.numel() > 0) {
    Launch::mean_field(problem, result, max_blocks);
  }
  return result;
}

}  // namespace deeplab
