// The gradient of the filters of single channels. Included by engine_depthwise.h, inside its
// unnamed namespace.
//
// Maps are cut into pieces that do not depend on the number of threads; each has sums of its own,
// which are added up in order. Within a piece, lanes are summed in T for a while and then in
// double.

// What both memory formats have of it. A Format has
//   Format(job), kChannels     channels that are summed side by side
//   memory_bytes()             of a thread
//   lay_out(memory)
//   sum(image, channel, first row, last row, sums)   sums (taps, kChannels), to be added to
template <typename T, typename Format>
class DepthwiseGradWeight {
  static constexpr Index kChannels = Format::kChannels;

 public:
  explicit DepthwiseGradWeight(const DepthwiseGradWeightJob<T>& job)
      : job_(job), format_(job), blocks_(ceil_div(job.channels, kChannels)) {
    const Index pixels = job.rows.count * job.columns.count;
    bands_ = larger(1, smaller(pixels / kLeastPixels, job.rows.count / kLeastRows));
  }

  Index shared_bytes() const { return pieces() * blocks_ * sums_size() * sizeof(double); }
  Index member_bytes() const { return format_.memory_bytes(); }
  Index count() const {
    return job_.batch * job_.channels * job_.rows.count * job_.columns.count * job_.taps;
  }

  void run(Member& member) {
    double* const sums = reinterpret_cast<double*>(member.shared);
    format_.lay_out(member.own);
    member.each(blocks_ * pieces(), [&](Index i) {
      double* const mine = sums + i * sums_size();
      for (Index s = 0; s < sums_size(); ++s) mine[s] = 0;
      const Index block = i / pieces(), image = i % pieces() / bands_, band = i % bands_;
      format_.sum(image, block * kChannels, job_.rows.count * band / bands_,
                  job_.rows.count * (band + 1) / bands_, mine);
    });
    member.each_unfinished(blocks_, [&](Index block) {
      double* const total = sums + block * pieces() * sums_size();
      for (Index s = sums_size(); s < pieces() * sums_size(); ++s) {
        total[s % sums_size()] += total[s];
      }
      const Index first = block * kChannels;
      for (Index c = 0; c < smaller(kChannels, job_.channels - first); ++c) {
        for (Index t = 0; t < job_.taps; ++t) {
          job_.grad_weight[(first + c) * job_.taps + t] = static_cast<T>(total[t * kChannels + c]);
        }
      }
    });
  }

 private:
  static constexpr Index kLeastPixels = 8192, kLeastRows = 8;

  Index pieces() const { return job_.batch * bands_; }
  Index sums_size() const { return job_.taps * kChannels; }

  DepthwiseGradWeightJob<T> job_;
  Format format_;
  Index blocks_, bands_;
};

// Sums in vectors of T, handed on to double before they have lost more than some bits.
template <typename T, int kLanes>
class LaneSums {
  using W = Wide<T, kLanes>;

 public:
  void lay_out(T* memory, Index size) {
    lanes_ = memory;
    size_ = size;
    for (Index i = 0; i < size; ++i) lanes_[i] = 0;
  }
  T* at(Index i) const { return lanes_ + i; }

  // After so many more additions to each lane.
  bool full(Index additions) {
    added_ += additions;
    return added_ >= kMostAdditions;
  }

  // add(i, lane): of every lane, which begins anew.
  template <typename Add>
  void flush(const Add& add) {
    for (Index i = 0; i < size_; ++i) {
      add(i, static_cast<double>(lanes_[i]));
      lanes_[i] = 0;
    }
    added_ = 0;
  }

 private:
  static constexpr Index kMostAdditions = 256;

  T* lanes_ = nullptr;
  Index size_ = 0, added_ = 0;
};

// Contiguous maps: lanes are pixels of a row.
template <typename T, int kBytes>
class PlanarGradWeight {
  using W = Wide<T, kBytes / sizeof(T)>;
  using Vector = typename W::Vector;
  static constexpr Index kLanes = kBytes / sizeof(T);

 public:
  static constexpr Index kChannels = 1;

  explicit PlanarGradWeight(const DepthwiseGradWeightJob<T>& job)
      : job_(job), row_({&job.columns, 1}), slots_(Chain(job.rows).slots) {}

