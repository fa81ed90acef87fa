#include <new>
#include <utility>

#include "jobs.h"

namespace deeplab {
namespace {

constexpr std::align_val_t kAlignment{4096};
// What a thread keeps for its next convolution: fresh pages cost more than small convolutions do.
constexpr Index kMostKept = 4 << 20;
constexpr int kSlots = 3;

struct Block {
  unsigned char* bytes = nullptr;
  Index size = 0;
};

void release(Block block) { ::operator delete(block.bytes, kAlignment); }

struct Kept {
  Block slots[kSlots];
  ~Kept() {
    for (const Block& slot : slots) release(slot);
  }
};

thread_local Kept kept;

}  // namespace

AlignedBytes::AlignedBytes(Index size) {
  for (Block& slot : kept.slots) {
    if (slot.size >= size && slot.size <= 4 * size) {
      const Block block = std::exchange(slot, {});
      bytes_ = block.bytes;
      size_ = block.size;
      return;
    }
  }
  bytes_ = static_cast<unsigned char*>(::operator new(static_cast<std::size_t>(size), kAlignment));
  size_ = size;
}

AlignedBytes::~AlignedBytes() {
  Block block{bytes_, size_};
  if (size_ <= kMostKept) {
    // The largest stay.
    for (Block& slot : kept.slots) {
      if (slot.size < block.size) std::swap(slot, block);
    }
  }
  release(block);
}

}  // namespace deeplab
