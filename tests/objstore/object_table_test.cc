// The object table, rule by rule.
#include "objstore/object_table.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace sheaf::objstore::object_table_test {
namespace {

constexpr ProcessId kA = 5, kB = 6, kC = 7;

class ObjectTableTest : public testing::Test {
 protected:
  ObjectTableTest() {
    for (ProcessId p : {kA, kB, kC}) table.process_joined(p);
  }
  static ObjectId id(uint64_t n) { return ObjectId::make(kA, n); }
  static Locator at(uint64_t offset, uint64_t length = 1000) {
    return {1, 0, MemoryKind::kHost, static_cast<uint32_t>(offset), offset, length};
  }
  // Two full rounds: whatever nobody holds is gone afterwards.
  void settle() {
    while (table.quiesce(out)) {}
  }
  // Takes the actions of one kind out of `out`.
  template <class T>
  std::vector<T> taken() {
    std::vector<T> found;
    Actions rest;
    for (Action& a : out) {
      if (auto* t = std::get_if<T>(&a)) found.push_back(std::move(*t));
      else rest.push_back(std::move(a));
    }
    out = std::move(rest);
    return found;
  }
  void seal(ProcessId sender, uint64_t n, uint64_t offset, ProcessId holder = 0,
            std::vector<ObjectId> inner = {}) {
    table.seal(sender, id(n), at(offset), holder, inner, out);
  }
  void publish(ProcessId sender, uint64_t n, ValueState state, std::string bytes = "",
               std::vector<ObjectId> inner = {}) {
    table.publish(sender, id(n), state, std::move(bytes), inner, out);
  }
  void add(ProcessId p, uint64_t n) { table.hold(p, std::vector{id(n)}, {}, out); }
  void drop(ProcessId p, uint64_t n) { table.hold(p, {}, std::vector{id(n)}, out); }
  void subscribe(ProcessId p, uint64_t n, bool restore = true) {
    table.subscribe(p, std::vector{id(n)}, restore, out);
  }
  // Writes object n to disk and evicts it.
  void spill(uint64_t n, SpillPlace place) {
    Locator where = table.find(id(n))->locator;
    table.on_pressure(
        UINT64_MAX, [&](const ObjectId& o, const Locator&) { return o == id(n); }, false, out);
    ASSERT_EQ(taken<StartSpill>().size(), 1u);
    ASSERT_TRUE(table.spill_written(id(n), where, place, out));
    table.evicted(id(n), out);
    ASSERT_EQ(taken<FreeExtent>().size(), 1u);
  }

