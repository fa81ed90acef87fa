// How the points and vertices of a lattice are shared out among threads, so that every sum is added
// in the same order whatever their number.
//
// Points are cut into strips, whose number depends on the points alone. A strip adds its points, in
// order, to rows of the table that no other strip writes: a vertex's own row if the strip is the
// first to touch it, else an extra row behind those of the vertices. Afterwards the extra rows are
// added to the vertices' own, strip by strip.
//
// The blur along an axis runs along chains of neighbours, in place: a vertex is read once, and one
// without neighbours not at all.
//
// Threads work as a team (common/team.h): they are woken once for a whole filter, or for all steps
// of mean field, and share out strips and parts of chains as they come to them.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "../common/buffer_cpu.h"
#include "../common/team.h"
#include "kernels_cpu.h"
#include "permutohedral_entry.h"

namespace deeplab {

// A lattice's tensors. Points are those of all pictures.
template <typename T>
struct LatticeView {
  Index points, vertices;
  int corners;            // d + 1
  const int* vertex;      // (points, corners)
  const T* weight;        // (points, corners)
  const int* neighbours;  // (corners, vertices, 2)

  // What slicing multiplies with, as densecrf: the blur's gain.
  T alpha() const {
    T power = 1;
    for (int i = 1; i < corners; ++i) power /= 2;
    return 1 / (1 + power);
  }
};

template <typename T>
LatticeView<T> view_of(const LatticeTensors& t) {
  return {t.batch * t.points,
          t.vertices,
          t.corners,
          t.vertex.template const_data_ptr<int>(),
          t.weight.template const_data_ptr<T>(),
          t.neighbours.template const_data_ptr<int>()};
}

class FilterPlan {
 public:
  // Throws std::runtime_error where the tensors are not those of a lattice.
  FilterPlan(const int* vertex, const int* neighbours, Index points, Index vertices, int corners);

  Index strips() const { return static_cast<Index>(first_point_.size()) - 1; }
  Index first_point(Index strip) const { return first_point_[strip]; }
  Index table_rows() const { return first_extra_.back(); }
  // (points, corners): the row that a point is added to.
  const int* slot() const { return slot_ ? slot_.get() : vertex_; }

  // Zeros all rows that a strip writes.
  template <typename T>
  void clear(Index strip, Index stride, T* table) const {
    const auto zero = [&](Index begin, Index end) {
      std::memset(table + begin * stride, 0, (end - begin) * stride * sizeof(T));
    };
    zero(first_owned_[strip], first_owned_[strip + 1]);
    zero(first_extra_[strip], first_extra_[strip + 1]);
  }

  // After all strips: adding the extra rows to those of the vertices, then the blur along each
  // axis. The parts of one of these phases may run at the same time, the phases in their order.
  int phases() const { return 1 + static_cast<int>(chains_.size()); }
  Index parts(int phase, bool reverse) const {
    if (phase == 0) return ceil_div(static_cast<Index>(merge_vertex_.size()), kGrain);
    return static_cast<Index>(axis(phase, reverse).part.size()) - 1;
  }
  template <typename T>
  void run_part(int phase, bool reverse, Index part, Index stride, T* table) const {
    const LatticeKernels<T>& run = kernels<T>().lattice;
    if (phase == 0) {
      const Index shared = static_cast<Index>(merge_vertex_.size()), first = part * kGrain;
      run.merge(stride, merge_vertex_.data() + first, merge_start_.data() + first,
                merge_slot_.data(), std::min(kGrain, shared - first), table);
    } else {
      const Chains& chains = axis(phase, reverse);
      const Index first = chains.part[part];
      run.blur(stride, chains.vertex.get() + first, chains.part[part + 1] - first, table);
    }
  }

 private:
  static constexpr Index kGrain = 1024;  // vertices of a part of the first phase

  struct Chains {
    Buffer<int> vertex;       // all chains of an axis, see LatticeKernels::blur
    std::vector<Index> part;  // where to cut them for threads
  };

