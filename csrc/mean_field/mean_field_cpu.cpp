// One pass over the points an iteration: the messages of all kernels are sliced from their blurred
// tables, added to the unary term and made probabilities, which are splatted into the next tables
// while they are in the first-level cache. Marginals are written once, at the end, or in each
// iteration where they are relaxed.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "../permutohedral/filter_plan.h"
#include "mean_field_entry.h"

namespace deeplab {
namespace {

class Kernel {
 public:
  Kernel(const MeanFieldKernel& kernel, float weight, Index classes, Index stride)
      : lattice_(view_of<float>(kernel.lattice)),
        plan_(lattice_.vertex, lattice_.neighbours, lattice_.points, lattice_.vertices,
              lattice_.corners),
        factor_(weight * lattice_.alpha()),
        classes_(classes),
        stride_(stride),
        table_{Buffer<float>(plan_.table_rows() * stride),
               Buffer<float>(plan_.table_rows() * stride)} {
    normalize(kernel.normalization, kernel.lattice.points);
    pad_compatibility(kernel.compatibility);
  }

  const FilterPlan& plan() const { return plan_; }

  // What the points of a step are splatted into, and sliced from in the next step.
  float* table(Index step) const { return table_[step % 2].get(); }

  void clear(Index step, Index strip) const { plan_.clear(strip, stride_, table(step)); }

  void splat(Index step, Index first, Index count, const float* rows) const {
    kernels<float>().lattice.splat(block(first, count, plan_.slot(), splat_scale_), rows,
                                   table(step));
  }

  // After all points were splatted: of the plan's phases, 0 where there are fewer.
  Index parts(int phase) const { return phase < plan_.phases() ? plan_.parts(phase, false) : 0; }
  void run_part(Index step, int phase, Index part) const {
    plan_.run_part(phase, false, part, stride_, table(step));
  }

  // rows -= weight * mu * message; spare: as large as rows.
  void subtract_message(Index step, Index first, Index count, float* spare, float* rows) const {
    const KernelSet<float>& run = kernels<float>();
    const float* blurred = table(step - 1);
    const auto from = block(first, count, lattice_.vertex, slice_scale_);
    if (!mu_) {  // Potts
      run.lattice.slice(from, factor_, true, blurred, rows);
      return;
    }
    run.lattice.slice(from, factor_, false, blurred, spare);
    if (diagonal_) {
      run.mean_field.subtract_diagonal(stride_, count, mu_.get(), spare, rows);
    } else {
      run.mean_field.subtract_product(stride_, count, classes_, mu_.get(), spare, rows);
    }
  }

 private:
  PointBlock<float> block(Index first, Index count, const int* index,
                          const Buffer<float>& scale) const {
    return {stride_,
            count,
            lattice_.corners,
            index + first * lattice_.corners,
            lattice_.weight + first * lattice_.corners,
            scale ? scale.get() + first : nullptr};
  }

  void normalize(Normalization normalization, Index picture) {
    if (normalization == Normalization::none) return;
    Buffer<float> scale(lattice_.points);
    const Index stride = row_stride<float>(1);
    const auto ones = [&](Index, Index count, float* rows) {
      std::fill(rows, rows + count * stride, 1.0f);
    };
    const bool root = normalization == Normalization::symmetric;
    filter_points(lattice_, plan_, stride, picture, false, ones,
                  [&](Index first, Index count, const float* rows) {
                    for (Index i = 0; i < count; ++i) {
                      const float norm = rows[i * stride] + kTinyNorm;
                      scale[first + i] = 1 / (root ? std::sqrt(norm) : norm);
                    }
                  });
    if (root) {
      splat_scale_ = Buffer<float>(lattice_.points);
      std::memcpy(splat_scale_.get(), scale.get(), lattice_.points * sizeof(float));
    }
    (normalization == Normalization::before ? splat_scale_ : slice_scale_) = std::move(scale);
  }

  void pad_compatibility(const Tensor& mu) {
    if (mu.numel() == 0) return;
    diagonal_ = mu.dim() == 1;
    const float* values = mu.const_data_ptr<float>();
    const Index columns = diagonal_ ? 1 : classes_;
    mu_ = Buffer<float>(columns * stride_);
    std::fill(mu_.get(), mu_.get() + columns * stride_, 0.0f);
    for (Index column = 0; column < columns; ++column) {
      for (Index c = 0; c < classes_; ++c) {
        mu_[column * stride_ + c] = diagonal_ ? values[c] : values[c * classes_ + column];
      }
    }
  }

