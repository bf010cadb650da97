// Tasks that are sent behind the makers of their arguments, before these exist.
#include <signal.h>

#include <random>

#include "runtime/impl.h"
#include "tests/runtime/cluster_fixture.h"

namespace testlib {
namespace {

using Ref = sheaf::ObjectRef<int64_t>;
using sheaf::runtime::Locked;
using sheaf::runtime::Peer;
using sheaf::runtime::Runtime;

Runtime::Impl& engine() { return Runtime::current()->impl(); }

template <class F>
void for_each_peer(F visit) {
  Locked guard(engine());
  engine().peers.for_each(visit);
}

// Tasks that lie at workers, their arguments not having been made when they were sent.
uint32_t early() {
  uint32_t n = 0;
  for_each_peer([&](Peer& p) { n += p.early; });
  return n;
}

uint32_t in_flight() {
  uint32_t n = 0;
  for_each_peer([&](Peer& p) { n += p.in_flight.size; });
  return n;
}

// All functions count as measured, and as short, whatever they did in tests before. Tasks of functions that were never
// measured, or are long, are not sent early.
void forget_running_times(double us = 1) {
  sheaf::runtime::TaskTemplate fresh;
  fresh.function = {0xea51, static_cast<uint64_t>(std::random_device()())};
  auto end = Runtime::current()->define_template(fresh);
  Locked guard(engine());
  for (sheaf::runtime::TemplateId id = 0; id <= end; ++id) *engine().submitter.definition(id).mean_us = us;
}

class EarlyTest : public ClusterTest {
 protected:
  void SetUp() override {
    auto one = sheaf::put(int64_t{1});   // runs of all functions that follow others here: they are measured
    sheaf::get(sheaf::task(noted_add).remote(temp_.file("first"), one, 1));
    sheaf::get(sheaf::task(add).remote(one, one));
    sheaf::get(sheaf::task(meet).remote(temp_.file("first meeting"), 1, one));
    sheaf::get(sheaf::task(total).remote(sheaf::task(ramp).remote(2)));
    sheaf::get(sheaf::task(sum_of_refs).remote(sheaf::task(make_refs).remote(2)));
    release("first go");
    sheaf::get(sheaf::task(held_by_child).remote(temp_.file("first note"), temp_.file("first go"), 1));
    forget_running_times();
  }
  // Runs until release(); it is at its worker when this returns.
  Ref start_held(int64_t x, const std::string& go = "go") {
    Ref ref = sheaf::task(held).remote(temp_.file(go), x);
    at_workers(1);
    return ref;
  }
  // The same, without retries.
  Ref start_held_once(int64_t x) {
    Ref ref = sheaf::task(held).max_retries(0).remote(temp_.file("go"), x);
    at_workers(1);
    return ref;
  }
  void at_workers(uint32_t n) {
    EXPECT_TRUE(eventually([&] { return in_flight() == n; })) << in_flight();
  }
  // Two workers, each with a task that runs until its release.
  std::pair<Ref, Ref> start_two(int64_t x, int64_t y) {
    Ref a = sheaf::task(held).remote(temp_.file("go a"), x), b = sheaf::task(held).remote(temp_.file("go b"), y);
    EXPECT_TRUE(eventually([] {
      int busy = 0;
      for_each_peer([&](Peer& p) { busy += p.in_flight.size == 1; });
      return busy == 2;
    }));
    return {a, b};
  }
  void release(const std::string& name = "go") { std::ofstream(temp_.file(name)) << "x"; }
  int notes() { return temp_.lines("notes"); }
  // b more than a; leaves a note.
  Ref plus(const Ref& a, int64_t b) { return sheaf::task(noted_add).remote(temp_.file("notes"), a, b); }
};

TEST_F(EarlyTest, ChainFollowsItsMaker) {
  Ref last = start_held(1);
  for (int i = 0; i < 20; ++i) last = plus(last, 1);
  EXPECT_EQ(early(), 20u);
  {
    Locked guard(engine());
    engine().submitter.tick(sheaf::runtime::Clock::now());
  }
  for_each_peer([](Peer& p) {
    if (p.early == 0) return;
    EXPECT_EQ(p.sched->requested, 0u) << "no other worker could do anything";
    EXPECT_FALSE(p.steal_sent);
  });
  release();
  EXPECT_EQ(sheaf::get(last, 20s), 21);
  EXPECT_EQ(notes(), 20);
  EXPECT_EQ(early(), 0u);
}

TEST_F(EarlyTest, WhatWaitsFollowsWhenItsMakerIsSent) {
  Ref blocker = sheaf::task(held).num_cpus(2).remote(temp_.file("go"), 0);
  EXPECT_TRUE(eventually([] { return sheaf::available_resources()["CPU"] == 0.0; }));
  auto zero = sheaf::put(int64_t{0});
  std::vector<Ref> ends;
  for (int64_t c = 0; c < 4; ++c) {
    Ref last = plus(sheaf::put(c), 0);
    for (int i = 0; i < 700; ++i) last = sheaf::task(add).remote(last, i % 100 == 0 ? last : zero);
    ends.push_back(last);
  }
  release();
  EXPECT_EQ(sheaf::get(blocker, 20s), 0);
  for (int64_t c = 0; c < 4; ++c) EXPECT_EQ(sheaf::get(ends[static_cast<size_t>(c)], 20s), c << 7);
}

// Not only when its last task is answered: it would have nothing to do until more is there.
TEST_F(EarlyTest, WorkerThatIsHalfThroughGetsWhatFollowsItsLastTask) {
  constexpr int kBefore = 300, kAfter = 900;
  auto lanes_have_room = [] {
    size_t over = 0;
    for_each_peer([&](Peer& p) { over += p.lane.overflow_bytes(); });
    return over == 0;
  };
  auto follow = [&](Ref last, int n) {
    for (int i = 0; i < n; ++i) {
      EXPECT_TRUE(eventually(lanes_have_room));
      last = sheaf::task(add).remote(last, 1);
    }
    return last;
  };
  Ref passed = follow(start_held(1), kBefore);
  EXPECT_TRUE(eventually(lanes_have_room));
  Ref met = sheaf::task(meet).remote(temp_.file("meeting"), 2, passed);
  Ref last = follow(met, kAfter);
  const uint32_t most = in_flight();
  EXPECT_EQ(most, sheaf::runtime::kPipelineTasksMax);
  release();
  EXPECT_EQ(sheaf::get(passed, 20s), 1 + kBefore);
  const uint32_t left = most - kBefore - 1;   // of these; how many have come depends on what the lane had room for
  EXPECT_TRUE(eventually([&] { return in_flight() > left; }, 5s)) << in_flight() << ", were " << most;
  std::ofstream(temp_.file("meeting"), std::ios::app) << "x\n";
  EXPECT_EQ(sheaf::get(last, 20s), 1 + kBefore + kAfter);
}

TEST_F(EarlyTest, ErrorsOfMakersBecomeTheirFollowers) {
  Ref bad = start_held(-1);
  Ref one = plus(bad, 1), two = plus(one, 1);
  EXPECT_EQ(early(), 2u);
  release();
  for (const Ref& ref : {bad, one, two}) {
    try {
      sheaf::get(ref, 20s);
      FAIL() << "no error";
    } catch (const sheaf::TaskError& e) {
      EXPECT_NE(std::string(e.what()).find("held"), std::string::npos) << e.what();
    }
  }
  EXPECT_EQ(notes(), 0);
}

TEST_F(EarlyTest, CancelledMakerCancelsItsFollowers) {
  Ref first = start_held(1);
  Ref one = plus(first, 1), two = plus(one, 1);
  EXPECT_EQ(early(), 2u);
  EXPECT_TRUE(sheaf::cancel(one));
  EXPECT_THROW(sheaf::get(one, 20s), sheaf::TaskCancelledError);
  release();
  EXPECT_THROW(sheaf::get(two, 20s), sheaf::TaskCancelledError);
  EXPECT_EQ(sheaf::get(first, 20s), 1);
  EXPECT_EQ(notes(), 0);
}

TEST_F(EarlyTest, ForceSparesTheMakerOfWhatHasNotStarted) {
  Ref first = start_held_once(1);
  Ref follower = plus(first, 1);
  EXPECT_EQ(early(), 1u);
  EXPECT_TRUE(sheaf::cancel(follower, true));
  EXPECT_THROW(sheaf::get(follower, 20s), sheaf::TaskCancelledError);
  release();
  EXPECT_EQ(sheaf::get(first, 20s), 1);
  EXPECT_EQ(notes(), 0);
}

TEST_F(EarlyTest, ForceStopsWhatHasStarted) {
  Ref first = start_held(1);
  Ref follower = sheaf::task(meet).remote(temp_.file("notes"), 2, first);   // never met: runs for long
  EXPECT_EQ(early(), 1u);
  release();
  ASSERT_TRUE(eventually([&] { return notes() == 1; }));
  EXPECT_TRUE(sheaf::cancel(follower, true));
  EXPECT_THROW(sheaf::get(follower, 10s), sheaf::TaskCancelledError);
}

TEST_F(EarlyTest, KilledWorkerLosesNoRetryOfWhatWasQueued) {
  Ref last = start_held(1);
  for (int i = 0; i < 5; ++i) last = sheaf::task(noted_add).max_retries(0).remote(temp_.file("notes"), last, 1);
  EXPECT_EQ(early(), 5u);
  for (int pid : worker_pids()) EXPECT_TRUE(end_process(pid));
  release();
  EXPECT_EQ(sheaf::get(last, 20s), 6);
  EXPECT_EQ(notes(), 5);
}

TEST_F(EarlyTest, KilledMakerWithoutRetriesFailsItsFollowers) {
  Ref first = start_held_once(1);
  Ref follower = plus(first, 1);
  EXPECT_EQ(early(), 1u);
  for (int pid : worker_pids()) EXPECT_TRUE(end_process(pid));
  EXPECT_THROW(sheaf::get(first, 20s), sheaf::WorkerCrashedError);
  EXPECT_THROW(sheaf::get(follower, 20s), sheaf::WorkerCrashedError);
  EXPECT_EQ(notes(), 0);
}

TEST_F(EarlyTest, SeveralReturnsLargeOnesAndReferencesInside) {
  auto [a, b] = sheaf::task(held_two).remote_split(temp_.file("go"), 5);
  at_workers(1);
  Ref both = sheaf::task(add).remote(a, b);
  EXPECT_EQ(early(), 1u);
  release();
  EXPECT_EQ(sheaf::get(both, 20s), 11);

  forget_running_times();
  auto large = sheaf::task(ramp_after).remote(temp_.file("go large"), 100000);
  at_workers(1);
  auto sum = sheaf::task(total).remote(large);
  EXPECT_EQ(early(), 1u);
  release("go large");
  EXPECT_EQ(sheaf::get(sum, 20s), 99999.0 * 100000 / 2);

  forget_running_times();
  auto refs = sheaf::task(held_refs).remote(temp_.file("go refs"), 10);
  at_workers(1);
  Ref inside = sheaf::task(sum_of_refs).remote(refs);
  EXPECT_EQ(early(), 1u);
  refs = {};   // the task alone holds them now
  release("go refs");
  auto expected = sheaf::task(sum_of_refs).remote(sheaf::task(make_refs).remote(10));
  EXPECT_EQ(sheaf::get(inside, 20s), sheaf::get(expected, 20s));
}

TEST_F(EarlyTest, BlockedWorkerGivesFollowersBack) {
  auto [a, b] = start_two(1, 2);
  Ref parent = sheaf::task(held_by_child).remote(temp_.file("note"), temp_.file("go"), 7);
  Ref follower = plus(parent, 1);
  EXPECT_EQ(early(), 1u);
  release("go a");
  release("go b");
  EXPECT_TRUE(eventually([] { return early() == 0; })) << "its maker waits for a task of its own";
  release();
  EXPECT_EQ(sheaf::get(follower, 20s), 8);
  EXPECT_EQ(notes(), 1);
}

TEST_F(EarlyTest, ArgumentsOfTwoWorkersGoWhereTheLastIsMade) {
  auto [a, b] = start_two(1, 2);
  Ref sum = plus(sheaf::task(add).remote(a, b), 1);
  EXPECT_EQ(early(), 0u);
  release("go b");
  EXPECT_TRUE(eventually([] { return early() == 2; }));
  release("go a");
  EXPECT_EQ(sheaf::get(sum, 20s), 4);
}

// All are sent behind their maker, as they are thought to be short. They are not, and each waits for the other.
TEST_F(EarlyTest, FollowersThatCanRunElsewhereDo) {
  Ref first = start_held(3);
  Ref a = sheaf::task(meet).remote(temp_.file("notes"), 2, first);
  Ref b = sheaf::task(meet).remote(temp_.file("notes"), 2, first);
  EXPECT_EQ(early(), 2u);
  Ref after = plus(a, 1);
  release();
  EXPECT_EQ(sheaf::get(a, 20s), 3);
  EXPECT_EQ(sheaf::get(b, 20s), 3);
  EXPECT_EQ(sheaf::get(after, 20s), 4);
}

// Known to take their time, one may follow at once; the others wait, to be shared out.
TEST_F(EarlyTest, LongFollowersAreNotQueuedBehindOneAnother) {
  Ref first = start_held(3);
  forget_running_times(600);
  std::vector<Ref> followers;
  for (int i = 0; i < 4; ++i) followers.push_back(plus(first, i));
  EXPECT_EQ(early(), 1u);
  release();
  for (int i = 0; i < 4; ++i) EXPECT_EQ(sheaf::get(followers[static_cast<size_t>(i)], 20s), 3 + i);
}

TEST_F(EarlyTest, OtherOptionsAndKindsWait) {
  Ref first = start_held(3);
  Ref spread = sheaf::task(add).spread().remote(first, 1), half = sheaf::task(add).num_cpus(0.5).remote(first, 1);
  auto stream = sheaf::task(held_count).remote(temp_.file("go"), first);
  auto counter = sheaf::actor<Counter>().num_cpus(0).remote(first);
  auto sum = counter.task(&Counter::add).remote(first);
  Ref after_call = sheaf::task(add).remote(sum, 1);
  EXPECT_EQ(early(), 0u);
  release();
  EXPECT_EQ(sheaf::get(spread, 20s), 4);
  EXPECT_EQ(sheaf::get(half, 20s), 4);
  EXPECT_EQ(sheaf::get(after_call, 20s), 7);
  int64_t n = 0;
  while (auto item = stream.next(20s)) EXPECT_EQ(sheaf::get(*item), n++);
  EXPECT_EQ(n, 3);
}

// Answers that come often may lie for a moment, unless some worker has nothing to do, or little.
TEST_F(EarlyTest, CallersRestOnlyWhileAllWorkersHaveWork) {
  auto counter = sheaf::actor<Counter>().num_cpus(0).remote(0);
  sheaf::get(counter.task(&Counter::add).remote(0));
  auto [a, b] = start_two(1, 2);
  forget_running_times(600);
  std::vector<Ref> behind;
  for (int i = 0; i < 2; ++i) behind.push_back(sheaf::task(add).remote(i, i));
  at_workers(4);
  constexpr int kCalls = 100;
  auto rest_after_calls = [&](std::chrono::microseconds each) {
    auto start = sheaf::runtime::Clock::now();
    {
      Locked guard(engine());
      engine().submitter.rest_time(start);
    }
    std::vector<Ref> calls;
    for (int i = 0; i < kCalls; ++i) calls.push_back(counter.task(&Counter::add).remote(1));
    EXPECT_TRUE(eventually([] { return in_flight() <= 4; }));   // the helper thread's work, as we do not wait
    Locked guard(engine());
    return engine().submitter.rest_time(start + kCalls * each).count();
  };
  EXPECT_GT(rest_after_calls(5us), 0);
  EXPECT_EQ(rest_after_calls(500us), 0) << "for answers that come so seldom nobody rests";
  release("go a");
  EXPECT_EQ(sheaf::get(a, 20s), 1);
  EXPECT_TRUE(eventually([] { return in_flight() <= 2; }));
  EXPECT_EQ(rest_after_calls(5us), 0) << "a worker has nothing to do";
  release("go b");
  EXPECT_EQ(sheaf::get(b, 20s), 2);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(sheaf::get(behind[static_cast<size_t>(i)], 20s), 2 * i);
}

// Sums over random earlier tasks while workers are killed: every value is right, and nothing is left queued.
TEST_F(EarlyTest, RandomGraphsSurviveKilledWorkers) {
  uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  auto sum = sheaf::task(add).max_retries(-1);
  auto slow = sheaf::task(slow_square).max_retries(-1);
  int kills = 0;
  auto pick = [&](size_t size, size_t window) { return size - 1 - random() % std::min(size, window); };
  for (int round = 0; round < 200 && kills < 20; ++round) {
    std::vector<Ref> refs{slow.remote(1, 0), slow.remote(2, 1)};
    std::vector<int64_t> values{1, 4};
    while (refs.size() < 56) {   // each at most twice the largest before
      size_t a = pick(refs.size(), 6), b = pick(refs.size(), 12);
      bool fresh = random() % 20 == 0;
      refs.push_back(fresh ? slow.remote(3, 1) : sum.remote(refs[a], refs[b]));
      values.push_back(fresh ? 9 : values[a] + values[b]);
    }
    auto pids = worker_pids();
    if (!pids.empty() && kill(pids[random() % pids.size()], SIGKILL) == 0) ++kills;
    for (size_t i = 0; i < refs.size(); ++i) ASSERT_EQ(sheaf::get(refs[i], 60s), values[i]) << i;
  }
  EXPECT_GE(kills, 20);
  EXPECT_TRUE(eventually([] { return early() == 0 && in_flight() == 0; }));
}

}  // namespace
}  // namespace testlib