  ObjectTable table{[](LossCause cause, const ObjectId&) {
    return "loss " + std::to_string(static_cast<int>(cause));
  }};
  Actions out;
};

TEST_F(ObjectTableTest, HeldObjectStaysAndUnheldObjectGoes) {
  seal(kA, 1, 64, kB);
  settle();
  EXPECT_EQ(table.find(id(1))->state, ValueState::kArena);
  EXPECT_TRUE(out.empty());
  drop(kB, 1);
  EXPECT_TRUE(table.quiesce(out));   // one full round first
  EXPECT_TRUE(out.empty());
  EXPECT_FALSE(table.quiesce(out));
  EXPECT_EQ(taken<FreeExtent>().size(), 1u);
  EXPECT_TRUE(table.entries().empty());
}

TEST_F(ObjectTableTest, HoldThatArrivesWithinTheRoundSavesTheObject) {
  seal(kA, 1, 64);
  drop(kA, 1);
  EXPECT_TRUE(table.quiesce(out));
  add(kB, 1);
  settle();
  EXPECT_TRUE(out.empty());
  EXPECT_EQ(table.find(id(1))->state, ValueState::kArena);
}

TEST_F(ObjectTableTest, DropBeforeTheHoldItCancelsLeavesNothingBehind) {
  drop(kB, 1);  // B got the reference in a reply and dropped it; the seal is still on its way
  settle();
  EXPECT_EQ(table.entries().size(), 1u);
  seal(kA, 1, 64, kB);
  settle();
  EXPECT_EQ(taken<FreeExtent>().size(), 1u);
  EXPECT_TRUE(table.entries().empty());
}

TEST_F(ObjectTableTest, FirstValueWins) {
  seal(kA, 1, 64);
  seal(kB, 1, 128, kA);
  auto freed = taken<FreeExtent>();
  ASSERT_EQ(freed.size(), 1u);
  EXPECT_EQ(freed[0].locator, at(128));
  publish(kC, 1, ValueState::kInline, "late");
  EXPECT_EQ(table.find(id(1))->state, ValueState::kArena);
  drop(kA, 1);
  drop(kA, 1);
  drop(kC, 1);
  settle();
  EXPECT_TRUE(table.entries().empty());
}

TEST_F(ObjectTableTest, SecondPublishHoldsNoMore) {
  publish(kA, 1, ValueState::kPending);
  publish(kA, 1, ValueState::kInline, "v");
  drop(kA, 1);
  settle();
  EXPECT_TRUE(table.entries().empty());
}

TEST_F(ObjectTableTest, SubscribersAreToldOnceWhenTheValueComes) {
  subscribe(kB, 1);                          // not even published
  EXPECT_TRUE(table.is_unknown(id(1)));
  publish(kA, 1, ValueState::kPending);
  EXPECT_FALSE(table.is_unknown(id(1)));
  subscribe(kB, 1);
  subscribe(kC, 1);
  EXPECT_TRUE(out.empty());
  publish(kA, 1, ValueState::kInline, "v");
  auto told = taken<NotifyReady>();
  ASSERT_EQ(told.size(), 2u);
  EXPECT_EQ(told[0].process, kB);
  EXPECT_EQ(told[1].process, kC);
  EXPECT_EQ(told[1].event.bytes, "v");
  subscribe(kB, 1);                          // level-triggered: may be asked again
  EXPECT_EQ(taken<NotifyReady>().size(), 1u);
}

TEST_F(ObjectTableTest, UnknownObjectFailsOnRequestAndIsForgotten) {
  subscribe(kB, 9);
  table.fail_unknown(id(9), LossCause::kUnknown, out);
  auto told = taken<NotifyReady>();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].event.state, ValueState::kError);
  EXPECT_EQ(told[0].event.bytes, "loss 3");
  settle();
  EXPECT_TRUE(table.entries().empty());
  publish(kA, 1, ValueState::kPending);
  table.fail_unknown(id(1), LossCause::kUnknown, out);   // known by now
  EXPECT_TRUE(out.empty());
}

TEST_F(ObjectTableTest, ContainedObjectsLiveAsLongAsTheirContainer) {
  seal(kA, 1, 64);
  seal(kA, 2, 128, kB, {id(1)});
  drop(kA, 1);
  settle();
  EXPECT_NE(table.find(id(1)), nullptr);
  drop(kB, 2);
  settle();
  EXPECT_EQ(taken<FreeExtent>().size(), 2u);
  EXPECT_TRUE(table.entries().empty());
}

TEST_F(ObjectTableTest, ContainerMayArriveBeforeWhatItContains) {
  seal(kB, 2, 128, kC, {id(1)});
  drop(kA, 1);
  seal(kA, 1, 64);
  settle();
  EXPECT_EQ(table.find(id(1))->state, ValueState::kArena);
  drop(kC, 2);
  settle();
  EXPECT_TRUE(table.entries().empty());
}

TEST_F(ObjectTableTest, LongChainOfContainersIsFreed) {
  constexpr uint64_t kLength = 20000;
  publish(kA, 1, ValueState::kInline, "x");
  for (uint64_t n = 2; n <= kLength; ++n) {
    publish(kA, n, ValueState::kInline, "x", {id(n - 1)});
    drop(kA, n - 1);
  }
  settle();
  EXPECT_EQ(table.entries().size(), kLength);
  drop(kA, kLength);
  settle();
  EXPECT_TRUE(table.entries().empty());
}

TEST_F(ObjectTableTest, DeathOfTheHolderFrees) {
  seal(kA, 1, 64, kB);
  add(kC, 2);                  // a hold on something never published
  subscribe(kC, 3);
  table.process_died(kB, out);
  table.process_died(kC, out);
  settle();
  EXPECT_EQ(taken<FreeExtent>().size(), 1u);
  EXPECT_TRUE(table.entries().empty());
  seal(kA, 4, 64, kB);         // a hold on behalf of the dead counts for nothing
  settle();
  EXPECT_TRUE(table.entries().empty());
}

