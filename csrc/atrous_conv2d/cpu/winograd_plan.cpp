#include "winograd_plan.h"

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <utility>

namespace deeplab {

namespace {

// A filter more is worth this many products: its weights have to be read, and now and then made.
constexpr Index kFilterCost = 36;

// Forms that a phase may be made of, as bits; kSingles stands for the forms of one output.
constexpr unsigned kSingles = 1, kPair = 1u << kPairForm, kInnerPair = 1u << kInnerPairForm,
                   kFastPair = 1u << kFastPairForm, kTriple = 1u << kTripleForm,
                   kQuad = 1u << kQuadForm;

// With fewer forms there are fewer filters, and pieces reach beyond the end.
std::vector<unsigned> choices(bool fast) {
  std::vector<unsigned> found = {kPair | kInnerPair | kSingles,
                                 kPair | kInnerPair,
                                 kPair | kSingles,
                                 kPair,
                                 kInnerPair | kSingles,
                                 kSingles};
  if (!fast) return found;
  for (const unsigned several : {kQuad, kTriple, kQuad | kTriple, kQuad | kFastPair,
                                 kTriple | kFastPair, kQuad | kTriple | kFastPair}) {
    for (const unsigned more : {0u, kSingles, kInnerPair, kInnerPair | kSingles}) {
      found.push_back(several | more);
    }
  }
  return found;
}

class AxisPlanner {
 public:
  AxisPlanner(Index out, Index in, Index pad, Index rate, unsigned allowed)
      : out_(out), in_(in), pad_(pad), rate_(rate), allowed_(allowed) {}

  WinogradAxis run() const {
    WinogradAxis axis;
    for (Index phase = 0; phase < std::min(rate_, out_); ++phase) add_phase(axis, phase);
    axis.cut(out_);
    return axis;
  }

 private:
  bool inside(Index position) const { return position >= 0 && position < in_; }

  // The form of one output whose taps begin at `source`.
  int single(Index source) const {
    int mask = 0;
    for (int r = 0; r < 3; ++r) mask |= inside(source + r * rate_) << r;
    return mask;
  }

  // Whether a form of several outputs may begin at `source`, with `rest` outputs left.
  bool suits(int form, Index source, Index rest) const {
    if (!(allowed_ >> form & 1)) return false;
    if (form != kInnerPairForm) return true;
    return rest >= 2 && !inside(source) && !inside(source + 3 * rate_);
  }

  // The fewest products, from the last output of the phase back to the first.
  void add_phase(WinogradAxis& axis, Index phase) const {
    const Index count = ceil_div(out_ - phase, rate_);
    std::vector<Index> cost(count + WinogradForm::kOutputs, 0);
    std::vector<int> form(count);
    for (Index q = count - 1; q >= 0; --q) {
      const Index source = phase + q * rate_ - pad_;
      form[q] = single(source);
      cost[q] = kWinogradForms[form[q]].products + cost[q + 1];
      bool may_change = form[q] != 0 && !(allowed_ & kSingles);
      for (int several = kPairForm; several < kFormCount; ++several) {
        if (!suits(several, source, count - q)) continue;
        const WinogradForm& f = kWinogradForms[several];
        const Index products = f.products + cost[q + f.outputs];
        if (!may_change && products >= cost[q]) continue;
        may_change = false;
        form[q] = several;
        cost[q] = products;
      }
    }
    for (Index q = 0; q < count; q += kWinogradForms[form[q]].outputs) {
      const Index target = phase + q * rate_;
      axis.pieces.push_back({form[q], target, target - pad_, {}});
    }
  }

  const Index out_, in_, pad_, rate_;
  const unsigned allowed_;
};

WinogradPlan make_plan(const ConvGeometry& g, bool fast) {
  struct Candidate {
    WinogradAxis axis;
    Index products;
    unsigned filters;
  };
  const auto candidates = [&](Index out, Index in, Index pad, Index rate) {
    std::vector<Candidate> found;
    for (const unsigned allowed : choices(fast)) {
      WinogradAxis axis = AxisPlanner(out, in, pad, rate, allowed).run();
      const Index products = axis.products();
      const unsigned filters = axis.filter_set();
      found.push_back({std::move(axis), products, filters});
    }
    return found;
  };
  std::vector<Candidate> rows = candidates(g.out_height, g.height, g.pad_h, g.rate_h);
  std::vector<Candidate> columns = candidates(g.out_width, g.width, g.pad_w, g.rate_w);
  Candidate *best_rows = nullptr, *best_columns = nullptr;
  Index least = 0;
  for (Candidate& down : rows) {
    for (Candidate& across : columns) {
      const unsigned set = down.filters | across.filters << kAxisFilterCount;
      const Index cost = down.products * across.products + count_filters(set) * kFilterCost;
      if (best_rows && cost >= least) continue;
      least = cost;
      best_rows = &down;
      best_columns = &across;
    }
  }
  return {std::move(best_rows->axis), std::move(best_columns->axis)};
}

}  // namespace

Index WinogradAxis::products() const {
  Index sum = 0;
  for (const WinogradPiece& piece : pieces) sum += kWinogradForms[piece.form].products;
  return sum;
}

unsigned WinogradAxis::filter_set() const {
  unsigned set = 0;
  for (const WinogradPiece& piece : pieces) {
    const WinogradForm& form = kWinogradForms[piece.form];
    for (int p = 0; p < form.products; ++p) set |= 1u << form.filter[p];
  }
  return set;
}

void WinogradAxis::cut(Index most) {
  const Index count = static_cast<Index>(pieces.size());
  const Index parts = std::max<Index>(1, ceil_div(count, std::max<Index>(1, most)));
  blocks.clear();
  for (Index part = 0; part < parts; ++part) {
    WinogradBlock block{count * part / parts, count * (part + 1) / parts, {}};
    for (Index i = block.begin; i < block.end; ++i) {
      const WinogradForm& form = kWinogradForms[pieces[i].form];
      for (int p = 0; p < form.products; ++p) {
        pieces[i].column[p] = block.columns[form.filter[p]]++;
      }
    }
    blocks.push_back(block);
  }
}

unsigned WinogradPlan::filter_set() const {
  return rows.filter_set() | columns.filter_set() << kAxisFilterCount;
}

Index count_filters(unsigned filter_set) {
  constexpr unsigned kAxis = (1u << kAxisFilterCount) - 1;
  return __builtin_popcount(filter_set & kAxis) *
         __builtin_popcount(filter_set >> kAxisFilterCount & kAxis);
}

WinogradPlan plan_winograd(const ConvGeometry& g, bool fast) {
  using Key = std::array<Index, 9>;
  static std::mutex mutex;
  static std::map<Key, WinogradPlan> plans;
  constexpr std::size_t kMost = 64;
  const Key key = {g.out_height, g.out_width, g.height, g.width, g.pad_h,
                   g.pad_w,      g.rate_h,    g.rate_w, fast};
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = plans.find(key);
  if (found != plans.end()) return found->second;
  if (plans.size() == kMost) plans.clear();
  return plans[key] = make_plan(g, fast);
}

}  // namespace deeplab