  const Chains& axis(int phase, bool reverse) const {
    return chains_[reverse ? chains_.size() - phase : phase - 1];
  }
  void plan_strips(Index points, Index vertices, int corners);
  void plan_merge(Index vertices);
  static Chains find_chains(const int* neighbours, Index vertices);

  const int* vertex_;
  Buffer<int> slot_;  // empty where it would equal vertex_
  std::vector<Index> first_point_, first_owned_, first_extra_;
  std::vector<std::vector<int>> shared_;  // vertex of each extra row, by strip
  std::vector<int> merge_vertex_, merge_start_, merge_slot_;
  std::vector<Chains> chains_;
};

// f(first point, count) for the blocks of a strip; a block lies in one picture of `picture` points.
template <typename F>
void for_blocks(const FilterPlan& plan, Index strip, Index picture, const F& f) {
  const Index last = plan.first_point(strip + 1);
  for (Index point = plan.first_point(strip); point < last;) {
    const Index picture_end = (point / picture + 1) * picture;
    const Index end = picture_end < last ? picture_end : last;
    const Index count = end - point < kBlockPoints ? end - point : kBlockPoints;
    f(point, count);
    point += count;
  }
}

// f(member) by every thread of torch's.
template <typename F>
void in_team(const F& f) {
  const Index threads = static_cast<Index>(torch::stable::get_num_threads());
  Team team(std::min<Index>(threads, Team::kMostMembers));
  torch::stable::parallel_for(0, team.members, 1, [&](int64_t begin, int64_t end) {
    for (Index m = begin; m < end; ++m) {
      Member member(team, m, nullptr, nullptr);
      f(member);
    }
  });
}

// f(strip, room for the rows of a block) for all strips.
template <typename T, typename F>
void for_strips(Member& member, const FilterPlan& plan, Index stride, const F& f) {
  const Buffer<T> rows(kBlockPoints * stride);
  member.each(plan.strips(), [&](Index strip) { f(strip, rows.get()); });
}

// Fills the table of the vertices' blurred values, plan.table_rows() rows, from those that
// read(first, count, rows) makes for blocks of points.
template <typename T, typename Read>
void splat_and_blur(Member& member, const LatticeView<T>& lattice, const FilterPlan& plan,
                    Index stride, Index picture, bool reverse, const Read& read, T* table) {
  const LatticeKernels<T>& run = kernels<T>().lattice;
  const int corners = lattice.corners;
  for_strips<T>(member, plan, stride, [&](Index strip, T* rows) {
    plan.clear(strip, stride, table);
    for_blocks(plan, strip, picture, [&](Index first, Index count) {
      read(first, count, rows);
      run.splat({stride, count, corners, plan.slot() + first * corners,
                 lattice.weight + first * corners, nullptr},
                rows, table);
    });
  });
  for (int phase = 0; phase < plan.phases(); ++phase) {
    member.each(plan.parts(phase, reverse),
                [&](Index part) { plan.run_part(phase, reverse, part, stride, table); });
  }
}

// Filters rows that read(first, count, rows) makes and write(first, count, rows) takes, as
// splat_and_blur.
template <typename T, typename Read, typename Write>
void filter_points(const LatticeView<T>& lattice, const FilterPlan& plan, Index stride,
                   Index picture, bool reverse, const Read& read, const Write& write) {
  const LatticeKernels<T>& run = kernels<T>().lattice;
  const Buffer<T> table(plan.table_rows() * stride);
  const int corners = lattice.corners;
  in_team([&](Member& member) {
    splat_and_blur(member, lattice, plan, stride, picture, reverse, read, table.get());
    for_strips<T>(member, plan, stride, [&](Index strip, T* rows) {
      for_blocks(plan, strip, picture, [&](Index first, Index count) {
        run.slice({stride, count, corners, lattice.vertex + first * corners,
                   lattice.weight + first * corners, nullptr},
                  lattice.alpha(), false, table.get(), rows);
        write(first, count, rows);
      });
    });
  });
}

}  // namespace deeplab
