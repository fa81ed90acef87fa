// Which pixels are computed together, and where each tap finds them.
//
// A tap reads inside the map for a rectangle of output pixels only. The rectangles' edges cut the
// output into regions, each with one set of taps. An image's pixels are handed out region by
// region, in tiles; a tile knows the taps that any of its pixels has, so that no other tap costs
// anything. The same plan serves the gradient with respect to the input, where the roles change:
// there a stride leaves each pixel only the taps of its phase.
//
// Where pixels are the lanes of vectors, tiles have 32 of them, whole vectors of a row first. Where
// they are the rows of a product, tiles have as many as that takes at once, if possible of one row
// of the map, which is cut evenly; what is too short shares a tile.
#pragma once

#include <vector>

#include "../geometry.h"

namespace deeplab {

constexpr int kTileLanes = 32;
// Pieces never cross a multiple of this: the lanes of the widest float32 vector.
constexpr int kPieceLanes = 16;
constexpr Index kTapOutside = -0x7fffffffffffffffLL;

// A run of pixels, lane, lane + 1, ..., of one row and one region. Positions are pixels of a map,
// row by row, of the tile's lane 0 were the run so long: pixel l, for l in [lane, lane + count),
// lies at target + l * target_step of the image, and tap t reads source + region_offset[region *
// taps + t] + l * source_step.
struct Piece {
  Index image;
  Index source;
  Index target;
  int lane;
  int count;
  Index region;
};

struct PixelTile {
  Index pieces_begin, pieces_end;
  Index taps_begin, taps_end;  // in tile_taps, ascending
  int lanes;                   // up to the last that is a pixel; pieces say which are
};

struct PixelPlan {
  Index taps = 0;
  Index source_step = 1;
  Index target_step = 1;
  std::vector<PixelTile> tiles;
  std::vector<Piece> pieces;
  std::vector<Index> tile_taps;
  std::vector<Index> region_offset;  // [region][tap], kTapOutside where the tap reads nothing
};

// rows: of a product, at most kPieceLanes; 0 where pixels are lanes.
// Targets are the pixels of y, sources those of x.
PixelPlan plan_forward(const ConvGeometry& g, int rows);
// Targets are the pixels of grad_x, sources those of grad_y.
PixelPlan plan_grad_input(const ConvGeometry& g, int rows);

}  // namespace deeplab
