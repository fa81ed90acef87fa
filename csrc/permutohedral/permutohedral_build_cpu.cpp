// Vertices are numbered in the order in which points, and the corners of a point, first touch them.
// Threads number the vertices of their share of the points likewise; going through their lists one
// after another gives the numbers of the whole, whatever the number of threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "permutohedral_entry.h"
#include "simplex_cpu.h"
#include "vertex_keys.h"

namespace deeplab {
namespace {

// Points below this number are not worth a second thread.
constexpr Index kMinThreadPoints = 8192;
constexpr Index kMinThreadVertices = 4096;

template <typename T>
struct Features {
  const T* values;  // (pictures, points, d)
  Index pictures, points;
  int d;
  T scale[kMaxDimension];

  Features(const T* values, Index pictures, Index points, int d)
      : values(values), pictures(pictures), points(points), d(d) {
    // Onto the hyperplane of d+1 coordinates whose sum is 0. The blur has variance 2/3 (d+1)^2.
    const T std = static_cast<T>(std::sqrt(2.0 / 3.0) * (d + 1));
    for (int i = 0; i < d; ++i) {
      scale[i] = static_cast<T>(1 / std::sqrt((i + 1.0) * (i + 2.0)) * std);
    }
  }

  Index all_points() const { return pictures * points; }
};

template <typename T>
struct Range {
  T low[kMaxDimension] = {}, high[kMaxDimension] = {};
  T zero[kMaxDimension] = {};  // NaN after NaN or infinity

  void add(const Features<T>& features, Index point) {
    for (int i = 0; i < features.d; ++i) {
      const T value = features.values[point * features.d + i];
      low[i] = std::min(low[i], value);
      high[i] = std::max(high[i], value);
      zero[i] += value * 0;
    }
  }
};

// Fields for all keys that these features can make, found from the least and largest of each.
template <typename T>
KeyFields key_fields(const char* op, const Features<T>& features) {
  const int d = features.d;
  const Index parts = ceil_div(features.all_points(), kMinThreadPoints);
  std::vector<Range<T>> ranges(parts);
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (Index part = begin; part < end; ++part) {
      const Index last = std::min((part + 1) * kMinThreadPoints, features.all_points());
      for (Index p = part * kMinThreadPoints; p < last; ++p) ranges[part].add(features, p);
    }
  });
  double low[kMaxDimension] = {}, high[kMaxDimension] = {};  // 0 for padding points
  bool finite = true;
  for (const Range<T>& range : ranges) {
    for (int i = 0; i < d; ++i) {
      low[i] = std::min<double>(low[i], range.low[i]);
      high[i] = std::max<double>(high[i], range.high[i]);
      finite &= range.zero[i] == 0;
    }
  }
  check(finite, op, ": features must be finite, got NaN or infinity");
  double reach = 2 * (d + 1);
  for (int i = 0; i < d; ++i) {
    reach += std::max(-low[i], high[i]) * features.scale[i] * (i + 1);
  }
  check(reach <= kMaxCoordinate, op, ": features make lattice coordinates up to ", reach, ", ",
        kMaxCoordinate, " is the limit: use larger standard deviations");
  int lowest[kMaxDimension], highest[kMaxDimension];
  double least = 0, most = 0;
  for (int i = d; i > 0; --i) {  // coordinate i; coordinate 0 after the loop
    const double a = low[i - 1] * features.scale[i - 1], b = high[i - 1] * features.scale[i - 1];
    if (i < d) {
      lowest[i] = static_cast<int>(std::floor((least - i * b) / (d + 1)));
      highest[i] = static_cast<int>(std::ceil((most - i * a) / (d + 1)));
    }
    least += a;
    most += b;
  }
  lowest[0] = static_cast<int>(std::floor(least / (d + 1)));
  highest[0] = static_cast<int>(std::ceil(most / (d + 1)));
  for (int i = 0; i < d; ++i) {  // rounding, the simplex's corners, their neighbours
    lowest[i] -= 4;
    highest[i] += 4;
  }
  return KeyFields(d, lowest, highest, features.pictures);
}

template <typename T, int kWords>
class Builder {
 public:
  Builder(const Features<T>& features, const KeyFields& fields)
      : features_(features),
        corners_(features.d + 1),
        fields_(fields),
        table_(expected_vertices()) {
    for (int i = 0; i < features.d; ++i) {
      origin_ = origin_ - fields.quotient<kWords>(i) * static_cast<std::int64_t>(fields.lowest(i));
      unit_[i] = fields.quotient<kWords>(i);
    }
  }

