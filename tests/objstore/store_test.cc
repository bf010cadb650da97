// The store as the daemon uses it: space, waiting, spilling, restoring, pins, error texts.
#include "objstore/store.h"

#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "tests/objstore/store_harness.h"

namespace sheaf::objstore::store_test {
namespace {

constexpr uint64_t kMiB = StoreHarness::kMiB;
constexpr ProcessId kA = 5, kB = 6;
ObjectId id(uint64_t n) { return ObjectId::make(kA, n); }

TEST(StoreTest, ObjectsAreReadByOthersAndTheirRoomComesBack) {
  StoreHarness h(16 * kMiB);
  h.join(kA);
  PinTable& pins = h.join(kB);
  ASSERT_TRUE(h.put(kA, id(1), 3 * kMiB));
  ObjectEvent e = h.get(kB, id(1));
  ASSERT_EQ(e.state, ValueState::kArena);
  auto slot = pins.pin(e.locator, id(1));
  ASSERT_TRUE(slot);
  EXPECT_TRUE(h.intact(e.locator, id(1)));
  h.drop(kA, id(1));
  h.turn();
  EXPECT_EQ(h.store->metrics().objects, 0u);
  EXPECT_EQ(h.store->metrics().awaiting_unpin, 1u);
  EXPECT_TRUE(h.intact(e.locator, id(1))) << "a view outlives its reference";
  pins.unpin(*slot);
  h.store->poll(h.now());
  EXPECT_EQ(h.store->metrics().used_bytes, 0u);
  EXPECT_EQ(pins.pin(e.locator, id(1)).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(h.store->next_wakeup(h.now()), std::nullopt);
}

TEST(StoreTest, LargerThanTheArenaIsRefusedAtOnce) {
  StoreHarness h(16 * kMiB);
  h.join(kA);
  for (uint64_t bytes : {16 * kMiB, 17 * kMiB, UINT64_MAX, UINT64_MAX - 63}) {
    auto answer = h.store->alloc_extent(kA, 1, bytes, std::chrono::seconds(10), h.now());
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->status().code(), StatusCode::kOutOfMemory);
  }
  EXPECT_TRUE(h.put(kA, id(1), 16 * kMiB - kHeaderBytes)) << "exactly all of it";
}

TEST(StoreTest, FullStoreSpillsTheOldestAndRestoresOnDemand) {
  StoreHarness h(16 * kMiB);
  h.join(kA);
  PinTable& pins = h.join(kB);
  for (uint64_t n = 1; n <= 12; ++n) ASSERT_TRUE(h.put(kA, id(n), 4 * kMiB)) << n;
  auto m = h.store->metrics();
  EXPECT_GE(m.objects_spilled, 8u);
  EXPECT_GT(m.disk_bytes, 0u);
  for (int round = 0; round < 2; ++round) {
    for (uint64_t n = 1; n <= 12; ++n) {
      ObjectEvent e = h.get(kB, id(n));
      ASSERT_EQ(e.state, ValueState::kArena) << n;
      auto slot = pins.pin(e.locator, id(n));
      ASSERT_TRUE(slot);
      ASSERT_TRUE(h.intact(e.locator, id(n))) << n;
      pins.unpin(*slot);
    }
  }
  for (uint64_t n = 1; n <= 12; ++n) h.drop(kA, id(n));
  ASSERT_TRUE(h.until([&] { return h.store->metrics().used_bytes == 0; }));
  EXPECT_EQ(h.store->metrics().spill_files, 0u);
  EXPECT_TRUE(std::filesystem::is_empty(h.spill_directory()));
  EXPECT_TRUE(h.store->close());
  EXPECT_FALSE(std::filesystem::exists(h.spill_directory()));
}

TEST(StoreTest, FullOfPinnedDataNamesNeedUseAndHolders) {
  StoreHarness h(16 * kMiB);
  PinTable& pins = h.join(kA);
  std::vector<Locator> locators;
  for (uint64_t n = 1; n <= 3; ++n) {
    auto locator = h.put(kA, id(n), 4 * kMiB);
    ASSERT_TRUE(locator);
    ASSERT_TRUE(pins.pin(*locator, id(n)));
    locators.push_back(*locator);
  }
  auto start = h.now();
  auto full = h.put(kA, id(4), 5 * kMiB, 60);
  EXPECT_GE(h.now() - start, std::chrono::milliseconds(60));
  ASSERT_EQ(full.status().code(), StatusCode::kOutOfMemory);
  std::string text(full.status().message());
  EXPECT_NE(text.find("object store is full: need 5.0 MiB, used 12.0 MiB of 16.0 MiB; "
                      "pinned by process 5 (3 objects, 12.0 MiB)"), std::string::npos) << text;
  for (uint64_t n = 1; n <= 3; ++n) EXPECT_TRUE(h.intact(locators[n - 1], id(n)));
}

TEST(StoreTest, ReleasedPinLetsTheWaitingAllocationThrough) {
  StoreHarness h(16 * kMiB);
  PinTable& pins = h.join(kA);
  auto big = h.put(kA, id(1), 12 * kMiB);
  ASSERT_TRUE(big);
  auto slot = pins.pin(*big, id(1));
  ASSERT_FALSE(h.store->alloc_extent(kA, 77, 8 * kMiB, std::chrono::seconds(5), h.now()));
  h.turn();
  EXPECT_TRUE(h.answers.empty());
  pins.unpin(*slot);
  ASSERT_TRUE(h.until([&] { return h.answers.contains(77); }));
  EXPECT_TRUE(h.answers.at(77));
  EXPECT_EQ(h.get(kA, id(1), false).state, ValueState::kSpilled);
}

// New memory costs many times more than memory that was written a moment ago.
TEST(StoreTest, LargeRequestGetsThePlaceOfWhatWasDroppedJustBefore) {
  StoreHarness h(64 * kMiB);
  h.join(kA);
  auto first = h.put(kA, id(1), 12 * kMiB);
  ASSERT_TRUE(first);
  for (uint64_t n = 2; n <= 5; ++n) {
    h.drop(kA, id(n - 1));
    ASSERT_FALSE(h.store->alloc_extent(kA, 70 + n, 12 * kMiB, std::chrono::seconds(5), h.now()));
    while (h.store->quiesce()) {}
    ASSERT_TRUE(h.answers.contains(70 + n)) << "answered in the round that freed it";
    auto place = h.answers.at(70 + n);
    ASSERT_TRUE(place);
    EXPECT_EQ(place->offset, first->offset);
    seal_header(h.base(), *place, id(n));
    ASSERT_TRUE(h.store->seal(kA, id(n), *place, 0, {}).is_ok());
  }
}

TEST(StoreTest, SmallRequestsOvertakeALargeOneThatWaits) {
  StoreHarness h(16 * kMiB, false);
  h.join(kA);
  ASSERT_TRUE(h.put(kA, id(1), 8 * kMiB));
  ASSERT_FALSE(h.store->alloc_extent(kA, 77, 12 * kMiB, std::chrono::milliseconds(80), h.now()));
  EXPECT_TRUE(h.store->alloc_extent(kA, 78, kMiB, std::chrono::seconds(1), h.now()));
  EXPECT_TRUE(h.store->lease_slab(kA, 79, h.now()));
  ASSERT_TRUE(h.until([&] { return h.answers.contains(77); }));
  EXPECT_EQ(h.answers.at(77).status().code(), StatusCode::kOutOfMemory);
  EXPECT_NE(h.answers.at(77).status().message().find("spilling is off"), std::string::npos);
}

TEST(StoreTest, DeadProcessGivesItsUnsealedExtentsBack) {
  StoreHarness h(16 * kMiB, false);
  h.join(kA);
  h.join(kB);
  auto sealed = h.put(kA, id(1), kMiB);
  ASSERT_TRUE(sealed);
  h.store->hold(kA, kB, std::vector{id(1)}, {});
  ASSERT_TRUE(h.store->alloc_extent(kA, 1, 6 * kMiB, std::chrono::seconds(0), h.now()));
  ASSERT_TRUE(h.store->lease_slab(kA, 2, h.now()));
  ASSERT_FALSE(h.store->alloc_extent(kA, 3, 15 * kMiB, std::chrono::seconds(5), h.now()));
  h.store->process_died(kA, false);
  EXPECT_GT(h.store->metrics().used_bytes, 8 * kMiB) << "its threads may still write";
  EXPECT_EQ(h.store->metrics().waiting_allocations, 0u);
  h.store->process_died(kA, true);
  h.turn();
  EXPECT_LT(h.store->metrics().used_bytes, 2 * kMiB);
  EXPECT_TRUE(h.intact(*sealed, id(1)));
  h.store->process_died(kB);
  h.turn();
  EXPECT_EQ(h.store->metrics().used_bytes, 0u);
  EXPECT_TRUE(h.answers.empty());
}

TEST(StoreTest, AbortedExtentIsFree) {
  StoreHarness h(16 * kMiB);
  h.join(kA);
  auto a = h.store->alloc_extent(kA, 1, kMiB, std::chrono::seconds(0), h.now());
  h.store->abort_extent(kB, **a);
  EXPECT_GT(h.store->metrics().used_bytes, 0u);
  h.store->abort_extent(kA, **a);
  h.store->abort_extent(kA, **a);
  EXPECT_EQ(h.store->metrics().used_bytes, 0u);
  EXPECT_EQ(h.store->seal(kA, id(1), **a, 0, {}).code(), StatusCode::kInvalidArgument);
}

TEST(StoreTest, UnknownObjectIsAnsweredWithinTheGrace) {
  StoreHarness h(16 * kMiB, false);
  h.join(kA);
  h.join(kB);
  ObjectEvent e = h.get(kB, id(42));
  EXPECT_EQ(e.state, ValueState::kError);
  EXPECT_EQ(e.bytes, "loss 3");
  h.store->process_died(kA);
  EXPECT_EQ(h.get(kB, id(43)).bytes, "loss 0");
  EXPECT_EQ(h.store->metrics().objects, 0u);
}

TEST(StoreTest, SlabObjectsSpillAndGiveTheirSlabBack) {
  StoreHarness h(16 * kMiB);
  h.join(kA);
  PinTable& pins = h.join(kB);
  SlabWriter writer(h.base(), 1);
  uint64_t count = 0;
  for (int s = 0; s < 6; ++s) {
    auto slab = h.store->lease_slab(kA, 1, h.now());
    ASSERT_TRUE(slab && *slab);
    writer.adopt((*slab)->offset, (*slab)->length, (*slab)->generation);
    while (auto l = writer.reserve(40'000)) {
      ObjectId o = id(++count);
      h.fill(*l, o);
      writer.seal(*l, o);
      ASSERT_TRUE(h.store->seal(kA, o, *l, kA, {}));
    }
  }
  writer.retire();
  ASSERT_TRUE(h.put(kA, id(1000), 12 * kMiB)) << "slabs must make room";
  EXPECT_GT(h.store->metrics().objects_spilled, count / 2);
  h.drop(kA, id(1000));
  for (uint64_t n = 1; n <= count; ++n) {
    ObjectEvent e = h.get(kB, id(n));
    ASSERT_EQ(e.state, ValueState::kArena) << n;
    auto slot = pins.pin(e.locator, id(n));
    ASSERT_TRUE(slot);
    ASSERT_TRUE(h.intact(e.locator, id(n)));
    pins.unpin(*slot);
    h.drop(kA, id(n));
  }
  ASSERT_TRUE(h.until([&] { return h.store->metrics().used_bytes == 0; }));
}

TEST(StoreTest, CorruptSpillFileIsNeverDelivered) {
  StoreHarness h(16 * kMiB);
  h.join(kA);
  ASSERT_TRUE(h.put(kA, id(1), 4 * kMiB));
  ASSERT_TRUE(h.put(kA, id(2), 14 * kMiB));
  ASSERT_EQ(h.get(kA, id(1), false).state, ValueState::kSpilled);
  {
    std::fstream file(h.spill_directory() + "/000001",
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(1234567);
    file.put('!');
    file.put('?');
  }
  ObjectEvent e = h.get(kA, id(1));
  EXPECT_EQ(e.state, ValueState::kError);
  EXPECT_EQ(e.bytes, "loss 2");
  h.drop(kA, id(1));
  h.drop(kA, id(2));
  ASSERT_TRUE(h.until([&] { return h.store->metrics().used_bytes == 0; }));
  EXPECT_EQ(h.store->metrics().spill_files, 0u);
}

TEST(StoreTest, FullDiskEndsInAnErrorThatSaysSo) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to mount a small tmpfs";
  ScratchDir small;
  if (mount("tmpfs", small.path().c_str(), "tmpfs", 0, "size=1m") != 0)
    GTEST_SKIP() << "cannot mount a tmpfs here";
  {
    StoreHarness h(16 * kMiB, true, small.path() + "/spill");
    h.join(kA);
    auto first = h.put(kA, id(1), 12 * kMiB);
    ASSERT_TRUE(first);
    auto full = h.put(kA, id(2), 8 * kMiB, 150);
    ASSERT_EQ(full.status().code(), StatusCode::kOutOfMemory);
    EXPECT_NE(full.status().message().find("No space left on device"), std::string::npos)
        << full.status().to_string();
    EXPECT_TRUE(h.intact(*first, id(1))) << "what could not be spilled stays";
    EXPECT_EQ(h.store->metrics().disk_bytes, 0u);
  }
  EXPECT_TRUE(std::filesystem::is_empty(small.path()));
  umount2(small.path().c_str(), MNT_DETACH);
}

TEST(StoreTest, RestoreThatFindsNoRoomIsAnsweredAndCanBeRepeated) {
  StoreHarness h(16 * kMiB);
  PinTable& pins = h.join(kA);
  ASSERT_TRUE(h.put(kA, id(1), 4 * kMiB));
  auto big = h.put(kA, id(2), 14 * kMiB);
  ASSERT_TRUE(big);
  auto slot = pins.pin(*big, id(2));
  ASSERT_TRUE(slot);
  ObjectEvent e = h.get(kA, id(1));
  EXPECT_EQ(e.state, ValueState::kError);
  EXPECT_EQ(e.bytes, "loss 4");
  pins.unpin(*slot);
  e = h.get(kA, id(1));
  ASSERT_EQ(e.state, ValueState::kArena);
  EXPECT_TRUE(h.intact(e.locator, id(1)));
}

TEST(StoreTest, CloseAnswersWhoStillWaits) {
  StoreHarness h(16 * kMiB, false);
  h.join(kA);
  ASSERT_TRUE(h.put(kA, id(1), 12 * kMiB));
  ASSERT_FALSE(h.store->alloc_extent(kA, 77, 8 * kMiB, std::chrono::seconds(5), h.now()));
  EXPECT_TRUE(h.store->close());
  EXPECT_EQ(h.answers.at(77).status().code(), StatusCode::kCancelled);
}

TEST(StoreTest, RandomPutsGetsAndDropsKeepEveryByte) {
  uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  StoreHarness h(24 * kMiB);
  h.join(kA);
  PinTable& pins = h.join(kB);
  std::vector<uint64_t> live;
  std::vector<size_t> pinned;
  uint64_t last = 0;
  for (int step = 0; step < 300; ++step) {
    if (live.size() < 30 && random() % 2 == 0) {
      auto l = h.put(kA, id(++last), 1 + random() % (2 * kMiB), 2000);
      ASSERT_TRUE(l) << l.status().to_string();
      live.push_back(last);
    } else if (!live.empty()) {
      size_t at = random() % live.size();
      ObjectId o = id(live[at]);
      ObjectEvent e;
      Result<size_t> slot = Status(StatusCode::kNotFound, "not tried");
      for (int attempt = 0; attempt < 10 && !slot;
           ++attempt) {  // it may be evicted before we pin it
        e = h.get(kB, o);
        ASSERT_EQ(e.state, ValueState::kArena) << e.bytes;
        slot = pins.pin(e.locator, o);
      }
      ASSERT_TRUE(slot);
      ASSERT_TRUE(h.intact(e.locator, o));
      pinned.push_back(*slot);
      if (pinned.size() > 4) {
        pins.unpin(pinned.front());
        pinned.erase(pinned.begin());
      }
      if (random() % 3 == 0) {
        h.drop(kA, o);
        live.erase(live.begin() + static_cast<ptrdiff_t>(at));
      }
    }
  }
  EXPECT_GT(h.store->metrics().restored_bytes_total, 0u);
  for (size_t slot : pinned) pins.unpin(slot);
  for (uint64_t n : live) h.drop(kA, id(n));
  ASSERT_TRUE(h.until([&] { return h.store->metrics().used_bytes == 0; }));
  EXPECT_EQ(h.store->metrics().disk_bytes, 0u);
}

}  // namespace
}  // namespace sheaf::objstore::store_test