TEST_F(ObjectTableTest, DeathOfThePublisherIsAnErrorOnlyForWhatIsPending) {
  publish(kA, 1, ValueState::kPending);
  publish(kA, 2, ValueState::kInline, "kept");
  add(kB, 1);
  add(kB, 2);
  subscribe(kC, 1);
  table.process_died(kA, out);
  auto told = taken<NotifyReady>();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].event.bytes, "loss 0");
  settle();
  EXPECT_EQ(table.find(id(1))->state, ValueState::kError);
  EXPECT_EQ(table.find(id(2))->bytes, "kept");
  seal(kB, 1, 64, kB);         // too late
  EXPECT_EQ(taken<FreeExtent>().size(), 1u);
}

TEST_F(ObjectTableTest, FreeLeavesAnErrorToItsHolders) {
  seal(kA, 1, 64, kB, {id(2)});
  publish(kA, 3, ValueState::kPending);
  subscribe(kB, 3);
  table.free(std::vector{id(1), id(3), id(99)}, out);
  EXPECT_EQ(taken<FreeExtent>().size(), 1u);
  ASSERT_EQ(taken<NotifyReady>().size(), 1u);
  subscribe(kB, 1);
  EXPECT_EQ(taken<NotifyReady>().at(0).event.bytes, "loss 1");
  settle();
  EXPECT_EQ(table.find(id(2)), nullptr);
}

TEST_F(ObjectTableTest, UnheldPendingObjectWithAWaiterEndsInAnAnswer) {
  publish(kA, 1, ValueState::kPending);
  subscribe(kB, 1);
  drop(kA, 1);
  settle();
  EXPECT_EQ(taken<NotifyReady>().size(), 1u);
  EXPECT_TRUE(table.entries().empty());
}

TEST_F(ObjectTableTest, PressureTakesTheLeastRecentlyUsed) {
  seal(kA, 1, 64);
  seal(kA, 2, 2048);
  seal(kA, 3, 4096);
  subscribe(kB, 1);
  taken<NotifyReady>();
  auto yes = [](const ObjectId&, const Locator&) { return true; };
  EXPECT_EQ(table.on_pressure(1, yes, false, out), 1064u);
  auto chosen = taken<StartSpill>();
  ASSERT_EQ(chosen.size(), 1u);
  EXPECT_EQ(chosen[0].id, id(2));
  EXPECT_EQ(table.on_pressure(UINT64_MAX, yes, false, out), 2 * 1064u) << "2 is under way already";
  table.spill_failed(id(2), at(2048));
  EXPECT_EQ(table.on_pressure(UINT64_MAX, yes, false, out), 1064u);
}

TEST_F(ObjectTableTest, SpilledObjectComesBackForTheFirstWhoAsks) {
  seal(kA, 1, 64);
  SpillPlace place{3, 0, 1000};
  spill(1, place);
  subscribe(kB, 1, false);
  EXPECT_EQ(taken<NotifyReady>().at(0).event.state, ValueState::kSpilled);
  subscribe(kB, 1);
  subscribe(kC, 1);
  ASSERT_EQ(taken<StartRestore>().size(), 1u);
  table.restored(id(1), place, at(512), out);
  EXPECT_EQ(taken<NotifyReady>().size(), 2u);
  EXPECT_EQ(table.find(id(1))->locator, at(512));
  table.on_pressure(1, [](const ObjectId&, const Locator&) { return true; }, false, out);
  EXPECT_EQ(taken<TryEvict>().size(), 1u) << "the copy on disk is still good";
  drop(kA, 1);
  settle();
  EXPECT_EQ(taken<DeleteSpill>().size(), 1u);
  EXPECT_EQ(taken<FreeExtent>().size(), 1u);
}

TEST_F(ObjectTableTest, ObjectAskedForWhileItIsWrittenStays) {
  seal(kA, 1, 64);
  table.on_pressure(1, [](const ObjectId&, const Locator&) { return true; }, false, out);
  subscribe(kB, 1);
  EXPECT_FALSE(table.spill_written(id(1), at(64), {3, 0, 1000}, out));
  EXPECT_TRUE(taken<DeleteSpill>().empty());
  table.on_pressure(1, [](const ObjectId&, const Locator&) { return true; }, false, out);
  EXPECT_EQ(taken<TryEvict>().size(), 1u);
}