  // Fills vertex and weight, both (points, corners).
  void number_vertices(bool padding_points, int* vertex, T* weight) {
    const Index points = features_.all_points();
    const Index threads = static_cast<Index>(torch::stable::get_num_threads());
    const Index parts = std::max<Index>(1, std::min(threads, points / kMinThreadPoints));
    const auto first = [&](Index part) { return points * part / parts; };
    std::vector<VertexTable<kWords>> tables;
    for (Index part = 1; part < parts; ++part) tables.emplace_back(expected_vertices() / parts);
    const auto table_of = [&](Index part) -> VertexTable<kWords>& {
      return part == 0 ? table_ : tables[part - 1];
    };
    torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
      for (Index part = begin; part < end; ++part) {
        number_points(first(part), first(part + 1), table_of(part), vertex, weight);
      }
    });
    std::vector<std::vector<int>> numbers(parts);
    for (Index part = 1; part < parts; ++part) {
      const VertexTable<kWords>& table = table_of(part);
      numbers[part].resize(table.size());
      for (Index v = 0; v < table.size(); ++v) {
        numbers[part][v] = table_.number(table.key(v), table.key(v).hash());
      }
    }
    torch::stable::parallel_for(1, parts, 1, [&](int64_t begin, int64_t end) {
      for (Index part = begin; part < end; ++part) {
        for (Index e = first(part) * corners_; e < first(part + 1) * corners_; ++e) {
          vertex[e] = numbers[part][vertex[e]];
        }
      }
    });
    if (padding_points && features_.points % kPaddedPoints != 0) insert_padding_points();
  }

  Index vertices() const { return table_.size(); }

  // (corners, vertices, 2)
  void find_neighbours(int* neighbours) const {
    const Index count = vertices();
    // Steps to the neighbour before, from a vertex with and without remainder.
    Key<kWords> with[kMaxCorners], without[kMaxCorners];
    const Key<kWords> remainder = fields_.remainder<kWords>();
    Key<kWords> all{};
    for (int i = 0; i < features_.d; ++i) all = all + unit_[i];
    for (int axis = 0; axis < corners_; ++axis) {
      with[axis] = unit_[axis] - remainder;
      without[axis] = unit_[axis] + remainder * features_.d - all;
    }
    torch::stable::parallel_for(
        0, count * corners_ * 2, kMinThreadVertices,
        [&](int64_t begin, int64_t end) { std::fill(neighbours + begin, neighbours + end, -1); });
    torch::stable::parallel_for(0, count, kMinThreadVertices, [&](int64_t begin, int64_t end) {
      Key<kWords> keys[kLookAhead * kMaxCorners];
      std::uint64_t hashes[kLookAhead * kMaxCorners];
      for (Index start = begin; start < end; start += kLookAhead) {
        const Index stop = std::min<Index>(start + kLookAhead, end);
        int n = 0;
        for (Index v = start; v < stop; ++v) {
          const auto& steps = fields_.has_remainder(table_.key(v)) ? with : without;
          for (int axis = 0; axis < corners_; ++axis, ++n) {
            keys[n] = table_.key(v) + steps[axis];
            hashes[n] = keys[n].hash();
            table_.prefetch(hashes[n]);
          }
        }
        n = 0;
        for (Index v = start; v < stop; ++v) {
          for (int axis = 0; axis < corners_; ++axis, ++n) {
            const int before = table_.find(keys[n], hashes[n]);
            if (before < 0) continue;
            // A vertex is `before` of one other at most, so no two threads write one element.
            neighbours[(axis * count + v) * 2] = before;
            neighbours[(axis * count + before) * 2 + 1] = static_cast<int>(v);
          }
        }
      }
    });
  }

 private:
  static constexpr Index kLookAhead = 16;

  // A guess from photographs.
  Index expected_vertices() const { return features_.all_points() * corners_ / 12; }

  void number_points(Index begin, Index end, VertexTable<kWords>& table, int* vertex,
                     T* weight) const {
    const int d = features_.d;
    const auto find = find_simplex<T>();
    SimplexBlock block;
    T spare_features[kSimplexPoints * kMaxDimension] = {};
    T spare_weight[kSimplexPoints * kMaxCorners];
    Key<kWords> keys[kSimplexPoints * kMaxCorners];
    std::uint64_t hashes[kSimplexPoints * kMaxCorners];
    for (Index point = begin; point < end; point += kSimplexPoints) {
      const int count = static_cast<int>(std::min<Index>(kSimplexPoints, end - point));
      if (count == kSimplexPoints) {
        find(d, features_.scale, features_.values + point * d, weight + point * corners_, &block);
      } else {
        std::memcpy(spare_features, features_.values + point * d, count * d * sizeof(T));
        find(d, features_.scale, spare_features, spare_weight, &block);
        std::memcpy(weight + point * corners_, spare_weight, count * corners_ * sizeof(T));
      }
      for (int p = 0; p < count; ++p) {
        corner_keys(block, p, (point + p) / features_.points, keys + p * corners_);
        for (int c = p * corners_; c < (p + 1) * corners_; ++c) {
          hashes[c] = keys[c].hash();
          table.prefetch(hashes[c]);
        }
      }
      for (int c = 0; c < count * corners_; ++c) {
        vertex[point * corners_ + c] = table.number(keys[c], hashes[c]);
      }
    }
  }

  void corner_keys(const SimplexBlock& block, int p, Index picture, Key<kWords>* keys) const {
    const int d = features_.d;
    Key<kWords> key = origin_ + fields_.picture<kWords>() * static_cast<std::uint64_t>(picture);
    for (int i = 0; i < d; ++i) {
      key = key + unit_[i] * static_cast<std::int64_t>(block.base[i][p]);
    }
    keys[0] = key;
    for (int r = 1; r <= d; ++r) {
      key = key + fields_.remainder<kWords>() - unit_[block.axis_of_rank[d - r + 1][p]];
      keys[r] = key;
    }
  }

  void insert_padding_points() {
    const T features[kSimplexPoints * kMaxDimension] = {};
    T weight[kSimplexPoints * kMaxCorners];
    SimplexBlock block;
    find_simplex<T>()(features_.d, features_.scale, features, weight, &block);
    for (Index picture = 0; picture < features_.pictures; ++picture) {
      Key<kWords> keys[kMaxCorners];
      corner_keys(block, 0, picture, keys);
      for (int c = 0; c < corners_; ++c) table_.number(keys[c], keys[c].hash());
    }
  }

  const Features<T>& features_;
  int corners_;
  const KeyFields& fields_;
  Key<kWords> origin_{};  // of quotients 0
  Key<kWords> unit_[kMaxCorners] =
      {};  // of one quotient; 0 for the last coordinate, which has none
  VertexTable<kWords> table_;
};

