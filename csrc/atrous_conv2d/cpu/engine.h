// The direct convolution as a blocked matrix product, over a Kernel that multiplies packed panels.
//
// Included by each kernels_*.cpp inside an unnamed namespace and behind its target pragma, so that
// all of it is compiled for that processor and none of it can be taken for another.
//
// A left panel holds up to kRows rows, a right panel kTileLanes columns, both along a depth that is
// packed in chunks of kChunk. A Kernel has
//   Element                               float or double
//   kRows                                 rows of a left panel
//   kBalanced                             whether rows are better shared out evenly
//   kDepthUnit                            what a depth is rounded up to
//   kRightAsStaged                        whether right panels are [depth][kTileLanes] elements
//   Thread                                made by each thread for the time it works; its suits()
//                                         tells whether what it packed may be multiplied so
//   left_bytes(depth), right_bytes(depth)
//   pack_left(staging, rows, entries, at, thread, panel)   staging [rows][kChunk]
//   pack_right(staging, entries, at, thread, panel)        staging [kChunk][kTileLanes]
//   multiply(runs, count, rows, columns, thread, tile)     tile [kRows][kTileLanes]
// at: entries of the panel before these.

constexpr int kChunk = 32;

#include "lanes.h"

struct Run {
  const unsigned char* left;
  const unsigned char* right;
  Index depth;  // rounded up
};

// `total` items in groups of at most `most`: where group g begins.
struct Groups {
  Index total, most, count;
  bool balanced;
  Groups(Index total, Index most, bool balanced)
      : total(total), most(most), count((total + most - 1) / most), balanced(balanced) {}
  Index begin(Index g) const { return balanced ? total * g / count : smaller(g * most, total); }
  Index size(Index g) const { return begin(g + 1) - begin(g); }
};

// Work is made once for its sizes, and copied for each member of a team. It has
//   shared_bytes(), member_bytes()   memory
//   count()                          multiply-adds, roughly
//   run(member)                      all phases
// Returns whether the arithmetic suited the numbers.
template <typename Work, typename Job>
bool run_in_team(const Job& job) {
  constexpr Index kWorthAThread = 1 << 20;
  const Work work(job);
  const Index most = smaller(job.parallel.threads, Team::kMostMembers);
  const Index members = larger(1, smaller(most, work.count() / kWorthAThread));
  const Index own_bytes = round_up(work.member_bytes(), 4096);
  const AlignedBytes shared(work.shared_bytes());
  const AlignedBytes own(members * own_bytes);
  Team team(members);
  auto body = [&](Index i) {
    Member member(team, i, shared.get(), own.get() + i * own_bytes);
    Work mine = work;
    mine.run(member);
  };
  job.parallel.run(
      members, [](Index i, void* context) { (*static_cast<decltype(body)*>(context))(i); }, &body);
  return !team.declined();
}

// Of the taps that tiles have, over all filters and channels.
template <typename T>
Index multiply_adds(const ForwardJob<T>& job) {
  if (job.plan.tile_count == 0) return 0;
  const Index taps = job.plan.tiles[job.plan.tile_count - 1].taps_end;
  return taps * kTileLanes * job.target_channels * job.source_channels * job.groups;
}

template <typename Kernel>
class Forward {
  using T = typename Kernel::Element;
  using Thread = typename Kernel::Thread;

 public:
  explicit Forward(const ForwardJob<T>& job) : job_(job) {
    // Few channels would leave most of a depth empty: then all taps share one.
    const Index apart = job.plan.taps * round_up(job.source_channels, Kernel::kDepthUnit);
    const Index together = round_up(job.plan.taps * job.source_channels, Kernel::kDepthUnit);
    merged_ = 2 * together <= apart;
    units_ = merged_ ? 1 : job.plan.taps;
    choose_blocks();
  }

  Index shared_bytes() const {
    return groups_in(filters_) * units_ * weight_bytes(depth_of(channels_));
  }
  Index member_bytes() const { return units_ * pixel_bytes(depth_of(channels_)); }
  Index count() const { return multiply_adds(job_); }

  void run(Member& member) {
    Thread thread;
    packed_ = member.shared;
    for (group_ = 0; group_ < job_.groups; ++group_) {
      for (k0_ = 0; k0_ < job_.target_channels; k0_ += filters_) {
        kn_ = smaller(filters_, job_.target_channels - k0_);
        // At least once: without channels the result is the bias.
        for (c0_ = 0; c0_ == 0 || c0_ < job_.source_channels; c0_ += channels_) {
          cn_ = smaller(channels_, job_.source_channels - c0_);
          block(member, thread);
          if (member.declined()) return;
        }
      }
    }
  }

 private:
  // ---- sizes

