// Rows of maps, copied to where vectors read them: what both memory formats of the convolution of
// single channels share. Included by engine_depthwise.h, inside its unnamed namespace.

// A row of sources in memory, and the row of the filter that multiplies it.
struct RowTap {
  Index slot, filter_row;
};

// How the targets of an axis follow each other where those that share rows of sources are computed
// one after the other.
struct Chain {
  explicit Chain(const TapAxis& axis)
      : step(axis.spacing / common_divisor(axis.spacing, axis.source_step)),
        advance(axis.source_step / common_divisor(axis.spacing, axis.source_step)),
        slots(axis.taps + smaller(axis.taps, advance)) {}

  Index step;     // from one target to the next
  Index advance;  // the same in taps
  Index slots;    // rows in memory: those of a target, and what the next one needs beside them
};

// Visits the targets [begin, end) of an axis, counted along its chains. load(row, slot) copies a
// row of sources into a slot, once a chain, and one target ahead: a vector that spans what two
// stores have just written would wait for both. compute(a, taps, count) gets the rows that lie
// inside the map; `taps` has room for axis.taps.
template <typename Load, typename Compute>
void walk_chains(const TapAxis& axis, Index begin, Index end, RowTap* taps, const Load& load,
                 const Compute& compute) {
  const Chain chain(axis);
  const Index shared = larger(axis.taps - chain.advance, 0);  // taps that a target has of the last
  const auto next_slot = [&](Index slot) { return slot + 1 == chain.slots ? 0 : slot + 1; };
  for (Index start = 0, before = 0; start < chain.step && before < end; ++start) {
    const Index length = start < axis.count ? ceil_div(axis.count - start, chain.step) : 0;
    const Index first = larger(begin - before, 0), last = smaller(end - before, length);
    const auto load_taps = [&](Index n, Index k, Index slot) {
      for (; n < last && k < axis.taps; ++k, slot = next_slot(slot)) {
        const Index row = axis.source(start + n * chain.step, k);
        if (row >= 0 && row < axis.sources) load(row, slot);
      }
    };
    load_taps(first, 0, 0);
    for (Index n = first, first_slot = 0; n < last; ++n) {
      const Index a = start + n * chain.step;
      Index count = 0, slot = first_slot;
      for (Index k = 0; k < axis.taps; ++k, slot = next_slot(slot)) {
        if (k + shared == axis.taps) first_slot = slot;
        const Index row = axis.source(a, k);
        if (row >= 0 && row < axis.sources) taps[count++] = {slot, axis.filter_tap(k)};
      }
      if (shared == 0) first_slot = slot;
      load_taps(n + 1, shared, slot);
      compute(a, taps, count);
    }
    before += length;
  }
}

// The targets [*first, *last) of an axis whose tap k reads inside the map.
inline void inside(const TapAxis& axis, Index k, Index* first, Index* last) {
  const Index offset = axis.source(0, k);
  *first = offset >= 0 ? 0 : smaller(ceil_div(-offset, axis.source_step), axis.count);
  *last =
      offset >= axis.sources
          ? *first
          : larger(*first, smaller(ceil_div(axis.sources - offset, axis.source_step), axis.count));
}

// max(v, 0), but NaN stays NaN.
template <typename Vector>
Vector relu(Vector v) {
  const Vector zero{};
  return v < zero ? zero : v;
}

template <typename Vector>
Vector activated(Vector v, Activation activation) {
  if (activation == Activation::none) return v;
  v = relu(v);
  if (activation == Activation::relu) return v;
  const Vector six = Vector{} + 6;
  return v > six ? six : v;
}
