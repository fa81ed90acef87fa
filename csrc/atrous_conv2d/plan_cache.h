// Plans of geometries that were met before: to make one takes up to 140 us of the host's time, and
// a network asks for the same few again and again.
#pragma once

#include <cstring>
#include <map>
#include <mutex>

#include "geometry.h"
#include "plan.h"

namespace deeplab {

// All that a plan depends on.
struct PlanKey {
  ConvGeometry geometry;
  Setup setup;
  Index first_option, second_option;  // of the function that makes the plan

  bool operator<(const PlanKey& other) const {
    static_assert(sizeof(PlanKey) == 22 * sizeof(Index), "no bytes between the fields");
    return std::memcmp(this, &other, sizeof(PlanKey)) < 0;
  }
};

// make(): the plan of `key`. Each `make` is a type of its own, and has plans of its own.
template <typename Make>
auto cached_plan(const PlanKey& key, const Make& make) {
  // Far more than networks have layers; pictures of ever new sizes must not fill the memory.
  constexpr std::size_t kMostPlans = 1024;
  static std::mutex mutex;
  static std::map<PlanKey, decltype(make())> plans;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = plans.find(key);
  if (found != plans.end()) return found->second;
  if (plans.size() >= kMostPlans) plans.clear();
  return plans.emplace(key, make()).first->second;
}

}  // namespace deeplab