  Index memory_bytes() const {
    return (slots_ * row_.size() + gradient_size() + job_.taps * kLanes) * sizeof(T) +
           job_.rows.taps * sizeof(RowTap);
  }

  void lay_out(unsigned char* memory) {
    ring_ = reinterpret_cast<T*>(memory);
    gradient_ = ring_ + slots_ * row_.size();
    sums_.lay_out(gradient_ + gradient_size(), job_.taps * kLanes);
    row_taps_ = reinterpret_cast<RowTap*>(gradient_ + gradient_size() + job_.taps * kLanes);
    for (Index i = 0; i < slots_ * row_.size() + gradient_size(); ++i) ring_[i] = 0;
  }

  void sum(Index image, Index channel, Index begin, Index end, double* total) {
    const Index map = image * job_.channels + channel;
    const T* const x = job_.x + map * job_.rows.sources * job_.columns.sources;
    const T* const grad_y = job_.grad_y + map * job_.rows.targets * job_.columns.targets;
    const auto flush = [&] {
      sums_.flush([&](Index i, double value) { total[i / kLanes] += value; });
    };
    walk_chains(
        job_.rows, begin, end, row_taps_,
        [&](Index row, Index slot) {
          row_.copy(x + row * job_.columns.sources, false, ring_ + slot * row_.size());
        },
        [&](Index a, const RowTap* taps, Index count) {
          const T* const from = grad_y + a * job_.columns.targets;
          for (Index j = 0; j < job_.columns.count; ++j) gradient_[j] = from[j];
          for (Index r = 0; r < count; ++r) add_row(taps[r]);
          if (sums_.full(ceil_div(job_.columns.count, kLanes))) flush();
        });
    flush();
  }

 private:
  // Whole vectors: the gradient is 0 behind its row.
  Index gradient_size() const { return round_up(job_.columns.count, kLanes); }

  void add_row(const RowTap& row) {
    const T* const x = ring_ + row.slot * row_.size();
    T* const sums = sums_.at(row.filter_row * job_.kernel_w * kLanes);
    for (Index k = 0; k < job_.columns.taps;) {
      const Index now = job_.columns.taps - k;
      if (now >= 3 && row_.reads(job_.columns, k) && row_.reads(job_.columns, k + 1) &&
          row_.reads(job_.columns, k + 2)) {
        add_taps<3>(x, k, sums + k * kLanes);
        k += 3;
      } else {
        if (row_.reads(job_.columns, k)) add_taps<1>(x, k, sums + k * kLanes);
        ++k;
      }
    }
  }

  template <int kTaps>
  void add_taps(const T* x, Index first_tap, T* to) const {
    Vector sums[kTaps];
    const T* from[kTaps];
#pragma GCC unroll 4
    for (int k = 0; k < kTaps; ++k) {
      sums[k] = W::load(to + k * kLanes);
      from[k] = x + row_.at(job_.columns, first_tap + k);
    }
    for (Index j = 0; j < job_.columns.count; j += kLanes) {
      const Vector g = W::load(gradient_ + j);
#pragma GCC unroll 4
      for (int k = 0; k < kTaps; ++k) sums[k] += g * W::load(from[k] + j);
    }
#pragma GCC unroll 4
    for (int k = 0; k < kTaps; ++k) W::store(to + k * kLanes, sums[k]);
  }

  DepthwiseGradWeightJob<T> job_;
  PlanarRow<T, kBytes> row_;
  Index slots_;
  T* ring_ = nullptr;
  T* gradient_ = nullptr;
  RowTap* row_taps_ = nullptr;
  LaneSums<T, kLanes> sums_;
};

// Channels that are worked on together, in two vectors: their rows of sources stay in the cache.
template <typename T, int kBytes>
struct ChannelBlock {
  using W = Wide<T, kBytes / sizeof(T)>;
  static constexpr Index kLanes = kBytes / sizeof(T);
  static constexpr int kVectors = 2;
  static constexpr Index kChannels = kVectors * kLanes;

