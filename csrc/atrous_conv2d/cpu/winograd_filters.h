// The filters of minimal filtering, transformed and laid out for the products. Included by
// engine_winograd.h behind winograd_transforms.h.

// Transformed filters: [group][filter][panel][channel][kTileLanes].
template <typename T, int kLanes>
class WinogradFilters {
 public:
  explicit WinogradFilters(const WinogradJob<T>& job)
      : job_(job),
        panels_(ceil_div(job.target_channels, kTileLanes)),
        parts_(ceil_div(job.source_channels, kPartChannels)) {
    for (int i = 0; i < kAxisFilterCount; ++i) {
      for (int j = 0; j < kAxisFilterCount; ++j) {
        if (job.row_filter[i] && job.column_filter[j]) pairs_[count_++] = {i, j};
      }
    }
  }

  struct Pair {
    int row, column;
  };

  // How many there are, and which.
  Index size() const { return count_; }
  const Pair& operator[](Index f) const { return pairs_[f]; }

  Index panels() const { return panels_; }
  Index panel_elements() const { return job_.source_channels * kTileLanes; }
  Index group_elements() const { return count_ * panels_ * panel_elements(); }
  const T* panel(const T* filters, Index group, Index f, Index p) const {
    return filters + group * group_elements() + (f * panels_ + p) * panel_elements();
  }

  // As run_in_team asks.
  Index shared_bytes() const { return 0; }
  Index member_bytes() const { return 0; }
  Index count() const { return job_.groups * group_elements(); }
  void run(Member& member) const { run(member, job_.filters_out); }

  void run(Member& member, T* filters) const {
    member.each(job_.groups * panels_ * parts_, [&](Index i) {
      const Index part = i % parts_, panel = i / parts_ % panels_, group = i / parts_ / panels_;
      transform(group, panel, part * kPartChannels, filters + group * group_elements());
    });
  }

 private:
  // Some channels from c0 on.
  void transform(Index group, Index p, Index c0, T* filters) const {
    alignas(64) T taps[3][3][kPartChannels * kTileLanes];
    alignas(64) T half[3][kPartChannels * kTileLanes];
    const Index k0 = p * kTileLanes, channels = smaller(kPartChannels, job_.source_channels - c0);
    const Index present = smaller(kTileLanes, job_.target_channels - k0);
    const WeightView& w = job_.weights;
    const T* const weight = job_.weight + group * job_.weight_group_step + k0 * w.target_channel +
                            c0 * w.source_channel;
    for (Index k = 0; k < kTileLanes; ++k) {
      for (Index c = 0; c < channels; ++c) {
        const T* from = weight + k * w.target_channel + c * w.source_channel;
        for (int r = 0; r < 3; ++r) {
          for (int s = 0; s < 3; ++s) {
            taps[r][s][c * kTileLanes + k] = k < present ? from[r * w.row + s * w.column] : 0;
          }
        }
      }
    }
    const int lanes = static_cast<int>(channels) * kTileLanes;
    int row = -1;
    for (Index f = 0; f < count_; ++f) {
      if (pairs_[f].row != row) {
        row = pairs_[f].row;
        for (int s = 0; s < 3; ++s) {
          const T* from[3] = {taps[0][s], taps[1][s], taps[2][s]};
          combine(kAxisFilters[row], from, lanes, half[s]);
        }
      }
      const T* from[3] = {half[0], half[1], half[2]};
      T* to = filters + (f * panels_ + p) * panel_elements() + c0 * kTileLanes;
      combine(kAxisFilters[pairs_[f].column], from, lanes, to);
    }
  }

  // to[l] = the sum of factors[i] * from[i][l]. What is not used may be infinite.
  static void combine(const double* factors, const T* const* from, int lanes, T* to) {
    bool first = true;
    for (int i = 0; i < 3; ++i) {
      const T factor = static_cast<T>(factors[i]);
      if (factor == 0) continue;
      const T* const term = from[i];
      if (first) {
        for (int l = 0; l < lanes; ++l) to[l] = term[l] * factor;
      } else {
        for (int l = 0; l < lanes; ++l) to[l] += term[l] * factor;
      }
      first = false;
    }
  }

  static constexpr Index kPartChannels = 8;

  const WinogradJob<T>& job_;
  Pair pairs_[kAxisFilterCount * kAxisFilterCount];
  Index count_ = 0;
  Index panels_, parts_;
};
