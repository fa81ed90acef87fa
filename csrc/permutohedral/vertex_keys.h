// The coordinates of a lattice vertex as one number, and a hash table that numbers vertices.
//
// A vertex of remainder r has coordinates (d+1) q_i + r. Its key has one bit field for r, one for
// each q_i (i < d, the last coordinate follows from the others) less the least that occurs, and one
// for the picture. Fields are wide enough for all vertices and their neighbours, so that a step
// along an axis is one addition, and no two vertices have one key.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../common/buffer_cpu.h"

namespace deeplab {

template <int kWords>
struct Key {
  static constexpr std::uint64_t kOdd = 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio

  std::uint64_t word[kWords];

  Key operator+(const Key& other) const {
    Key sum;
    for (int w = 0; w < kWords; ++w) sum.word[w] = word[w] + other.word[w];
    return sum;
  }
  Key operator-(const Key& other) const {
    Key difference;
    for (int w = 0; w < kWords; ++w) difference.word[w] = word[w] - other.word[w];
    return difference;
  }
  Key operator*(std::uint64_t factor) const {
    Key product;
    for (int w = 0; w < kWords; ++w) product.word[w] = word[w] * factor;
    return product;
  }
  bool operator==(const Key& other) const {
    bool same = true;
    for (int w = 0; w < kWords; ++w) same &= word[w] == other.word[w];
    return same;
  }
  std::uint64_t hash() const {
    std::uint64_t mixed = word[0];
    for (int w = 1; w < kWords; ++w) {
      mixed = (mixed * kOdd ^ word[w]);
      mixed ^= mixed >> 32;
    }
    return mixed * kOdd;
  }
};

// Where the fields lie, for quotients in [lowest[i], highest[i]].
class KeyFields {
 public:
  // Of a key for any lattice whose coordinates fit into 16 bits.
  static constexpr int kMaxWords = 5;

  KeyFields(int d, const int* lowest, const int* highest, Index pictures) {
    remainder_ = place(bits_for(d));
    for (int i = 0; i < d; ++i) {
      lowest_.push_back(lowest[i]);
      quotient_.push_back(place(bits_for(static_cast<std::uint64_t>(highest[i]) - lowest[i])));
    }
    picture_ = place(bits_for(pictures));
  }

  int words() const { return word_ + 1; }
  int dimension() const { return static_cast<int>(quotient_.size()); }
  int lowest(int i) const { return lowest_[i]; }

  template <int kWords>
  Key<kWords> remainder() const {
    return unit<kWords>(remainder_);
  }
  template <int kWords>
  Key<kWords> quotient(int i) const {
    return unit<kWords>(quotient_[i]);
  }
  template <int kWords>
  Key<kWords> picture() const {
    return unit<kWords>(picture_);
  }
  template <int kWords>
  bool has_remainder(const Key<kWords>& key) const {
    return (key.word[0] & (((std::uint64_t{1} << bits_for(dimension())) - 1))) != 0;
  }

 private:
  struct Place {
    int word, shift;
  };

  static int bits_for(std::uint64_t largest) {
    int bits = 1;
    while (largest >> bits) ++bits;
    return bits;
  }
  Place place(int bits) {
    if (used_ + bits > 64) {
      ++word_;
      used_ = 0;
    }
    const Place here{word_, used_};
    used_ += bits;
    return here;
  }
  template <int kWords>
  static Key<kWords> unit(const Place& at) {
    Key<kWords> key{};
    key.word[at.word] = std::uint64_t{1} << at.shift;
    return key;
  }

  int word_ = 0, used_ = 0;
  Place remainder_, picture_;
  std::vector<Place> quotient_;
  std::vector<int> lowest_;
};

// Numbers keys in the order in which they come.
template <int kWords>
class VertexTable {
 public:
  // `expected` vertices need no growth.
  explicit VertexTable(Index expected) {
    std::size_t slots = kLeastSlots;
    while (slots < 2 * static_cast<std::size_t>(expected)) slots *= 2;
    resize(slots);
  }

  Index size() const { return static_cast<Index>(keys_.size()); }
  const Key<kWords>& key(Index vertex) const { return keys_[vertex]; }

  void prefetch(std::uint64_t hash) const { __builtin_prefetch(&slots_[first_slot(hash)]); }

  int number(const Key<kWords>& key, std::uint64_t hash) {
    std::size_t at = first_slot(hash);
    for (; slots_[at].vertex >= 0; at = (at + 1) & mask_) {
      if (slots_[at].key == key) return slots_[at].vertex;
    }
    const int vertex = static_cast<int>(keys_.size());
    keys_.push_back(key);
    slots_[at] = {key, vertex};
    if (keys_.size() * 2 > mask_) resize(2 * (mask_ + 1));
    return vertex;
  }

  // -1 where there is none.
  int find(const Key<kWords>& key, std::uint64_t hash) const {
    for (std::size_t at = first_slot(hash);; at = (at + 1) & mask_) {
      if (slots_[at].vertex < 0 || slots_[at].key == key) return slots_[at].vertex;
    }
  }

 private:
  static constexpr std::size_t kLeastSlots = 4096;  // a power of 2

  struct Slot {
    Key<kWords> key;
    int vertex;  // -1: free
  };

  std::size_t first_slot(std::uint64_t hash) const { return hash >> shift_; }

  void resize(std::size_t slots) {
    mask_ = slots - 1;
    shift_ = 64;
    for (std::size_t size = slots; size > 1; size /= 2) --shift_;
    slots_ = Buffer<Slot>();  // frees the old ones first
    slots_ = Buffer<Slot>(static_cast<Index>(slots));
    std::memset(static_cast<void*>(slots_.get()), 0xFF, slots * sizeof(Slot));  // vertex -1
    for (std::size_t vertex = 0; vertex < keys_.size(); ++vertex) {
      std::size_t at = first_slot(keys_[vertex].hash());
      while (slots_[at].vertex >= 0) at = (at + 1) & mask_;
      slots_[at] = {keys_[vertex], static_cast<int>(vertex)};
    }
  }

  std::size_t mask_;
  int shift_;
  Buffer<Slot> slots_;
  std::vector<Key<kWords>> keys_;
};

}  // namespace deeplab
