// Whether values are still those that something was made of.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "check.h"
#include "memory_format.h"

namespace deeplab {
namespace {

// A step of it is a bijection of what is there, so that no single change can be lost.
uint64_t mixed(const unsigned char* bytes, Index size) {
  constexpr int kLanes = 8;  // as long as a multiplication takes
  constexpr uint64_t kPrime = 0x9e3779b97f4a7c15u;
  uint64_t lanes[kLanes] = {1, 2, 3, 4, 5, 6, 7, 8};
  Index i = 0;
  for (; i + 8 * kLanes <= size; i += 8 * kLanes) {
    uint64_t words[kLanes];
    std::memcpy(words, bytes + i, sizeof(words));
    for (int l = 0; l < kLanes; ++l) {
      lanes[l] = (lanes[l] ^ words[l]) * kPrime;
      lanes[l] ^= lanes[l] >> 29;
    }
  }
  uint64_t all = static_cast<uint64_t>(size);
  for (; i < size; ++i) all = (all ^ bytes[i]) * kPrime;
  for (int l = 0; l < kLanes; ++l) {
    all = (all ^ lanes[l]) * kPrime;
    all ^= all >> 32;
  }
  return all;
}

// Of the elements where they lie, each part on its own, so that threads may share them out.
int64_t fingerprint(const Tensor& x_any) {
  check(x_any.is_cpu(), "fingerprint: x must be on the CPU");
  const bool dense = x_any.is_contiguous() || is_channels_last(x_any);
  const Tensor x = dense ? x_any : torch::stable::contiguous(x_any);
  const auto* const bytes = static_cast<const unsigned char*>(x.data_ptr());
  const Index size = x.numel() * x.element_size();
  constexpr Index kPart = 1 << 18;
  std::vector<uint64_t> parts(ceil_div(size, kPart));
  torch::stable::parallel_for(0, parts.size(), 4, [&](int64_t begin, int64_t end) {
    for (Index p = begin; p < end; ++p) {
      parts[p] = mixed(bytes + p * kPart, std::min(kPart, size - p * kPart));
    }
  });
  const auto* const all = reinterpret_cast<const unsigned char*>(parts.data());
  return static_cast<int64_t>(mixed(all, 8 * static_cast<Index>(parts.size())) >> 2);
}

}  // namespace
}  // namespace deeplab

STABLE_TORCH_LIBRARY_IMPL(deeplab_repro, CPU, m) {
  m.impl("fingerprint", TORCH_BOX(&deeplab::fingerprint));
}
