// Which GPUs and which CPUs go together, against searches that try everything.
#include "scheduler/binder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <random>
#include <set>

#include "topology_fixture.h"

namespace sheaf::scheduler::binder_test {
namespace {

using testing::machine;

constexpr ResourceAmount kOne = kResourceUnit;

TEST(CpuListTest, TextIsAsTheKernelWritesIt) {
  EXPECT_EQ(to_text(CpuList{}), "");
  EXPECT_EQ(to_text(CpuList{0, 1, 2, 5, 7, 8}), "0-2,5,7-8");
}

// ---- GPUs

uint64_t inside(const std::vector<uint32_t>& set, const Distances& d) {
  uint64_t sum = 0;
  for (size_t i = 0; i < set.size(); ++i) {
    for (size_t j = 0; j < i; ++j) sum += d[set[i]][set[j]];
  }
  return sum;
}

uint64_t to_rest(const std::vector<uint32_t>& set, const std::vector<uint32_t>& free,
                 const Distances& d) {
  uint64_t sum = 0;
  for (uint32_t a : set) {
    for (uint32_t b : free) {
      if (std::count(set.begin(), set.end(), b) == 0) sum += d[a][b];
    }
  }
  return sum;
}

std::vector<uint32_t> by_trying_all(const std::vector<uint32_t>& free, size_t count,
                                    const Distances& d) {
  std::vector<uint32_t> best;
  for (uint32_t bits = 0; bits < 1u << free.size(); ++bits) {
    std::vector<uint32_t> set;
    for (size_t i = 0; i < free.size(); ++i) {
      if (bits >> i & 1) set.push_back(free[i]);
    }
    if (set.size() != count) continue;
    const auto rank = [&](const std::vector<uint32_t>& s) {
      return std::tuple(inside(s, d), ~to_rest(s, free, d), s);
    };
    if (best.empty() || rank(set) < rank(best)) best = set;
  }
  return best;
}

TEST(ChooseCloseTest, IsTheBestOfAllSets) {
  const auto seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto below = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
  for (int round = 0; round < 400; ++round) {
    const uint32_t all = 2 + below(9);
    Distances d(all, std::vector<uint32_t>(all));
    for (uint32_t a = 0; a < all; ++a) {
      for (uint32_t b = 0; b < a; ++b) d[a][b] = d[b][a] = 1 + below(round % 2 ? 3 : 40);
    }
    std::vector<uint32_t> free;
    for (uint32_t i = 0; i < all; ++i) {
      if (below(4) > 0) free.push_back(i);
    }
    if (free.empty()) continue;
    const size_t count = 1 + below(static_cast<uint32_t>(free.size()));
    EXPECT_EQ(choose_close(free, count, d), by_trying_all(free, count, d));
  }
}

TEST(ChooseCloseTest, LeavesCloseDevicesTogether) {
  const auto t = machine(2, 4, 1, 4);
  const Distances& d = t->gpu_distance;
  EXPECT_EQ(choose_close({0, 1, 2, 3, 4, 5, 6, 7}, 1, d), (std::vector<uint32_t>{0}));
  EXPECT_EQ(choose_close({1, 2, 3, 4, 5, 6, 7}, 1, d), (std::vector<uint32_t>{1}));
  EXPECT_EQ(choose_close({1, 2, 3, 4, 5, 6, 7}, 2, d), (std::vector<uint32_t>{2, 3}));
  EXPECT_EQ(choose_close({1, 2, 3, 4, 5, 6, 7}, 4, d), (std::vector<uint32_t>{4, 5, 6, 7}));
  EXPECT_EQ(choose_close({3, 4}, 3, d), std::vector<uint32_t>{});
}

TEST(ChooseCloseTest, ManyDevicesStayWithinTheBound) {
  const auto t = machine(8, 1, 1, 8);
  std::vector<uint32_t> free;
  for (uint32_t i = 0; i < 64; ++i) {
    if (i % 8 != 0 || i == 40) free.push_back(i);   // one NUMA node is whole
  }
  EXPECT_EQ(choose_close(free, 8, t->gpu_distance),
            (std::vector<uint32_t>{40, 41, 42, 43, 44, 45, 46, 47}));
  EXPECT_EQ(choose_close(free, 24, {}).size(), 24u);   // nothing is known of them
}

TEST(GpuPoolTest, WholeGpusOfALeaseAreNeighbours) {
  ResourcePool pool({{"GPU", 8 * kOne}});
  pool.set_distances(machine(2, 4, 1, 4));
  auto one = pool.take({{"GPU", kOne}});
  auto four = pool.take({{"GPU", 4 * kOne}});
  EXPECT_EQ(one->devices().at("GPU"), (std::vector<uint32_t>{0}));
  EXPECT_EQ(four->devices().at("GPU"), (std::vector<uint32_t>{4, 5, 6, 7}));
  auto part = pool.take({{"GPU", kOne / 2}});
  EXPECT_EQ(part->devices().at("GPU"), (std::vector<uint32_t>{1}));
  EXPECT_EQ(pool.take({{"GPU", kOne / 2}})->devices().at("GPU"), (std::vector<uint32_t>{1}));
  EXPECT_EQ(pool.take({{"GPU", 2 * kOne}})->devices().at("GPU"), (std::vector<uint32_t>{2, 3}));
  EXPECT_FALSE(pool.can_take({{"GPU", 1}}));
}

// ---- CPUs

TEST(BinderTest, OneNumaNodeBindsNothing) {
  for (BindingMode mode : {BindingMode::kAuto, BindingMode::kNuma, BindingMode::kNone}) {
    Binder binder(machine(1, 8, 2, 2), mode);
    EXPECT_FALSE(binder.active());
    EXPECT_FALSE(binder.why_not().empty());
    EXPECT_TRUE(binder.choose(kOne, {0}).cpus.empty());
  }
  EXPECT_FALSE(Binder().active());
  EXPECT_FALSE(Binder(machine(4, 8), BindingMode::kNone).active());
}

TEST(BinderTest, LeasesSpreadOverNumaNodesByUse) {
  Binder binder(machine(2, 4), BindingMode::kAuto);
  ASSERT_TRUE(binder.active() && binder.why_not().empty());
  std::vector<Binding> held;
  for (uint32_t expected : {0u, 1u, 0u, 1u}) {
    held.push_back(binder.choose(kOne, {}));
    EXPECT_EQ(held.back().numa, std::vector<uint32_t>{expected});
    EXPECT_EQ(held.back().cpus.size(), 4u);
    binder.take(held.back());
  }
  binder.give_back(held[1]);
  EXPECT_EQ(binder.choose(kOne, {}).numa, std::vector<uint32_t>{1});
  EXPECT_TRUE(binder.choose(kOne / 2, {}).cpus.empty());   // a share of a CPU roams
  EXPECT_TRUE(binder.choose(0, {}).cpus.empty());
  EXPECT_EQ(binder.choose(4 * kOne, {}).numa.size(), 1u);
  EXPECT_TRUE(binder.choose(5 * kOne, {}).cpus.empty());   // that is both nodes
  EXPECT_TRUE(binder.choose(500 * kOne, {}).cpus.empty());
  for (size_t i : {0u, 2u, 3u}) binder.give_back(held[i]);
  EXPECT_TRUE(binder.unused());
}

// On a small machine a worker must be able to leave the CPU on which its driver spins.
TEST(BinderTest, FewCpusAreNoPlaceUnlessAskedFor) {
  Binder small(machine(2, 2), BindingMode::kAuto);
  EXPECT_FALSE(small.active());
  EXPECT_FALSE(small.why_not().empty());
  EXPECT_EQ(Binder(machine(2, 2), BindingMode::kNuma).choose(kOne, {}).cpus, (CpuList{0, 1}));
  Binder many(machine(4, 2, 1, 1), BindingMode::kAuto);
  EXPECT_TRUE(many.choose(kOne, {}).cpus.empty());
  EXPECT_TRUE(many.choose(kOne, {1}).cpus.empty());
  EXPECT_EQ(many.choose(3 * kOne, {}).cpus, (CpuList{0, 1, 2, 3}));
  Binder own(machine(2, 2), BindingMode::kCore);
  EXPECT_EQ(own.choose(kOne, {}).cpus, CpuList{0});
  EXPECT_TRUE(own.choose(kOne + 1, {}).cpus.empty());
}

TEST(BinderTest, FractionsAreBoundOnRequest) {
  Binder binder(machine(2, 4), BindingMode::kNuma);
  EXPECT_EQ(binder.choose(kOne / 2, {}).cpus.size(), 4u);
  EXPECT_TRUE(binder.choose(0, {}).cpus.empty());
}

TEST(BinderTest, WideLeasesTakeNeighbouringNodes) {
  Binder binder(machine(8, 2), BindingMode::kAuto);
  Binding first = binder.choose(3 * kOne, {});
  EXPECT_EQ(first.numa, (std::vector<uint32_t>{0, 1}));
  binder.take(first);
  EXPECT_EQ(binder.choose(3 * kOne, {}).numa, (std::vector<uint32_t>{2, 3}));
  EXPECT_EQ(binder.choose(6 * kOne, {}).numa.size(), 3u);
}

TEST(BinderTest, CpusAreBesideTheGpus) {
  Binder binder(machine(4, 4, 1, 2), BindingMode::kAuto);
  Binding one = binder.choose(kOne, {5});
  EXPECT_EQ(one.numa, std::vector<uint32_t>{2});
  EXPECT_EQ(one.cpus, (CpuList{8, 9, 10, 11}));
  EXPECT_EQ(one.nics, std::vector<uint32_t>{2});
  EXPECT_EQ(binder.choose(0, {5}).cpus, one.cpus);
  EXPECT_EQ(binder.choose(kOne, {1, 7}).numa, (std::vector<uint32_t>{0, 3}));
  EXPECT_EQ(binder.choose(8 * kOne, {2}).numa, (std::vector<uint32_t>{0, 1}));
  // Of a GPU whose place is not known, only the CPUs count.
  EXPECT_EQ(binder.choose(kOne, {99}).numa, std::vector<uint32_t>{0});
  EXPECT_TRUE(binder.choose(0, {99}).cpus.empty());
}

TEST(BinderTest, CoresAreExclusive) {
  Binder binder(machine(1, 4, 2), BindingMode::kCore);
  Binding three = binder.choose(3 * kOne, {});
  EXPECT_EQ(three.cpus, (CpuList{0, 1, 2}));
  binder.take(three);
  Binding one = binder.choose(kOne, {});
  EXPECT_EQ(one.cpus, CpuList{3});             // the rest of a core before a whole one
  binder.take(one);
  Binding four = binder.choose(4 * kOne, {});
  EXPECT_EQ(four.cpus, (CpuList{4, 5, 6, 7}));
  binder.take(four);
  EXPECT_TRUE(binder.choose(kOne, {}).cpus.empty());   // none is left: all of the one NUMA node
  EXPECT_TRUE(binder.choose(kOne / 2, {}).cpus.empty());
  binder.give_back(three);
  EXPECT_EQ(binder.choose(2 * kOne, {}).cpus, (CpuList{0, 1}));
}

TEST(BinderTest, CoresFillUpTheFullestNodeThatHasRoom) {
  Binder binder(machine(2, 4, 1, 2), BindingMode::kCore);
  Binding gpu = binder.choose(2 * kOne, {3});
  EXPECT_EQ(gpu.cpus, (CpuList{4, 5}));
  binder.take(gpu);
  EXPECT_EQ(binder.choose(2 * kOne, {}).cpus, (CpuList{6, 7}));
  EXPECT_EQ(binder.choose(3 * kOne, {}).cpus, (CpuList{0, 1, 2}));
  EXPECT_EQ(binder.choose(4 * kOne, {2}).cpus, (CpuList{0, 1, 6, 7}));
  EXPECT_EQ(binder.choose(6 * kOne, {}).cpus.size(), 6u);
}

struct Held {
  Binding binding;
  ResourceAmount cpus;
};

// What must hold of a choice, found by looking at every CPU and every set of nodes.
void check_choice(const Binder& binder, const Topology& t, const Binding& chosen,
                  ResourceAmount cpus, const std::vector<uint32_t>& gpus,
                  const std::vector<Held>& held) {
  const size_t need = static_cast<size_t>((cpus + kOne - 1) / kOne);
  std::set<uint32_t> taken, beside;
  for (const Held& h : held) {
    if (h.binding.exclusive) taken.insert(h.binding.cpus.begin(), h.binding.cpus.end());
  }
  for (uint32_t gpu : gpus) beside.insert(t.gpus[gpu].numa.begin(), t.gpus[gpu].numa.end());
  const bool whole = cpus >= kOne && cpus % kOne == 0;
  const bool exclusive = binder.mode() == BindingMode::kCore && whole;
  const auto room = [&](uint32_t bits) {
    size_t sum = 0;
    for (uint32_t n = 0; n < t.numa.size(); ++n) {
      if (!(bits >> n & 1)) continue;
      for (uint32_t cpu : t.numa[n].cpus) sum += !exclusive || !taken.contains(cpu);
    }
    return sum;
  };
  const uint32_t all = (1u << t.numa.size()) - 1;
  if (exclusive && room(all) >= need) {
    ASSERT_TRUE(chosen.exclusive);
    ASSERT_EQ(chosen.cpus.size(), need);
    for (uint32_t cpu : chosen.cpus) EXPECT_FALSE(taken.contains(cpu)) << "two leases on one CPU";
  }
  if (chosen.cpus.empty()) return;
  EXPECT_GE(chosen.cpus.size(), need);
  uint32_t at = 0;
  for (uint32_t n : chosen.numa) at |= 1u << n;
  // As few nodes as can be; with GPUs, those beside them are in it or had no CPU to give.
  if (gpus.empty() && exclusive == chosen.exclusive) {
    int least = 99;
    for (uint32_t bits = 1; bits <= all; ++bits) {
      if (room(bits) >= need) least = std::min(least, std::popcount(bits));
    }
    // Where threads are taken, the closest nodes may be more than the fewest.
    const bool fewest = !exclusive || least == 1;
    EXPECT_TRUE(!fewest || std::popcount(at) == least);
  }
  if (!chosen.exclusive) {
    for (uint32_t n : beside) EXPECT_TRUE(at >> n & 1);
  }
  ResourceAmount weight = 0;
  for (const auto& [node, amount] : chosen.weight) weight += amount;
  EXPECT_EQ(weight, cpus);
}

TEST(BinderTest, RandomLeasesKeepTheRules) {
  const auto seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto below = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
  for (int round = 0; round < 60; ++round) {
    const uint32_t nodes = 1 + below(8);
    const auto t = machine(nodes, 1 + below(4), 1 + below(2), 2 * below(2));
    const auto mode = static_cast<BindingMode>(std::array{0, 2, 3, 3}[below(4)]);
    Binder binder(t, mode);
    std::vector<Held> held;
    ResourceAmount free = static_cast<ResourceAmount>(t->cpu_count()) * kOne;
    for (int step = 0; step < 120; ++step) {
      if (!held.empty() && below(2) == 0) {
        const uint32_t i = below(static_cast<uint32_t>(held.size()));
        binder.give_back(held[i].binding);
        free += held[i].cpus;
        held.erase(held.begin() + i);
        continue;
      }
      const ResourceAmount cpus = below(4) ? (1 + below(6)) * kOne : below(30000);
      if (cpus > free) continue;
      std::vector<uint32_t> gpus;
      if (!t->gpus.empty() && below(3) == 0) {
        gpus.push_back(below(static_cast<uint32_t>(t->gpus.size())));
      }
      Binding chosen = binder.choose(cpus, gpus);
      if (binder.active()) {
        check_choice(binder, *t, chosen, cpus, gpus, held);
      } else {
        EXPECT_TRUE(chosen.cpus.empty());
      }
      if (::testing::Test::HasFailure()) return;
      binder.take(chosen);
      free -= cpus;
      held.push_back({std::move(chosen), cpus});
    }
    for (const Held& h : held) binder.give_back(h.binding);
    EXPECT_TRUE(binder.unused());
  }
}

}  // namespace
}  // namespace sheaf::scheduler::binder_test
