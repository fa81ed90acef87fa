#include "winograd_plan.h"

#include <algorithm>
#include <utility>

namespace deeplab {

const WinogradForm kWinogradForms[kFormCount] = {
    {1, 3, 0, {}, {}, {}},
    {1, 3, 1, {0}, {{1}}, {{1}}},
    {1, 3, 1, {1}, {{0, 1}}, {{1}}},
    {1, 3, 2, {0, 1}, {{1}, {0, 1}}, {{1, 1}}},
    {1, 3, 1, {2}, {{0, 0, 1}}, {{1}}},
    {1, 3, 2, {0, 2}, {{1}, {0, 0, 1}}, {{1, 1}}},
    {1, 3, 2, {1, 2}, {{0, 1}, {0, 0, 1}}, {{1, 1}}},
    {1, 3, 3, {0, 1, 2}, {{1}, {0, 1}, {0, 0, 1}}, {{1, 1, 1}}},
    // F(2,3)
    {2,
     4,
     4,
     {0, 3, 4, 2},
     {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}},
     {{1, 1, 1, 0}, {0, 1, -1, -1}}},
    // Inputs 1 and 2 alone: [b c; a b] of the taps a, b, c.
    {2, 4, 3, {1, 5, 6}, {{0, 1, 1, 0}, {0, 0, 1, 0}, {0, 1, 0, 0}}, {{1, 1, 0}, {1, 0, 1}}},
};

namespace {

// A filter more is worth this many products: its weights have to be read, and now and then made.
constexpr Index kFilterCost = 24;

// Which forms a phase may be made of, beside single outputs.
struct Choice {
  bool pairs, inner_pairs;
  bool padded;  // an odd output is half of a pair
};

constexpr Choice kChoices[] = {{true, true, false}, {true, true, true},   {true, false, false},
                               {true, false, true}, {false, true, false}, {false, false, false}};

class AxisPlanner {
 public:
  AxisPlanner(Index out, Index in, Index pad, Index rate, Choice choice)
      : out_(out), in_(in), pad_(pad), rate_(rate), choice_(choice) {}

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

  // The form of two outputs, or -1 where they are not allowed; one may be beyond the end.
  int pair(Index source, bool beyond) const {
    const bool outer = inside(source) || inside(source + 3 * rate_);
    if (!outer && !beyond && choice_.inner_pairs) return kInnerPairForm;
    const bool several = outer || !beyond;
    return choice_.pairs && several && (choice_.padded || !beyond) ? kPairForm : -1;
  }

  // The fewest products, from the last output of the phase back to the first.
  void add_phase(WinogradAxis& axis, Index phase) const {
    const Index count = ceil_div(out_ - phase, rate_);
    std::vector<Index> cost(count + 2, 0);
    std::vector<int> form(count);
    for (Index q = count - 1; q >= 0; --q) {
      const Index source = phase + q * rate_ - pad_;
      form[q] = single(source);
      cost[q] = kWinogradForms[form[q]].products + cost[q + 1];
      const int two = pair(source, q + 1 == count);
      if (two < 0) continue;
      const Index products = kWinogradForms[two].products + cost[q + 2];
      if (products < cost[q] || (choice_.padded && form[q] != 0)) {
        form[q] = two;
        cost[q] = products;
      }
    }
    for (Index q = 0; q < count; q += kWinogradForms[form[q]].outputs) {
      const Index target = phase + q * rate_;
      axis.pieces.push_back({form[q], target, target - pad_, {}});
    }
  }

  const Index out_, in_, pad_, rate_;
  const Choice choice_;
};

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

WinogradPlan plan_winograd(const ConvGeometry& g) {
  struct Candidate {
    WinogradAxis axis;
    Index products;
    unsigned filters;
  };
  const auto candidates = [](Index out, Index in, Index pad, Index rate) {
    std::vector<Candidate> found;
    for (const Choice& choice : kChoices) {
      WinogradAxis axis = AxisPlanner(out, in, pad, rate, choice).run();
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

}  // namespace deeplab
