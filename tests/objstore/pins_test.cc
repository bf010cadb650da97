// Pins against eviction, with real processes that race.
#include "objstore/pins.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

namespace sheaf::objstore::pins_test {
namespace {

constexpr uint64_t kArena = 1 << 20;
constexpr uint32_t kSlots = 64;

// Zeroed memory that forked children share.
std::byte* shared(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return p == MAP_FAILED ? nullptr : static_cast<std::byte*>(p);
}

class PinsTest : public testing::Test {
 protected:
  PinsTest()
      : arena_(shared(kArena)), table_memory_(shared(pin_table_bytes(kSlots) * kProcesses)) {}
  ~PinsTest() override {
    munmap(arena_, kArena);
    munmap(table_memory_, pin_table_bytes(kSlots) * kProcesses);
  }
  PinTableBlock* block(int process) {
    return reinterpret_cast<PinTableBlock*>(table_memory_ + process * pin_table_bytes(kSlots));
  }
  Locator place(uint64_t offset, uint64_t length, uint32_t generation) {
    return {1, 0, MemoryKind::kHost, generation, offset, length};
  }

  static constexpr int kProcesses = 3;
  std::byte* arena_;
  std::byte* table_memory_;
};

TEST_F(PinsTest, PinHoldsAndUnpinReleases) {
  PinTable pins(block(0), kSlots, arena_, kArena);
  PinRegistry registry;
  registry.attach(7, block(0), kSlots);
  Locator a = place(4096, 100, 5);
  EXPECT_EQ(pins.pin(a, {1, 1}).status().code(), StatusCode::kNotFound);
  EXPECT_FALSE(registry.is_pinned(4096));
  seal_header(arena_, a, {1, 1});
  auto slot = pins.pin(a, {1, 1});
  ASSERT_TRUE(slot);
  auto again = pins.pin(a, {1, 1});
  ASSERT_TRUE(again);
  EXPECT_EQ(*slot, *again);
  EXPECT_FALSE(registry.try_invalidate(arena_, 4096));
  EXPECT_TRUE(header_matches(arena_, a, {1, 1}));  // valid again
  EXPECT_EQ(registry.pins(), (std::vector<std::pair<uint64_t, ProcessId>>{{4096, 7}}));
  pins.unpin(*slot);
  EXPECT_FALSE(registry.try_invalidate(arena_, 4096));
  pins.unpin(*again);
  EXPECT_TRUE(registry.try_invalidate(arena_, 4096));
  EXPECT_EQ(pins.pin(a, {1, 1}).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(pins.pinned_objects(), 0u);
}

TEST_F(PinsTest, WrongIdGenerationOrPlaceIsRefused) {
  PinTable pins(block(0), kSlots, arena_, kArena);
  Locator a = place(4096, 100, 5);
  seal_header(arena_, a, {1, 1});
  EXPECT_EQ(pins.pin(a, {1, 2}).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(pins.pin(place(4096, 100, 6), {1, 1}).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(pins.pin(place(4096, 101, 5), {1, 1}).status().code(), StatusCode::kNotFound);
  for (uint64_t offset : {uint64_t{1}, kArena, kArena - 64, ~uint64_t{63}}) {
    EXPECT_EQ(pins.pin(place(offset, 100, 5), {1, 1}).status().code(), StatusCode::kInvalidArgument)
        << offset;
  }
  EXPECT_EQ(pins.pin(place(4096, ~uint64_t{0}, 5), {1, 1}).status().code(),
            StatusCode::kInvalidArgument);
}

TEST_F(PinsTest, RandomPinsAgreeWithTheModelAndSlotsRunOutCleanly) {
  uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  PinTable pins(block(0), kSlots, arena_, kArena);
  PinRegistry registry;
  registry.attach(7, block(0), kSlots);
  constexpr int kObjects = 100;
  for (int i = 0; i < kObjects; ++i)
    seal_header(arena_, place(i * 4096, 64, i), {1, static_cast<uint64_t>(i)});
  std::vector<std::vector<size_t>> held(kObjects);
  size_t pinned = 0, refused = 0;
  for (int step = 0; step < 50000; ++step) {
    int i = static_cast<int>(random() % kObjects);
    if (held[i].empty() || random() % 3 != 0) {
      auto slot = pins.pin(place(i * 4096, 64, i), {1, static_cast<uint64_t>(i)});
      if (!slot) {
        ASSERT_EQ(slot.status().code(), StatusCode::kOverloaded);
        ASSERT_EQ(pinned, kSlots);
        ++refused;
        continue;
      }
      pinned += held[i].empty();
      held[i].push_back(*slot);
    } else {
      pins.unpin(held[i].back());
      held[i].pop_back();
      pinned -= held[i].empty();
    }
    if (step % 64 == 0) {
      ASSERT_EQ(pins.pinned_objects(), pinned);
      ASSERT_EQ(registry.is_pinned(i * 4096), !held[i].empty());
    }
    if (step % 5000 ==
        4999) {  // let go of everything, so that the table is both full and empty in turn
      for (auto& slots : held) {
        for (size_t slot : slots) pins.unpin(slot);
        slots.clear();
      }
      pinned = 0;
      ASSERT_TRUE(registry.pins().empty());
    }
  }
  EXPECT_GT(refused, 0u);
}

// Readers pin and check every word of what they read while the daemon evicts and reuses the memory.
// Returns whether a reader saw foreign bytes.
class PinRace : public PinsTest {
 protected:
  static constexpr int kObjects = 4;
  static constexpr size_t kWords = 64;
  static Locator at(int i, uint32_t generation) {
    return {1, 0, MemoryKind::kHost, generation, static_cast<uint64_t>(i) * 4096, kWords * 8};
  }
  void fill(int i, uint32_t generation) {
    auto* words = reinterpret_cast<volatile uint64_t*>(arena_ + at(i, 0).offset + kHeaderBytes);
    for (size_t w = 0; w < kWords; ++w) words[w] = generation;
  }
  // The newest generation of each object, told to readers as a hint that may be stale.
  std::atomic<uint32_t>* hints() {
    return reinterpret_cast<std::atomic<uint32_t>*>(arena_ + kArena - 4096);
  }
  std::atomic<uint32_t>* stop() { return hints() + 100; }

  int reader(int process, bool obey) {
    PinTable pins(block(process), kSlots, arena_, kArena);
    std::mt19937 random(process);
    for (uint64_t reads = 0; stop()->load() == 0; ++reads) {
      int i = static_cast<int>(random() % kObjects);
      uint32_t generation = hints()[i].load();
      auto slot = pins.pin(at(i, generation), {1, static_cast<uint64_t>(i)});
      if (!slot && obey) continue;
      auto* words = reinterpret_cast<volatile uint64_t*>(arena_ + at(i, 0).offset + kHeaderBytes);
      bool wrong = false;
      for (size_t w = 0; w < kWords; ++w) wrong |= words[w] != generation;
      if (slot) pins.unpin(*slot);
      if (wrong) return 1;
    }
    return 0;
  }

  bool race(bool obey, std::chrono::milliseconds duration) {
    std::vector<pid_t> children;
    PinRegistry registry;
    stop()->store(0);
    for (int i = 0; i < kObjects; ++i) {
      fill(i, 1);
      seal_header(arena_, at(i, 1), {1, static_cast<uint64_t>(i)});
      hints()[i].store(1);
    }
    for (int p = 0; p < kProcesses; ++p) {
      registry.attach(10 + p, block(p), kSlots);
      pid_t pid = fork();
      if (pid == 0) _exit(reader(p, obey));
      children.push_back(pid);
    }
    auto end = std::chrono::steady_clock::now() + duration;
    uint32_t generation = 1;
    evicted_ = kept_ = 0;
    while (std::chrono::steady_clock::now() < end) {
      for (int i = 0; i < kObjects; ++i) {
        if (!registry.try_invalidate(arena_, at(i, 0).offset)) {
          ++kept_;
          continue;
        }
        ++evicted_;
        fill(i, 0xdead);
        fill(i, ++generation);
        seal_header(arena_, at(i, generation), {1, static_cast<uint64_t>(i)});
        hints()[i].store(generation);
      }
    }
    stop()->store(1);
    bool wrong = false;
    for (pid_t pid : children) {
      int status = 0;
      waitpid(pid, &status, 0);
      wrong |= status != 0;
    }
    return wrong;
  }
  uint64_t evicted_ = 0, kept_ = 0;
};

TEST_F(PinRace, PinnedBytesNeverChangeUnderTheReader) {
  for (int round = 0; round < 20 && (round == 0 || kept_ == 0); ++round) {
    EXPECT_FALSE(race(true, std::chrono::milliseconds(700)));
    EXPECT_GT(evicted_, 0u);
  }
  EXPECT_GT(kept_, 0u) << "the race never happened";
}

TEST_F(PinRace, ReadersThatIgnoreARefusedPinAreCaught) {
  bool caught = false;  // soon, or a little later where the processes share a core
  for (int round = 0; round < 40 && !caught; ++round) {
    caught = race(false, std::chrono::milliseconds(300));
  }
  EXPECT_TRUE(caught);
}

TEST_F(PinsTest, DeadProcessIsForgottenWithItsTable) {
  Locator a = place(4096, 100, 5);
  seal_header(arena_, a, {1, 1});
  PinRegistry registry;
  registry.attach(7, block(0), kSlots);
  pid_t pid = fork();
  if (pid == 0) {
    PinTable pins(block(0), kSlots, arena_, kArena);
    if (!pins.pin(a, {1, 1})) _exit(1);
    kill(getpid(), SIGKILL);
  }
  waitpid(pid, nullptr, 0);
  EXPECT_TRUE(registry.is_pinned(4096));
  registry.detach(7);
  EXPECT_TRUE(registry.try_invalidate(arena_, 4096));
}

}  // namespace
}  // namespace sheaf::objstore::pins_test
