// The gradient of the direct convolution's weights, over a Kernel that multiplies panels. Included
// behind engine.h, inside the same unnamed namespace. A Kernel has
//   Element, Thread                float or double; as of a Unit in forward.h
//   kRows                          rows of a left panel, at most
//   kLeftBytes, kRightBytes        of a panel
//   pack_left(staging, rows, thread, panel)        staging [rows][kTileLanes]
//   pack_right(staging, thread, panel)             staging [kTileLanes][kTileLanes]
//   multiply(runs, count, rows, columns, thread, tile)    tile [rows][kTileLanes]

constexpr int kMostRuns = 24;

// Two panels whose product is added up, along kTileLanes pixels.
struct Run {
  const unsigned char *left, *right;
};

// Left panels are x, rows its channels, right panels grad_y, columns its filters; the depth runs
// over pixels, of which a tap leaves out the tiles where it reads nothing.
template <typename Kernel>
class GradWeight {
  using T = typename Kernel::Element;
  using Thread = typename Kernel::Thread;

 public:
  explicit GradWeight(const GradWeightJob<T>& job) : job_(job) {
    const Index one = kRangeTiles * Kernel::kRightBytes;
    filters_ =
        smaller(round_up(job.out_channels, kTileLanes), larger(1, job.memory / one) * kTileLanes);
  }

  Index shared_bytes() const { return filters_ / kTileLanes * kRangeTiles * Kernel::kRightBytes; }
  Index member_bytes() const { return kRangeTiles * Kernel::kLeftBytes; }
  Index count() const {
    return job_.plan.tile_count * kTileLanes * job_.plan.taps * job_.out_channels *
           job_.in_channels * job_.groups;
  }

  void run(Member& member) {
    Thread thread;
    packed_ = member.shared;
    for (group_ = 0; group_ < job_.groups; ++group_) {
      for (k0_ = 0; k0_ < job_.out_channels; k0_ += filters_) {
        kn_ = smaller(filters_, job_.out_channels - k0_);
        for (tile0_ = 0; tile0_ < job_.plan.tile_count; tile0_ += kRangeTiles) {
          tiles_ = smaller(kRangeTiles, job_.plan.tile_count - tile0_);
          block(member, thread);
          if (member.declined()) return;
        }
      }
    }
  }

 private:
  static constexpr Index kRangeTiles = kMostRuns;

  void block(Member& member, Thread& thread) {
    member.each(ceil_div(kn_, kTileLanes) * tiles_, [&](Index i) {
      pack_gradients(i / tiles_, i % tiles_, thread);
      if (!thread.suits()) member.decline();
    });
    // Channels in groups of equal size, for the same speed of all.
    const Index groups = ceil_div(job_.in_channels, Kernel::kRows);
    member.each(groups * job_.plan.taps, [&](Index i) {
      const Index g = i / job_.plan.taps, c0 = job_.in_channels * g / groups;
      const int rows = static_cast<int>(job_.in_channels * (g + 1) / groups - c0);
      multiply(c0, rows, i % job_.plan.taps, thread, member.own);
      if (!thread.suits()) member.decline();
    });
  }

  unsigned char* gradient_panel(Index group, Index tile) const {
    return packed_ + (group * kRangeTiles + tile) * Kernel::kRightBytes;
  }

  int filters_of(Index group) const {
    return static_cast<int>(smaller(kTileLanes, kn_ - group * kTileLanes));
  }

  void pack_gradients(Index g, Index tile, Thread& thread) {
    alignas(64) T planes[kTileLanes * kTileLanes] = {}, pixels[kTileLanes * kTileLanes];
    const Lanes targets =
        Lanes::of_targets(job_.plan, job_.plan.tiles[tile0_ + tile], job_.outputs);
    const Index channel = group_ * job_.out_channels + k0_ + g * kTileLanes;
    load_lanes(targets, job_.grad_y + channel * job_.outputs.channel, job_.outputs.channel,
               filters_of(g), planes);
    transpose_map<T, kVectorBytes / sizeof(T)>(planes, kTileLanes, kTileLanes, kTileLanes, pixels,
                                               kTileLanes);
    Kernel::pack_right(pixels, thread, gradient_panel(g, tile));
  }

  // `rows` channels from c0 on, all filters of the block.
  void multiply(Index c0, int rows, Index tap, Thread& thread, unsigned char* panel) {
    const T* x = job_.x + (group_ * job_.in_channels + c0) * job_.inputs.channel;
    alignas(64) T staging[kTileLanes * kTileLanes];
    alignas(64) T result[Kernel::kRows * kTileLanes];
    Index used[kRangeTiles];
    int count = 0;
    for (Index t = 0; t < tiles_; ++t) {
      const Lanes lanes =
          Lanes::of_sources(job_.plan, job_.plan.tiles[tile0_ + t], tap, job_.inputs);
      if (lanes.begin[kTileLanes / kPieceLanes] == 0) continue;
      load_lanes(lanes, x, job_.inputs.channel, rows, staging);
      Kernel::pack_left(staging, rows, thread, panel + count * Kernel::kLeftBytes);
      used[count++] = t;
    }
    Run runs[kRangeTiles];
    for (Index g = 0; g * kTileLanes < kn_; ++g) {
      for (int i = 0; i < count; ++i) {
        runs[i] = {panel + i * Kernel::kLeftBytes, gradient_panel(g, used[i])};
      }
      const int columns = filters_of(g);
      Kernel::multiply(runs, count, rows, columns, thread, result);
      emit(k0_ + g * kTileLanes, columns, c0, rows, tap, result);
    }
  }

  void emit(Index k, int filters, Index c, int channels, Index tap, const T* result) const {
    const Index taps = job_.plan.taps, per_filter = job_.in_channels * taps;
    T* to = job_.grad_weight + (group_ * job_.out_channels + k) * per_filter + c * taps + tap;
    for (int i = 0; i < filters; ++i) {
      for (int j = 0; j < channels; ++j) {
        T& sum = to[i * per_filter + j * taps];
        sum = tile0_ == 0 ? result[j * kTileLanes + i] : sum + result[j * kTileLanes + i];
      }
    }
  }

  const GradWeightJob<T>& job_;
  Index filters_;  // of a block, a multiple of kTileLanes
  unsigned char* packed_ = nullptr;
  Index group_ = 0, k0_ = 0, kn_ = 0, tile0_ = 0, tiles_ = 0;
};