TEST_F(ObjectTableTest, FreedWhileSpilledOrRestoredLeavesNothing) {
  seal(kA, 1, 64);
  table.on_pressure(1, [](const ObjectId&, const Locator&) { return true; }, false, out);
  ASSERT_EQ(taken<StartSpill>().size(), 1u);
  drop(kA, 1);
  settle();
  EXPECT_EQ(taken<FreeExtent>().size(), 1u);
  EXPECT_FALSE(table.spill_written(id(1), at(64), {3, 0, 1000}, out));
  EXPECT_EQ(taken<DeleteSpill>().size(), 1u);

  seal(kA, 2, 64);
  spill(2, {4, 0, 1000});
  subscribe(kB, 2);
  drop(kA, 2);
  settle();
  EXPECT_EQ(taken<DeleteSpill>().size(), 1u);
  EXPECT_EQ(taken<NotifyReady>().size(), 1u);
  table.restored(id(2), {4, 0, 1000}, at(900), out);
  EXPECT_EQ(taken<FreeExtent>().at(0).locator, at(900));
  EXPECT_TRUE(table.entries().empty());
}

TEST_F(ObjectTableTest, CorruptSpillIsLostAndMayBeMadeAgain) {
  seal(kA, 1, 64);
  spill(1, {4, 0, 1000});
  subscribe(kB, 1);
  table.restore_failed(id(1), {4, 0, 1000}, LossCause::kStoreFull, out);
  EXPECT_EQ(taken<NotifyReady>().at(0).event.bytes, "loss 4");
  EXPECT_EQ(table.find(id(1))->state, ValueState::kSpilled);
  subscribe(kB, 1);
  table.restore_failed(id(1), {4, 0, 1000}, LossCause::kCorrupt, out);
  auto told = taken<NotifyReady>();
  ASSERT_EQ(told.size(), 2u);
  EXPECT_EQ(told[0].process, kA);   // its maker, who has not asked
  EXPECT_EQ(told[0].event.bytes, "loss 2");
  EXPECT_EQ(told[1].process, kB);
  EXPECT_EQ(told[1].event.state, ValueState::kPending);
  EXPECT_EQ(taken<DeleteSpill>().size(), 1u);
  subscribe(kC, 1);
  told = taken<NotifyReady>();
  ASSERT_EQ(told.size(), 1u);   // the maker is told once a loss
  EXPECT_EQ(told[0].event.state, ValueState::kPending);
  seal(kB, 1, 4096, kA);
  EXPECT_EQ(table.find(id(1))->state, ValueState::kArena);
  EXPECT_EQ(table.find(id(1))->size, 1000u);
  told = taken<NotifyReady>();
  ASSERT_EQ(told.size(), 2u);
  for (const NotifyReady& n : told) EXPECT_EQ(n.event.state, ValueState::kArena);
}

TEST_F(ObjectTableTest, LostObjectFailsWhenItsMakerSaysSoOrDies) {
  for (uint64_t n : {1, 2}) {
    seal(kB, n, 64, kA);
    add(kC, n);
    spill(n, {4, 0, 1000});
    subscribe(kC, n);
    table.restore_failed(id(n), {4, 0, 1000}, LossCause::kCorrupt, out);
  }
  subscribe(kA, 1);   // the maker asks by itself: an answer to it is no answer to others
  auto told = taken<NotifyReady>();
  ASSERT_EQ(told.size(), 5u);
  EXPECT_EQ(told[4].process, kA);
  EXPECT_EQ(told[4].event.bytes, "loss 2");
  publish(kA, 1, ValueState::kError, "cannot");
  told = taken<NotifyReady>();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].process, kC);
  EXPECT_EQ(told[0].event.bytes, "cannot");
  table.process_died(kA, out);
  told = taken<NotifyReady>();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].process, kC);
  EXPECT_EQ(told[0].event.bytes, "loss 2");
  subscribe(kC, 2);
  EXPECT_EQ(taken<NotifyReady>().at(0).event.state, ValueState::kError);
}

}  // namespace
}  // namespace sheaf::objstore::object_table_test
