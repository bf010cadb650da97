// A writer is killed with -9 at random points while it fills slabs and extents: every object whose
// locator it let out is there and whole, and when nobody holds them any more nothing is left.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <random>

#include "objstore/slab.h"
#include "tests/objstore/store_harness.h"

namespace sheaf::objstore::store_kill_test {
namespace {

constexpr ProcessId kReader = 1000;
constexpr int kSlabs = 4;

struct Told {
  ObjectId id;
  Locator locator;
};

// Runs in the child: writes objects until it is killed or out of slabs. A locator leaves by the
// pipe after its seal.
void write_until_killed(StoreHarness& h, const std::vector<Locator>& slabs, ProcessId self,
                        int pipe_fd, uint32_t seed) {
  std::mt19937 random(seed);
  SlabWriter writer(h.base(), 1);
  uint64_t count = 0;
  for (const Locator& slab : slabs) {
    writer.adopt(slab.offset, slab.length, slab.generation);
    while (auto locator = writer.reserve(200 + random() % 30'000)) {
      ObjectId id = ObjectId::make(kReader, self << 32 | ++count);  // as results of its tasks
      h.fill(*locator, id);
      if (random() % 10 == 0) {
        writer.abandon(*locator);
        continue;
      }
      writer.seal(*locator, id);
      Told told{id, *locator};
      if (write(pipe_fd, &told, sizeof told) != sizeof told) _exit(1);
    }
  }
  for (;;) pause();
}

TEST(StoreKillTest, SlabWriterKilledAnywhereLosesAndLeaksNothing) {
  uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  StoreHarness h(32 * StoreHarness::kMiB, false);
  h.join(kReader);
  size_t recovered = 0, announced = 0;
  for (int round = 0; round < 60; ++round) {
    ProcessId writer = static_cast<ProcessId>(10 + round);
    h.join(writer);
    std::vector<Locator> slabs;
    for (int s = 0; s < kSlabs; ++s) slabs.push_back(**h.store->lease_slab(writer, 1, h.now()));
    auto extent = h.store->alloc_extent(writer, 2, 1 << 20, std::chrono::seconds(0), h.now());
    ASSERT_TRUE(extent && *extent);
    int fds[2];
    ASSERT_EQ(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
      close(fds[0]);
      write_until_killed(h, slabs, writer, fds[1], seed + static_cast<uint32_t>(round));
    }
    close(fds[1]);
    usleep(static_cast<useconds_t>(random() % 6000));
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    std::vector<Told> told;
    for (Told t; read(fds[0], &t, sizeof t) == sizeof t;) told.push_back(t);
    close(fds[0]);

    // Some of its messages reached the daemon, in order; the rest died with it.
    size_t handled = told.empty() ? 0 : random() % (told.size() + 1);
    for (size_t i = 0; i < handled; ++i) {
      ASSERT_TRUE(h.store->seal(writer, told[i].id, told[i].locator, kReader, {}));
    }
    h.store->process_died(writer);
    h.turn();
    announced += handled;
    recovered += told.size() - handled;
    for (const Told& t : told) {
      ASSERT_TRUE(h.intact(t.locator, t.id)) << to_hex(t.id);
      h.events[kReader].clear();
      h.store->subscribe(kReader, std::vector{t.id}, true, h.now());
      ASSERT_EQ(h.events[kReader].size(), 1u);
      ASSERT_EQ(h.events[kReader][0].locator, t.locator);
    }
    // Includes the object, if any, that was sealed but whose locator never left.
    for (const auto& object : h.store->list_objects(10'000)) {
      ASSERT_EQ(object.holders, (std::vector<std::pair<ProcessId, int32_t>>{{kReader, 1}}));
      h.drop(kReader, object.id);
    }
    h.turn();
    ASSERT_EQ(h.store->metrics().objects, 0u);
    ASSERT_EQ(h.store->metrics().used_bytes, 0u);
    ASSERT_EQ(h.store->metrics().slabs, 0u);
  }
  EXPECT_GT(recovered, 0u);
  EXPECT_GT(announced, 0u);
}

TEST(StoreKillTest, PinsOfAKilledReaderAreGone) {
  StoreHarness h(16 * StoreHarness::kMiB, false);
  h.join(10);
  ObjectId id = ObjectId::make(10, 1);
  auto locator = h.put(10, id, 1 << 20);
  ASSERT_TRUE(locator);
  auto* memory = static_cast<PinTableBlock*>(mmap(
      nullptr, pin_table_bytes(64), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(memory, MAP_FAILED);
  h.store->process_joined(11, memory, 64);
  pid_t pid = fork();
  if (pid == 0) {
    PinTable pins(memory, 64, h.arena().read_base(), h.arena().bytes());
    if (!pins.pin(*locator, id)) _exit(1);
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  h.drop(10, id);
  h.turn();
  EXPECT_EQ(h.store->metrics().awaiting_unpin, 1u);
  h.store->process_died(11);
  h.turn();
  EXPECT_EQ(h.store->metrics().used_bytes, 0u);
  munmap(memory, pin_table_bytes(64));
}

}  // namespace
}  // namespace sheaf::objstore::store_kill_test