  LatticeView<float> lattice_;
  FilterPlan plan_;
  float factor_;
  Index classes_, stride_;
  Buffer<float> table_[2];                   // of even and of odd steps
  Buffer<float> splat_scale_, slice_scale_;  // (points); empty = 1
  Buffer<float> mu_;                         // empty = Potts
  bool diagonal_ = false;
};

class MeanField {
 public:
  MeanField(const MeanFieldProblem& problem, float* result)
      : problem_(problem),
        stride_(row_stride<float>(problem.classes)),
        unary_(problem.unary.const_data_ptr<float>()),
        initial_(problem.initial ? problem.initial->const_data_ptr<float>() : nullptr),
        result_(result) {
    const float* weights = problem.weights.const_data_ptr<float>();
    for (std::size_t k = 0; k < problem.kernels.size(); ++k) {
      kernels_.emplace_back(problem.kernels[k], weights[k], problem.classes, stride_);
    }
  }

  void run() {
    const Index size = 3 * kBlockPoints * stride_;
    in_team([&](Member& member) {
      const Buffer<float> room(size);
      for (Index step = 0; step <= problem_.iterations; ++step) run_step(step, member, room.get());
    });
  }

 private:
  void run_step(Index step, Member& member, float* room) const {
    const FilterPlan& plan = kernels_.front().plan();
    const bool last = step == problem_.iterations;
    member.each(plan.strips(), [&](Index strip) {
      if (!last) {
        for (const Kernel& kernel : kernels_) kernel.clear(step, strip);
      }
      for_blocks(plan, strip, problem_.points,
                 [&](Index first, Index count) { update(step, first, count, room); });
    });
    if (last) return;
    int phases = 0;
    for (const Kernel& kernel : kernels_) phases = std::max(phases, kernel.plan().phases());
    // One wait for the same phase of all kernels.
    for (int phase = 0; phase < phases; ++phase) {
      Index parts = 0;
      for (const Kernel& kernel : kernels_) parts += kernel.parts(phase);
      member.each(parts, [&](Index part) {
        std::size_t k = 0;
        for (; part >= kernels_[k].parts(phase); ++k) part -= kernels_[k].parts(phase);
        kernels_[k].run_part(step, phase, part);
      });
    }
  }

  // room: for three blocks of rows or planes.
  void update(Index step, Index first, Index count, float* room) const {
    const MeanFieldKernels& run = kernels<float>().mean_field;
    const Index classes = problem_.classes, plane = problem_.points, size = kBlockPoints * stride_;
    float *planes = room, *rows = room + size, *spare = room + 2 * size;
    float* result = result_ + offset(first);
    const bool last = step == problem_.iterations;
    std::memset(step == 0 ? planes : rows, 0, size * sizeof(float));
    if (step == 0 && initial_) {
      copy(classes, count, initial_ + offset(first), plane, planes, kBlockPoints);
    } else {
      if (step > 0) {
        for (const Kernel& kernel : kernels_)
          kernel.subtract_message(step, first, count, spare, rows);
        run.rows_to_planes(stride_, rows, planes);
      }
      const bool from_block = step > 0 && !last && !relaxes();
      run.softmax(classes, count, from_block ? energies(first) : unary_ + offset(first),
                  from_block ? count : plane, problem_.cutoff, planes);
      if (step > 0 && relaxes()) {
        run.relax(classes, count, problem_.relaxation, result, plane, planes);
      }
    }
    if (last || relaxes()) {
      copy(classes, count, planes, kBlockPoints, result, plane);
    } else if (step == 0) {
      copy(classes, count, unary_ + offset(first), plane, energies(first), count);
    }
    if (!last) {
      run.planes_to_rows(stride_, planes, rows);
      for (const Kernel& kernel : kernels_) kernel.splat(step, first, count, rows);
    }
  }

  // A block's energies once more, one label after the other, and block after block: reading them is
  // twice as fast as from one place for each label. They lie in the result until its own values
  // come, in the last step; with relaxation it holds the last marginals instead.
  float* energies(Index first) const { return result_ + first * problem_.classes; }

  bool relaxes() const { return problem_.relaxation != 1; }

  static void copy(Index channels, Index count, const float* from, Index from_plane, float* to,
                   Index to_plane) {
    for (Index c = 0; c < channels; ++c) {
      std::memcpy(to + c * to_plane, from + c * from_plane, count * sizeof(float));
    }
  }

  // Of a point in (B, C, P), class 0.
  Index offset(Index point) const {
    return point / problem_.points * problem_.classes * problem_.points + point % problem_.points;
  }

  const MeanFieldProblem& problem_;
  Index stride_;
  const float *unary_, *initial_;  // (B, C, P); initial_ may be null
  std::vector<Kernel> kernels_;
  float* result_;
};

struct MeanFieldCpu {
  static void mean_field(const MeanFieldProblem& problem, const Tensor& result,
                         Index /*max_blocks*/) {
    MeanField(problem, result.mutable_data_ptr<float>()).run();
  }
};

}  // namespace
}  // namespace deeplab

STABLE_TORCH_LIBRARY_IMPL(deeplab_repro, CPU, m) {
  m.impl("mean_field", TORCH_BOX(&deeplab::mean_field<deeplab::MeanFieldCpu>));
}
