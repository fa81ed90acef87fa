#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "filter_plan.h"

namespace deeplab {
namespace {

// Large enough that few vertices are shared, small enough that several threads have work.
constexpr Index kStripPoints = 24576;
constexpr Index kMinStripPoints = 2048;
// Vertices of a part of the chains.
constexpr Index kPartVertices = 1024;

// An even number, so that two threads do half each.
Index strip_count(Index points) {
  if (points < 2 * kMinStripPoints) return 1;
  return 2 * ceil_div(points, 2 * kStripPoints);
}

[[noreturn]] void not_a_lattice(const char* what) {
  throw std::runtime_error(std::string("these tensors are not a lattice: ") + what);
}

}  // namespace

FilterPlan::FilterPlan(const int* vertex, const int* neighbours, Index points, Index vertices,
                       int corners)
    : vertex_(vertex), chains_(corners) {
  plan_strips(points, vertices, corners);
  plan_merge(vertices);
  std::vector<std::string> errors(corners);
  torch::stable::parallel_for(0, corners, 1, [&](int64_t begin, int64_t end) {
    for (Index axis = begin; axis < end; ++axis) {
      try {
        chains_[axis] = find_chains(neighbours + axis * vertices * 2, vertices);
      } catch (const std::exception& error) {  // must not leave a thread
        errors[axis] = error.what();
      }
    }
  });
  for (const std::string& error : errors) {
    if (!error.empty()) throw std::runtime_error(error);
  }
}

void FilterPlan::plan_strips(Index points, Index vertices, int corners) {
  const Index strips = strip_count(points);
  for (Index s = 0; s <= strips; ++s) first_point_.push_back(points * s / strips);
  std::vector<Buffer<bool>> touches(strips);  // by strip, then by vertex
  std::vector<Index> touched_end(strips, 0);
  std::atomic<bool> in_range{true};
  const auto for_strips = [&](const auto& f) {
    torch::stable::parallel_for(0, strips, 1, [&](int64_t begin, int64_t end) {
      for (Index s = begin; s < end; ++s) f(s);
    });
  };
  for_strips([&](Index s) {
    touches[s] = Buffer<bool>(vertices);
    std::memset(touches[s].get(), 0, vertices);
    const unsigned limit = static_cast<unsigned>(vertices);
    for (Index e = first_point_[s] * corners; e < first_point_[s + 1] * corners; ++e) {
      if (static_cast<unsigned>(vertex_[e]) >= limit) {
        in_range = false;
        return;
      }
      touches[s][vertex_[e]] = true;
    }
    for (touched_end[s] = vertices; touched_end[s] > 0; --touched_end[s]) {
      if (touches[s][touched_end[s] - 1]) break;
    }
  });
  if (!in_range) not_a_lattice("a vertex is out of range");
  // Vertices are numbered in the order of first touch, so what a strip is the first to touch is a
  // range. With another numbering the ranges hold fewer such vertices, and the result is the same.
  first_owned_.assign(strips + 1, 0);
  for (Index s = 0; s < strips; ++s) {
    first_owned_[s + 1] = std::max(first_owned_[s], touched_end[s]);
  }
  shared_.resize(strips);
  first_extra_.assign(strips + 1, vertices);
  if (strips > 1) {
    for_strips([&](Index s) {
      for (Index v = 0; v < first_owned_[s]; ++v) {
        if (touches[s][v]) shared_[s].push_back(static_cast<int>(v));
      }
    });
    for (Index s = 0; s < strips; ++s) {
      first_extra_[s + 1] = first_extra_[s] + static_cast<Index>(shared_[s].size());
    }
    slot_ = Buffer<int>(points * corners);
    for_strips([&](Index s) {
      const int owned = static_cast<int>(first_owned_[s]);
      const Buffer<int> extra(owned);  // row of a vertex below `owned`
      int row = static_cast<int>(first_extra_[s]);
      for (const int v : shared_[s]) extra[v] = row++;
      for (Index e = first_point_[s] * corners; e < first_point_[s + 1] * corners; ++e) {
        slot_[e] = vertex_[e] < owned ? extra[vertex_[e]] : vertex_[e];
      }
    });
  }
  first_owned_.back() = vertices;  // with those that no point touches
}

void FilterPlan::plan_merge(Index vertices) {
  std::vector<int> next(vertices + 1, 0);
  for (const auto& shared : shared_) {
    for (const int v : shared) ++next[v];
  }
  int count = 0;
  for (Index v = 0; v < vertices; ++v) {
    if (next[v] == 0) continue;
    merge_vertex_.push_back(static_cast<int>(v));
    merge_start_.push_back(count);
    const int here = next[v];
    next[v] = count;
    count += here;
  }
  merge_start_.push_back(count);
  merge_slot_.resize(count);
  for (Index s = 0; s < strips(); ++s) {
    int slot = static_cast<int>(first_extra_[s]);
    for (const int v : shared_[s]) merge_slot_[next[v]++] = slot++;
  }
  shared_.clear();
}

FilterPlan::Chains FilterPlan::find_chains(const int* neighbours, Index vertices) {
  const auto in_range = [&](int v) { return v >= -1 && v < vertices; };
  Index members = 0;
  for (Index v = 0; v < vertices; ++v) {
    const int before = neighbours[2 * v], after = neighbours[2 * v + 1];
    if (!in_range(before) || !in_range(after)) not_a_lattice("a neighbour is out of range");
    members += before >= 0 || after >= 0;
  }
  Chains chains;
  chains.vertex = Buffer<int>(members);
  Index count = 0;
  chains.part.push_back(0);
  for (Index start = 0; start < vertices; ++start) {
    if (neighbours[2 * start] >= 0 || neighbours[2 * start + 1] < 0) continue;
    for (int v = static_cast<int>(start);;) {
      if (count == members) not_a_lattice("the neighbours contradict each other");
      const int after = neighbours[2 * v + 1];
      chains.vertex[count++] = after < 0 ? ~v : v;
      if (after < 0) break;
      if (neighbours[2 * after] != v) not_a_lattice("the neighbours contradict each other");
      v = after;
    }
    if (count - chains.part.back() >= kPartVertices) chains.part.push_back(count);
  }
  if (count != members) not_a_lattice("the neighbours contradict each other");
  if (chains.part.back() != count) chains.part.push_back(count);
  return chains;
}

}  // namespace deeplab