  Index entries_of(Index channels) const { return merged_ ? job_.plan.taps * channels : channels; }
  Index depth_of(Index channels) const {
    return round_up(entries_of(channels), Kernel::kDepthUnit);
  }
  Groups filter_groups() const {
    return job_.channels_last ? Groups(kn_, kTileLanes, false)
                              : Groups(kn_, Kernel::kRows, Kernel::kBalanced);
  }
  Index groups_in(Index filters) const {
    const Index most = job_.channels_last ? kTileLanes : Kernel::kRows;
    return (filters + most - 1) / most;
  }
  Index weight_bytes(Index depth) const {
    return job_.channels_last ? Kernel::right_bytes(depth) : Kernel::left_bytes(depth);
  }
  Index pixel_groups() const {
    return job_.channels_last ? (kTileLanes + Kernel::kRows - 1) / Kernel::kRows : 1;
  }
  Index pixel_bytes(Index depth) const {
    return job_.channels_last ? pixel_groups() * Kernel::left_bytes(depth)
                              : Kernel::right_bytes(depth);
  }

  // Packed weights stay in the second-level cache while all pixels pass them; filters_ of them with
  // channels_ channels at a time. Deep blocks write y seldom, wide ones pack pixels seldom.
  void choose_blocks() {
    channels_ = job_.source_channels;
    filters_ = job_.target_channels;
    if (!merged_) channels_ = smaller(channels_, kBlockChannels);
    const Index one = units_ * weight_bytes(depth_of(larger(1, channels_)));
    const Index unit = job_.channels_last ? kTileLanes : Kernel::kRows;
    const Index most = larger(1, job_.memory / larger(1, one));
    const Index groups = groups_in(filters_);
    const Index blocks = larger(1, (groups + most - 1) / most);
    filters_ = smaller(filters_, (groups + blocks - 1) / blocks * unit);
  }

  // ---- one block: kn_ filters from k0_, cn_ channels from c0_

  void block(Member& member, Thread& thread) {
    const Groups groups = filter_groups();
    member.each(groups.count, [&](Index g) {
      pack_weights(g, groups, thread);
      if (!thread.suits()) member.decline();
    });
    member.each(job_.plan.tile_count, [&](Index t) {
      multiply_tile(job_.plan.tiles[t], groups, thread, member.own);
      if (!thread.suits()) member.decline();
    });
  }

  const T* weight_at(Index filter, Index tap, Index channel) const {
    const WeightView& w = job_.weights;
    return job_.weight + group_ * job_.weight_group_step + filter * w.target_channel +
           channel * w.source_channel + w.tap(tap);
  }

  void pack_weights(Index g, const Groups& groups, Thread& thread) {
    alignas(64)
        T staging[kTileLanes * kTileLanes > Kernel::kRows * kChunk ? kTileLanes * kTileLanes
                                                                   : Kernel::kRows * kChunk] = {};
    const Index first = k0_ + groups.begin(g);
    const int size = static_cast<int>(groups.size(g));
    const Index entries = entries_of(cn_), depth = depth_of(cn_), bytes = weight_bytes(depth);
    for (Index u = 0; u < units_; ++u) {
      unsigned char* panel = packed_ + (g * units_ + u) * bytes;
      for (Index at = 0; at < entries; at += kChunk) {
        const int count = static_cast<int>(smaller(kChunk, entries - at));
        if (job_.channels_last) {
          for (int e = 0; e < count; ++e) {
            load_strided(weight_entry(first, u, at + e), job_.weights.target_channel, size,
                         staging + e * kTileLanes);
          }
          Kernel::pack_right(staging, count, at, thread, panel);
        } else {
          for (int r = 0; r < size; ++r) {
            if (merged_) {
              for (int e = 0; e < count; ++e) {
                staging[r * kChunk + e] = *weight_entry(first + r, u, at + e);
              }
            } else {
              load_strided(weight_entry(first + r, u, at), job_.weights.source_channel, count,
                           staging + r * kChunk);
            }
          }
          Kernel::pack_left(staging, size, count, at, thread, panel);
        }
      }
    }
  }

  const T* weight_entry(Index filter, Index unit, Index entry) const {
    return merged_ ? weight_at(filter, entry / cn_, c0_ + entry % cn_)
                   : weight_at(filter, unit, c0_ + entry);
  }

  // ---- one tile of pixels

  void multiply_tile(const PixelTile& tile, const Groups& groups, Thread& thread,
                     unsigned char* panel) {
    const Index* taps = job_.plan.tile_taps + tile.taps_begin;
    const Index tap_count = tile.taps_end - tile.taps_begin;
    const Index depth = depth_of(cn_);
    // Merged, all taps take part, and read zeros where a tile lacks one.
    const Index used = merged_ ? (tap_count > 0) : tap_count;
    const Groups pixels(tile.lanes, job_.channels_last ? Kernel::kRows : kTileLanes,
                        job_.channels_last && Kernel::kBalanced);
    pack_pixels(tile, pixels, taps, tap_count, thread, panel);
    const Lanes targets = Lanes::of_targets(job_.plan, tile, job_.targets);
    alignas(64) T result[Kernel::kRows * kTileLanes];
    Run runs[kMostRuns];
    for (Index g = 0; g < groups.count; ++g) {
      for (Index p = 0; p < pixels.count; ++p) {
        const int filters = static_cast<int>(groups.size(g));
        const int rows = job_.channels_last ? static_cast<int>(pixels.size(p)) : filters;
        const int columns = job_.channels_last ? filters : tile.lanes;
        bool first = c0_ == 0;
        // Mostly one round; a kernel of very many taps takes several.
        for (Index begin = 0; begin == 0 || begin < used; begin += kMostRuns) {
          const Index end = smaller(used, begin + kMostRuns);
          int count = 0;
          for (Index i = begin; i < end; ++i) {
            const unsigned char* weights =
                packed_ + (g * units_ + (merged_ ? 0 : taps[i])) * weight_bytes(depth);
            const unsigned char* x =
                panel + (job_.channels_last ? (p * used + i) * Kernel::left_bytes(depth)
                                            : i * Kernel::right_bytes(depth));
            runs[count++] = job_.channels_last ? Run{x, weights, depth} : Run{weights, x, depth};
          }
          Kernel::multiply(runs, count, rows, columns, thread, result);
          const bool last = c0_ + channels_ >= job_.source_channels && end == used;
          if (job_.channels_last) {
            emit_channels_last(targets, static_cast<int>(pixels.begin(p)), rows,
                               k0_ + groups.begin(g), filters, result, first, last);
          } else {
            emit_planar(targets, k0_ + groups.begin(g), filters, result, first, last);
          }
          first = false;
        }
      }
    }
  }

