// Minimal filtering with holes: which pixels share their products.
//
// A 3x3 filter of stride 1 and rate r sees every r-th pixel only, so each phase of an axis is a
// small map of its own, with zeros beyond its ends. Such an axis is cut into pieces of one or two
// outputs. Two outputs read four inputs and need four products (Winograd's F(2,3)) instead of six;
// where the outer two inputs lie outside, the 2x2 Toeplitz matrix that is left needs three; one
// output needs as many as it has taps inside. In two axes the numbers multiply.
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
  static constexpr int kOutputs = 2, kInputs = 4, kProducts = 4;
  int outputs, inputs, products;
  int filter[kProducts];  // of kAxisFilters
  float of_inputs[kProducts][kInputs];
  float of_products[kOutputs][kProducts];
};

// Combinations of the three taps of an axis.
constexpr int kAxisFilterCount = 7;
constexpr float kAxisFilters[kAxisFilterCount][3] = {
    {1, 0, 0},           {0, 1, 0},  {0, 0, 1},  {0.5f, 0.5f, 0.5f},
    {0.5f, -0.5f, 0.5f}, {0, -1, 1}, {1, -1, 0},
};

// One output with the taps of mask m (bit r: tap r lies inside) is form m; then pairs.
constexpr int kPairForm = 8, kInnerPairForm = 9, kFormCount = 10;
extern const WinogradForm kWinogradForms[kFormCount];

// Output u of a piece is target + u * rate, input e is source + e * rate; inputs may lie outside.
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

WinogradPlan plan_winograd(const ConvGeometry& g);

}  // namespace deeplab
