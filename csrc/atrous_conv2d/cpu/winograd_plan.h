// Minimal filtering with holes: which pixels share their products.
//
// A 3x3 filter of stride 1 and rate r sees every r-th pixel only, so each phase of an axis is a
// small map of its own, with zeros beyond its ends. Such an axis is cut into pieces of one to four
// outputs. Two outputs read four inputs and need four products (Winograd's F(2,3)) instead of six,
// three need five and four need six; where the outer two inputs of two outputs lie outside, the 2x2
// Toeplitz matrix that is left needs three; one output needs as many as it has taps inside. In two
// axes the numbers multiply.
//
// A product is one of a transformed filter with a transformed pixel, summed over channels: for each
// transformed filter that is, over all pieces, one matrix product. S. Winograd, Arithmetic
// Complexity of Computations, 1980; A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural
// Networks, 2016, for the plain convolution.
#pragma once

#include <vector>

#include "../geometry.h"

namespace deeplab {

// How the outputs of one piece of an axis come about: inputs are combined, each combination is
// multiplied by a combination of the taps, and outputs are combinations of the products.
struct WinogradForm {
  static constexpr int kOutputs = 4, kInputs = 6, kProducts = 6;
  int outputs, inputs, products;
  int filter[kProducts];  // of kAxisFilters
  double of_inputs[kProducts][kInputs];
  double of_products[kOutputs][kProducts];
};

// Three and four outputs are polynomials, known by their values at 0, 2/3, -2/3, 3/2, -3/2 and, so
// to say, infinity. Of the points tried these lose the fewest digits: with 512 channels the error
// is at most 1.2e-6 of the result, where it is 4e-7 by F(2,3) at 0, 1 and -1.
constexpr double kA = 2.0 / 3, kB = 3.0 / 2;  // kA * kB = 1
constexpr double kA2 = kA * kA, kB2 = kB * kB;
constexpr double kAFactor = 1 / (2 * kA2 * (kA2 - kB2)), kBFactor = 1 / (2 * kB2 * (kB2 - kA2));

// Combinations of the three taps of an axis.
constexpr int kAxisFilterCount = 11;
constexpr double kAxisFilters[kAxisFilterCount][3] = {
    {1, 0, 0},
    {0, 1, 0},
    {0, 0, 1},
    {0.5, 0.5, 0.5},
    {0.5, -0.5, 0.5},
    {0, -1, 1},
    {1, -1, 0},
    {kAFactor, kAFactor * kA, kAFactor * kA2},
    {kAFactor, -kAFactor * kA, kAFactor * kA2},
    {kBFactor, kBFactor * kB, kBFactor * kB2},
    {kBFactor, -kBFactor * kB, kBFactor * kB2},
};

// One output with the taps of mask m (bit r: tap r lies inside) is form m; then several outputs.
constexpr int kPairForm = 8, kInnerPairForm = 9, kFastPairForm = 10, kTripleForm = 11,
              kQuadForm = 12, kFormCount = 13;
constexpr WinogradForm kWinogradForms[kFormCount] = {
    {1, 3, 0, {}, {}, {}},
    {1, 3, 1, {0}, {{1}}, {{1}}},
    {1, 3, 1, {1}, {{0, 1}}, {{1}}},
    {1, 3, 2, {0, 1}, {{1}, {0, 1}}, {{1, 1}}},
    {1, 3, 1, {2}, {{0, 0, 1}}, {{1}}},
    {1, 3, 2, {0, 2}, {{1}, {0, 0, 1}}, {{1, 1}}},
    {1, 3, 2, {1, 2}, {{0, 1}, {0, 0, 1}}, {{1, 1}}},
    {1, 3, 3, {0, 1, 2}, {{1}, {0, 1}, {0, 0, 1}}, {{1, 1, 1}}},
    // F(2,3) at 0, 1, -1
    {2,
     4,
     4,
     {0, 3, 4, 2},
     {{1, 0, -1}, {0, 1, 1}, {0, -1, 1}, {0, -1, 0, 1}},
     {{1, 1, 1}, {0, 1, -1, 1}}},
    // Inputs 1 and 2 alone: [b c; a b] of the taps a, b, c.
    {2, 4, 3, {1, 5, 6}, {{0, 1, 1}, {0, 0, 1}, {0, 1}}, {{1, 1}, {1, 0, 1}}},
    // F(2,3) at 0, a, -a, whose filters F(3,3) and F(4,3) need, too
    {2,
     4,
     4,
     {0, 7, 8, 2},
     {{1, 0, -kB2},
      {0, kA * (kA2 - kB2), kA2 - kB2},
      {0, -kA * (kA2 - kB2), kA2 - kB2},
      {0, -kA2, 0, 1}},
     {{1, 1, 1}, {0, kA, -kA, 1}}},
    // F(3,3) at 0, a, -a, b
    {3,
     5,
     5,
     {0, 7, 8, 9, 2},
     {{1, -kA, -kB2, kB},
      {0, -(kA + kB), kA2 - kB2, kA + kB},
      {0, kB - kA, kA2 - kB2, kB - kA},
      {0, -2 * kA, 0, 2 * kB},
      {0, kA, -kA2, -kB, 1}},
     {{1, 1, 1, 1}, {0, kA, -kA, kB}, {0, kA2, kA2, kB2, 1}}},
    // F(4,3) at 0, a, -a, b, -b
    {4,
     6,
     6,
     {0, 7, 8, 9, 10, 2},
     {{1, 0, -kA2 - kB2, 0, 1},
      {0, -kB, -kB2, kA, 1},
      {0, kB, -kB2, -kA, 1},
      {0, -kA, -kA2, kB, 1},
      {0, kA, -kA2, -kB, 1},
      {0, 1, 0, -kA2 - kB2, 0, 1}},
     {{1, 1, 1, 1, 1},
      {0, kA, -kA, kB, -kB},
      {0, kA2, kA2, kB2, kB2},
      {0, kA2 * kA, -kA2 * kA, kB2 * kB, -kB2 * kB, 1}}},
};

// Output u of a piece is target + u * rate, input e is source + e * rate; inputs may lie outside,
// and outputs beyond the end of the map.
struct WinogradPiece {
  int form;
  Index target, source;
  // Of each product: its column among the products of that filter in this block of the axis.
  Index column[WinogradForm::kProducts];
};

// Pieces [begin, end) of an axis, and how many products each filter has in them.
struct WinogradBlock {
  Index begin, end;
  Index columns[kAxisFilterCount];
};

struct WinogradAxis {
  std::vector<WinogradPiece> pieces;
  std::vector<WinogradBlock> blocks;

  Index products() const;
  // A bit for each filter that any piece needs.
  unsigned filter_set() const;
  // Cuts the pieces into blocks of at most `most`, as even as possible.
  void cut(Index most);
};

// The axes of a 3x3 convolution of stride 1. Which filters it needs depends on the sizes of maps,
// the padding and the rate alone.
struct WinogradPlan {
  WinogradAxis rows, columns;

  // Those of the rows in the lower kAxisFilterCount bits, those of the columns above.
  unsigned filter_set() const;
};

// How many pairs of a row's and a column's filter there are in a set.
Index count_filters(unsigned filter_set);

// fast: three and four outputs at a time, too. Plans are remembered.
WinogradPlan plan_winograd(const ConvGeometry& g, bool fast);

}  // namespace deeplab