// splat_start (vertices + 1) and splat_entry (entries): entries sorted by vertex, by counting.
void sort_entries(const int* vertex, Index entries, Index vertices, int* start, int* entry) {
  const Index threads = static_cast<Index>(torch::stable::get_num_threads());
  const Index parts = std::max<Index>(1, std::min(threads, entries / (8 * (vertices + 1))));
  const auto first = [&](Index part) { return entries * part / parts; };
  const Buffer<int> next(parts * (vertices + 1));
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (Index part = begin; part < end; ++part) {
      int* counts = next.get() + part * (vertices + 1);
      std::fill(counts, counts + vertices, 0);
      for (Index e = first(part); e < first(part + 1); ++e) ++counts[vertex[e]];
    }
  });
  int total = 0;
  for (Index v = 0; v < vertices; ++v) {
    start[v] = total;
    for (Index part = 0; part < parts; ++part) {
      int& count = next[part * (vertices + 1) + v];
      const int here = count;
      count = total;
      total += here;
    }
  }
  start[vertices] = total;
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (Index part = begin; part < end; ++part) {
      int* to = next.get() + part * (vertices + 1);
      for (Index e = first(part); e < first(part + 1); ++e) {
        entry[to[vertex[e]]++] = static_cast<int>(e);
      }
    }
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> permutohedral_build(const Tensor& features_any,
                                                                       bool padding_points,
                                                                       int64_t /*max_blocks*/) {
  const char* op = "permutohedral_build";
  check_build(op, features_any);
  const Tensor features = torch::stable::contiguous(features_any);
  const Index batch = features.size(0), points = features.size(1), d = features.size(2);
  const Index entries = batch * points * (d + 1);
  const auto new_int = [&](std::initializer_list<int64_t> sizes) {
    return torch::stable::new_empty(features, {sizes.begin(), sizes.size()},
                                    torch::headeronly::ScalarType::Int);
  };
  const Tensor vertex = new_int({batch, points, d + 1});
  const int64_t weight_sizes[] = {batch, points, d + 1};
  const Tensor weight = torch::stable::new_empty(features, {weight_sizes, 3});
  const Tensor splat_entry = new_int({entries});
  Tensor neighbours, splat_start;
  dispatch_float(features, [&](auto zero) {
    using T = decltype(zero);
    const Features<T> all(features.const_data_ptr<T>(), batch, points, static_cast<int>(d));
    const KeyFields fields = key_fields(op, all);
    int* const vertices = vertex.mutable_data_ptr<int>();
    // The hash table is gone before the entries are sorted.
    const auto build = [&](auto words) {
      Builder<T, decltype(words)::value> builder(all, fields);
      builder.number_vertices(padding_points, vertices, weight.mutable_data_ptr<T>());
      neighbours = new_int({d + 1, builder.vertices(), 2});
      builder.find_neighbours(neighbours.mutable_data_ptr<int>());
    };
    if (fields.words() == 1) {
      build(std::integral_constant<int, 1>());
    } else {
      build(std::integral_constant<int, KeyFields::kMaxWords>());
    }
    const Index count = neighbours.size(1);
    splat_start = new_int({count + 1});
    sort_entries(vertices, entries, count, splat_start.mutable_data_ptr<int>(),
                 splat_entry.mutable_data_ptr<int>());
  });
  return {vertex, weight, neighbours, splat_start, splat_entry};
}

}  // namespace
}  // namespace deeplab

STABLE_TORCH_LIBRARY_IMPL(deeplab_repro, CPU, m) {
  m.impl("permutohedral_build", TORCH_BOX(&deeplab::permutohedral_build));
}
