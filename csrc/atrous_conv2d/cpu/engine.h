// What the engines share. Included by each kernels_*.cpp inside an unnamed namespace and behind its
// target pragma, so that all of it is compiled for that processor and none of it can be taken for
// another. Before it stands kVectorBytes, the size of that processor's vectors.

#include "vectors.h"
// In this order.
#include "lanes.h"

// Work is made once for its sizes, and copied for each member of a team. It has
//   shared_bytes(), member_bytes()   memory
//   count()                          multiply-adds, roughly
//   run(member)                      all phases
// Returns whether the arithmetic suited the numbers.
template <typename Work, typename Job>
bool run_in_team(const Job& job) {
  constexpr Index kWorthAThread = 1 << 20;
  const Work work(job);
  const Index most = smaller(job.parallel.threads, Team::kMostMembers);
  const Index members = larger(1, smaller(most, work.count() / kWorthAThread));
  const Index own_bytes = round_up(work.member_bytes(), 4096);
  const AlignedBytes shared(work.shared_bytes());
  const AlignedBytes own(members * own_bytes);
  Team team(members);
  auto body = [&](Index i) {
    Member member(team, i, shared.get(), own.get() + i * own_bytes);
    Work mine = work;
    mine.run(member);
  };
  job.parallel.run(
      members, [](Index i, void* context) { (*static_cast<decltype(body)*>(context))(i); }, &body);
  return !team.declined();
}

// Of the taps that tiles have, over all filters and channels.
template <typename T>
Index multiply_adds(const ForwardJob<T>& job) {
  if (job.plan.tile_count == 0) return 0;
  const Index taps = job.plan.tiles[job.plan.tile_count - 1].taps_end;
  return taps * kTileLanes * job.target_channels * job.source_channels * job.groups;
}
