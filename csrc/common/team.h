// Threads that share out work among themselves on the CPU. No torch, no templates of the standard
// library: the files that include this may be compiled for particular processors.
#pragma once

#include "host_device.h"

namespace deeplab {

// Threads that work through the same phases together. Each begins with its own part of a phase's
// items, the same part every time, whose memory is in its cache; then it helps the others; and a
// phase ends when all its items are done. One entry into the thread pool thus serves a whole
// convolution, and a thread that the system has put aside holds up nobody but by the item that it
// is at. Nothing is waited for that another thread does not already work on, so members may come
// one after the other, or not at all.
class Team {
 public:
  static constexpr int kMostMembers = 64;

  explicit Team(Index members) : members(members) {}

  // The next item of member m's, of those before `end`, or -1.
  Index claim(Index m, Index end);
  void finish(Index m);
  // Until `count` items have been finished by all members together.
  void wait(Index count) const;

  // The arithmetic does not suit the numbers; members see it after the phase in which it was said.
  void decline();
  bool declined() const;

  const Index members;

 private:
  // A cache line of its own for each.
  struct alignas(64) Counter {
    Index value = 0;
  };
  Counter claimed_[kMostMembers];
  Counter finished_[kMostMembers];
  alignas(64) bool declined_ = false;
};

// One thread of a team. Every member goes through the same phases.
class Member {
 public:
  Member(Team& team, Index index, unsigned char* shared, unsigned char* own)
      : shared(shared), own(own), team_(team), index_(index) {}

  // One phase: f(i) for i in [0, count), shared out among the members.
  template <typename F>
  void each(Index count, const F& f) {
    each_unfinished(count, f);
    team_.wait(done_);
  }

  // The same for a phase that the next one does not build upon.
  template <typename F>
  void each_unfinished(Index count, const F& f) {
    const Index members = team_.members;
    for (Index i = 0; i < members; ++i) {
      const Index m = (index_ + i) % members;
      const Index first = count * m / members, size = count * (m + 1) / members - first;
      for (Index item; (item = team_.claim(m, before_[m] + size)) >= 0;) {
        f(first + item - before_[m]);
        team_.finish(index_);
      }
      before_[m] += size;
    }
    done_ += count;
  }

  void decline() { team_.decline(); }
  bool declined() const { return team_.declined(); }

  unsigned char* const shared;  // memory of the team
  unsigned char* const own;     // memory of this member

 private:
  Team& team_;
  const Index index_;
  Index before_[Team::kMostMembers] = {};  // items of each member in the phases before
  Index done_ = 0;                         // items of all members so far
};

}  // namespace deeplab