  void pack_pixels(const PixelTile& tile, const Groups& pixels, const Index* taps, Index tap_count,
                   Thread& thread, unsigned char* panel) {
    alignas(64) T staging[kChunk * kTileLanes] = {};
    const Index entries = entries_of(cn_), depth = depth_of(cn_);
    const Index used = merged_ ? (tap_count > 0) : tap_count;
    const T* source = job_.source + (group_ * job_.source_channels + c0_) * job_.sources.channel;
    for (Index u = 0; u < used; ++u) {
      Lanes lanes = Lanes::of_sources(job_.plan, tile, merged_ ? 0 : taps[u], job_.sources);
      for (Index at = 0; at < entries; at += kChunk) {
        const int count = static_cast<int>(smaller(kChunk, entries - at));
        if (merged_) {
          for (int e = 0; e < count; ++e) {
            const Index tap = (at + e) / cn_, channel = (at + e) % cn_;
            if (e == 0 || channel == 0)
              lanes = Lanes::of_sources(job_.plan, tile, tap, job_.sources);
            load_lanes(lanes, source + channel * job_.sources.channel, 0, 1,
                       staging + e * kTileLanes);
          }
        } else if (!job_.channels_last) {
          T* to = Kernel::kRightAsStaged ? right_entry(panel, u, at) : staging;
          load_lanes(lanes, source + at * job_.sources.channel, job_.sources.channel, count, to);
          if (Kernel::kRightAsStaged) continue;
        } else {
          load_pixels(lanes, source + at, count, staging);
        }
        if (!job_.channels_last) {
          Kernel::pack_right(staging, count, at, thread, panel + u * Kernel::right_bytes(depth));
          continue;
        }
        if (merged_) transpose(staging);
        for (Index p = 0; p < pixels.count; ++p) {
          Kernel::pack_left(staging + pixels.begin(p) * kChunk, static_cast<int>(pixels.size(p)),
                            count, at, thread, panel + (p * used + u) * Kernel::left_bytes(depth));
        }
      }
    }
  }

  T* right_entry(unsigned char* panel, Index unit, Index entry) const {
    panel += unit * Kernel::right_bytes(depth_of(cn_));
    return reinterpret_cast<T*>(panel) + entry * kTileLanes;
  }

  // staging[lane][e] = channel e of the lane's pixel, of a channels-last map.
  void load_pixels(const Lanes& lanes, const T* from, int count, T* staging) const {
    for (int i = 0; i < kTileLanes * kChunk; ++i) staging[i] = 0;
    lanes.visit([&](int lane, Index offset) {
      for (int e = 0; e < count; ++e) staging[lane * kChunk + e] = from[offset + e];
    });
  }

  // ---- results: y starts as, or gains, this block's sums; the last block adds bias and ReLU

  void emit_planar(const Lanes& targets, Index filter, int filters, const T* result, bool first,
                   bool last) const {
    const Index channel = group_ * job_.target_channels + filter;
    T* y = job_.target + channel * job_.targets.channel;
    const T* bias = last && job_.bias ? job_.bias + channel : nullptr;
    store_lanes(targets, result, filters, y, job_.targets.channel, !first, bias, last && job_.relu);
  }

  void emit_channels_last(const Lanes& targets, int first_lane, int rows, Index filter, int filters,
                          const T* result, bool first, bool last) const {
    const Index channel = group_ * job_.target_channels + filter;
    const T* bias = last && job_.bias ? job_.bias + channel : nullptr;
    store_channels(targets, first_lane, rows, filters, result,
                   job_.target + channel * job_.targets.channel, !first, bias, last && job_.relu);
  }

  static constexpr int kMostRuns = 64;
  static constexpr Index kBlockChannels = 64;

  const ForwardJob<T>& job_;
  bool merged_;
  Index units_;
  Index filters_, channels_;  // of a block
  unsigned char* packed_ = nullptr;
  Index group_ = 0, k0_ = 0, kn_ = 0, c0_ = 0, cn_ = 0;
};
