// The arena's file and mappings: shared between processes, read-only where promised, committed
// before use.
#include "objstore/arena.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>

#include "objstore/memory_limit.h"
#include "tests/objstore/scratch_dir.h"

namespace sheaf::objstore::arena_test {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// The signal that ended a child running `body`, 0 when it returned.
template <class Body>
int signal_of_child(Body body) {
  pid_t pid = fork();
  if (pid == 0) {
    signal(SIGSEGV, SIG_DFL);  // a sanitizer's handler would end the child in another way
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

class ArenaBackingTest : public testing::TestWithParam<ArenaBacking> {};

TEST_P(ArenaBackingTest, BytesWrittenByOneProcessAreReadByAnother) {
  auto arena = Arena::create(16 * kMiB, {.first_backing = GetParam()});
  ASSERT_TRUE(arena) << arena.status().to_string();
  EXPECT_EQ(arena->bytes(), 16 * kMiB);
  ASSERT_TRUE(arena->commit_to(8 * kMiB));
  int fd = dup(arena->fd());
  EXPECT_EQ(signal_of_child([&] {
    auto mine = Arena::map(fd, 16 * kMiB);
    if (!mine) abort();
    std::memset(mine->write_base() + kMiB, 0x5a, 4096);
    if (mine->read_base()[kMiB + 7] != std::byte{0x5a}) abort();
  }), 0);
  close(fd);
  EXPECT_EQ(arena->read_base()[kMiB + 4095], std::byte{0x5a});
  EXPECT_EQ(arena->write_base()[kMiB + 4096], std::byte{0});
}

TEST_P(ArenaBackingTest, ReadMappingRefusesWrites) {
  auto arena = Arena::create(4 * kMiB, {.first_backing = GetParam()});
  ASSERT_TRUE(arena);
  ASSERT_TRUE(arena->commit_to(4 * kMiB));
  int fd = dup(arena->fd());
  EXPECT_EQ(signal_of_child([&] {
    auto mine = Arena::map(fd, 4 * kMiB);
    if (!mine) return;
    const_cast<std::byte*>(mine->read_base())[64] = std::byte{1};
  }), SIGSEGV);
  close(fd);
}

INSTANTIATE_TEST_SUITE_P(Kinds, ArenaBackingTest,
                         testing::Values(ArenaBacking::kHugeTmpfs, ArenaBacking::kMemfdThp,
                                         ArenaBacking::kMemfd),
                         [](const auto& kind) {
                           std::string name(to_string(kind.param));
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(ArenaTest, NoMountRemainsVisible) {
  auto arena = Arena::create(4 * kMiB);
  ASSERT_TRUE(arena);
  std::ifstream mounts("/proc/self/mounts");
  for (std::string line; std::getline(mounts, line);)
    EXPECT_EQ(line.find("huge=always"), std::string::npos) << line;
}

TEST(ArenaTest, OrdinaryUserGetsHugePagesWhereUserNamespacesAreAllowed) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to become somebody else";
  enum { kHuge = 0, kOther = 1, kNone = 2, kNoNamespaces = 3 };
  pid_t pid = fork();
  if (pid == 0) {
    if (setgid(65534) != 0 || setuid(65534) != 0) _exit(kNone);
    prctl(PR_SET_DUMPABLE, 1);  // as after an exec; else /proc/self belongs to root
    pid_t probe = fork();
    if (probe == 0) _exit(unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 ? 0 : 1);
    int allowed = 1;
    waitpid(probe, &allowed, 0);
    auto arena = Arena::create(4 * kMiB);
    if (!arena || !arena->commit_to(2 * kMiB)) _exit(kNone);
    std::memset(arena->write_base(), 1, 4096);
    if (arena->backing() == "huge-tmpfs") _exit(kHuge);
    _exit(allowed == 0 ? kOther : kNoNamespaces);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == kNoNamespaces) GTEST_SKIP() << "this system forbids user namespaces";
  EXPECT_EQ(WEXITSTATUS(status), kHuge);
}

TEST(ArenaTest, IdleArenaCommitsNothing) {
  auto arena = Arena::create(1024 * kMiB);
  ASSERT_TRUE(arena);
  EXPECT_EQ(arena->committed_bytes(), 0u);
  struct stat st;
  ASSERT_EQ(fstat(arena->fd(), &st), 0);
  EXPECT_EQ(st.st_blocks, 0);
}

TEST(ArenaTest, MapRefusesAFileThatIsTooSmall) {
  auto arena = Arena::create(4 * kMiB);
  ASSERT_TRUE(arena);
  auto larger = Arena::map(dup(arena->fd()), 8 * kMiB);
  ASSERT_FALSE(larger);
  EXPECT_EQ(larger.status().code(), StatusCode::kInvalidArgument);
}

TEST(ArenaTest, PrefaultStaysAheadOfTheHighWaterMark) {
  auto arena = Arena::create(
      64 * kMiB, {.initial_prefault_bytes = 4 * kMiB, .prefault_ahead_bytes = 16 * kMiB});
  ASSERT_TRUE(arena);
  auto reaches = [&](uint64_t bytes) {
    for (int i = 0; i < 20000 && arena->prefaulted_bytes() < bytes; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return arena->prefaulted_bytes();
  };
  arena->start_prefault();
  EXPECT_EQ(reaches(4 * kMiB), 4 * kMiB);
  arena->note_high_water(10 * kMiB);
  EXPECT_EQ(reaches(26 * kMiB), 26 * kMiB);
  arena->note_high_water(60 * kMiB);
  EXPECT_EQ(reaches(64 * kMiB), 64 * kMiB);
  arena->stop_prefault();
}

TEST(ArenaTest, FullFileSystemIsOutOfMemoryAndNotABusError) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to mount a small tmpfs";
  ScratchDir dir;
  if (mount("tmpfs", dir.path().c_str(), "tmpfs", 0, "size=4m") != 0)
    GTEST_SKIP() << "cannot mount a tmpfs here";
  int fd = open(dir.path().c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  umount2(dir.path().c_str(), MNT_DETACH);
  ASSERT_GE(fd, 0);
  auto arena =
      Arena::create_on(fd, ArenaBacking::kMemfd, 16 * kMiB, {.commit_step_bytes = 64 * kMiB});
  ASSERT_TRUE(arena);
  EXPECT_TRUE(arena->commit_to(2 * kMiB));  // the whole step fails, the need itself does not
  Status full = arena->commit_to(8 * kMiB);
  EXPECT_EQ(full.code(), StatusCode::kOutOfMemory) << full.to_string();
  arena->note_high_water(8 * kMiB);  // the prefault thread meets the same wall and lives
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_TRUE(arena->commit_to(4 * kMiB));
}

TEST(MemoryLimitTest, TightestAncestorOfEitherCgroupVersionCounts) {
  ScratchDir dir;
  auto put = [&](const std::string& path, const std::string& text) {
    std::string whole = dir.path() + "/" + path;
    for (size_t at = dir.path().size() + 1; (at = whole.find('/', at)) != std::string::npos; ++at) {
      mkdir(whole.substr(0, at).c_str(), 0700);
    }
    std::ofstream(whole) << text;
  };
  MemoryLimitSources sources{dir.path() + "/cgroup", dir.path() + "/fs", dir.path() + "/meminfo"};
  put("meminfo", "MemTotal: 32000000 kB\nMemFree: 1 kB\nMemAvailable: 16000000 kB\n");
  put("cgroup", "4:memory:/job/step\n0::/slice/unit\n");
  EXPECT_EQ(memory_limit_bytes(sources), 16000000ull * 1024);
  put("fs/memory/job/memory.limit_in_bytes", "9000000000\n");
  put("fs/memory/job/step/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(memory_limit_bytes(sources), 9000000000u);
  put("fs/slice/memory.max", "5000000000\n");
  put("fs/slice/unit/memory.max", "max\n");
  EXPECT_EQ(memory_limit_bytes(sources), 5000000000u);
  EXPECT_EQ(default_arena_bytes(sources), 1500000000u / (2 * kMiB) * (2 * kMiB));
  EXPECT_EQ(memory_limit_bytes({"/nonexistent", "/nonexistent", "/nonexistent"}), 1u << 30);
}

}  // namespace
}  // namespace sheaf::objstore::arena_test