  // Copies pixels that lie `step` elements apart, of so many channels, to where they lie together.
  static void copy(const T* from, Index step, Index pixels, Index channels, T* to) {
    for (Index i = 0; i < pixels; ++i, from += step, to += kChannels) {
      if (channels == kChannels) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          W::store(to + v * kLanes, W::load(from + v * kLanes));
        }
      } else {
        Index c = 0;
        for (; c < channels; ++c) to[c] = from[c];
        for (; c < kChannels; ++c) to[c] = 0;
      }
    }
  }
};

// Channels-last: lanes are channels.
template <typename T, int kBytes>
class ChannelsLastGradWeight {
  using Block = ChannelBlock<T, kBytes>;
  using W = typename Block::W;
  using Vector = typename W::Vector;
  static constexpr Index kLanes = Block::kLanes;
  static constexpr int kVectors = Block::kVectors;

 public:
  static constexpr Index kChannels = Block::kChannels;

  explicit ChannelsLastGradWeight(const DepthwiseGradWeightJob<T>& job)
      : job_(job), slots_(Chain(job.rows).slots) {}

  Index memory_bytes() const {
    return (slots_ * row_size() + (job_.columns.count + job_.taps) * kChannels) * sizeof(T) +
           job_.rows.taps * sizeof(RowTap);
  }

  void lay_out(unsigned char* memory) {
    ring_ = reinterpret_cast<T*>(memory);
    gradient_ = ring_ + slots_ * row_size();
    T* const sums = gradient_ + job_.columns.count * kChannels;
    sums_.lay_out(sums, job_.taps * kChannels);
    row_taps_ = reinterpret_cast<RowTap*>(sums + job_.taps * kChannels);
  }

  void sum(Index image, Index channel, Index begin, Index end, double* total) {
    const Index channels = smaller(kChannels, job_.channels - channel);
    const Index in_row = job_.columns.sources * job_.channels;
    const Index out_row = job_.columns.targets * job_.channels;
    const T* const x = job_.x + image * job_.rows.sources * in_row + channel;
    const T* const grad_y = job_.grad_y + image * job_.rows.targets * out_row + channel;
    const auto flush = [&] { sums_.flush([&](Index i, double value) { total[i] += value; }); };
    walk_chains(
        job_.rows, begin, end, row_taps_,
        [&](Index row, Index slot) {
          Block::copy(x + row * in_row, job_.channels, job_.columns.sources, channels,
                      ring_ + slot * row_size());
        },
        [&](Index a, const RowTap* taps, Index count) {
          Block::copy(grad_y + a * out_row, job_.channels, job_.columns.count, channels, gradient_);
          for (Index r = 0; r < count; ++r) {
            for (Index k = 0; k < job_.columns.taps; ++k) add_tap(taps[r], k);
          }
          if (sums_.full(job_.columns.count)) flush();
        });
    flush();
  }

 private:
  Index row_size() const { return job_.columns.sources * kChannels; }

  void add_tap(const RowTap& row, Index k) {
    constexpr int kPixels = 4;
    Index first, last;
    inside(job_.columns, k, &first, &last);
    const Index step = job_.columns.source_step * kChannels;
    const T* x = ring_ + row.slot * row_size() + job_.columns.source(first, k) * kChannels;
    T* const to = sums_.at((row.filter_row * job_.kernel_w + k) * kChannels);
    Vector sums[kPixels][kVectors] = {};
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[0][v] = W::load(to + v * kLanes);
    Index a = first;
    for (; a + kPixels <= last; a += kPixels) {
#pragma GCC unroll 4
      for (int p = 0; p < kPixels; ++p, x += step) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
          sums[p][v] +=
              W::load(gradient_ + (a + p) * kChannels + v * kLanes) * W::load(x + v * kLanes);
        }
      }
    }
    for (; a < last; ++a, x += step) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        sums[0][v] += W::load(gradient_ + a * kChannels + v * kLanes) * W::load(x + v * kLanes);
      }
    }
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      W::store(to + v * kLanes, (sums[0][v] + sums[1][v]) + (sums[2][v] + sums[3][v]));
    }
  }

  DepthwiseGradWeightJob<T> job_;
  Index slots_;
  T* ring_ = nullptr;
  T* gradient_ = nullptr;
  RowTap* row_taps_ = nullptr;
  LaneSums<T, kLanes> sums_;
};
