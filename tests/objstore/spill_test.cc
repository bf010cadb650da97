// Spill files: content, checksums, full disks, nothing left behind.
#include "objstore/spill.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <random>
#include <thread>

#include "tests/objstore/scratch_dir.h"

namespace sheaf::objstore::spill_test {
namespace {

using Buffer = std::vector<std::byte>;

class SpillTest : public testing::Test {
 protected:
  std::unique_ptr<SpillFiles> open(uint64_t file_bytes = 1 << 20, std::string where = "") {
    auto files = SpillFiles::create({where.empty() ? directory() : where, file_bytes, 2, {}});
    EXPECT_TRUE(files) << files.status().to_string();
    return std::move(*files);
  }
  std::string directory() const { return dir_.path() + "/spill"; }
  static ObjectId id(uint64_t n) { return ObjectId::make(2, n); }
  static Buffer bytes(size_t size, uint32_t seed) {
    std::mt19937 random(seed);
    Buffer b(size);
    for (auto& x : b) x = static_cast<std::byte>(random());
    return b;
  }
  static void settle(SpillFiles& files) {
    for (int i = 0; i < 10000 && files.in_flight() > 0; ++i) {
      if (files.poll() == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    ASSERT_EQ(files.in_flight(), 0u);
  }
  static Result<SpillPlace> write(SpillFiles& files, uint64_t n, const Buffer& data) {
    std::optional<Result<SpillPlace>> got;
    files.write(id(n), data.data(), data.size(),
                [&](Result<SpillPlace> r) { got.emplace(std::move(r)); });
    settle(files);
    return *got;
  }
  static Status read(SpillFiles& files, uint64_t n, const SpillPlace& place, Buffer& into) {
    std::optional<Status> got;
    into.assign(place.length, std::byte{0});
    files.read(id(n), place, into.data(), [&](Status s) { got = std::move(s); });
    settle(files);
    return *got;
  }
  size_t files_in_directory() {
    size_t count = 0;
    for (const auto& e : std::filesystem::directory_iterator(directory())) {
      ++count;
      EXPECT_EQ(e.status().permissions() & std::filesystem::perms::all,
                std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
    }
    return count;
  }

  ScratchDir dir_;
};

TEST_F(SpillTest, BytesComeBackAndFilesGoWithTheirLastObject) {
  auto files = open();
  std::map<uint64_t, std::pair<SpillPlace, Buffer>> live;
  std::vector<Buffer> data;
  for (uint64_t n = 0; n < 40; ++n)
    data.push_back(bytes(n == 7 ? 3 << 20 : n * 4001, static_cast<uint32_t>(n)));
  for (uint64_t n = 0; n < data.size(); ++n) {
    files->write(id(n), data[n].data(), data[n].size(), [&, n](Result<SpillPlace> place) {
      live.emplace(n, std::pair(place.value(), data[n]));
    });
  }
  settle(*files);
  ASSERT_EQ(live.size(), data.size());
  EXPECT_GT(files_in_directory(), 1u);
  EXPECT_LT(files_in_directory(), 10u) << "objects share files";
  for (auto& [n, entry] : live) {
    Buffer back;
    ASSERT_TRUE(read(*files, n, entry.first, back));
    ASSERT_EQ(back, entry.second);
  }
  for (auto& [n, entry] : live) files->remove(entry.first);
  EXPECT_EQ(files_in_directory(), 0u);
  EXPECT_EQ(files->bytes_on_disk(), 0u);
  EXPECT_TRUE(files->close());
  EXPECT_FALSE(std::filesystem::exists(directory()));
}

TEST_F(SpillTest, AnyChangedByteIsCorrupt) {
  auto files = open();
  Buffer data = bytes(5000, 1), back;
  auto place = write(*files, 1, data);
  ASSERT_TRUE(place);
  std::string path = directory() + "/000001";
  std::mt19937 random(3);
  for (int i = 0; i < 60; ++i) {
    uint64_t at = i < 40 ? static_cast<uint64_t>(i) : sizeof(SpillRecord) + random() % data.size();
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    auto flip = [&] {
      file.seekg(static_cast<std::streamoff>(at));
      char c = static_cast<char>(file.get());
      file.seekp(static_cast<std::streamoff>(at));
      file.put(static_cast<char>(c ^ (1 << i % 8)));
      file.flush();
    };
    flip();
    EXPECT_EQ(read(*files, 1, *place, back).code(), StatusCode::kCorrupt) << "byte " << at;
    flip();
  }
  EXPECT_TRUE(read(*files, 1, *place, back));
  EXPECT_EQ(read(*files, 2, *place, back).code(), StatusCode::kCorrupt) << "another object's bytes";
  ASSERT_EQ(truncate(path.c_str(), 4000), 0);
  EXPECT_EQ(read(*files, 1, *place, back).code(), StatusCode::kCorrupt);
}

TEST_F(SpillTest, FullDiskIsOutOfMemoryAndLeavesNothing) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to mount a small tmpfs";
  std::string mounted = dir_.path() + "/small";
  mkdir(mounted.c_str(), 0700);
  if (mount("tmpfs", mounted.c_str(), "tmpfs", 0, "size=2m") != 0)
    GTEST_SKIP() << "cannot mount a tmpfs here";
  {
    auto files = open(8 << 20, mounted + "/spill");
    Buffer small = bytes(100'000, 1), large = bytes(3 << 20, 2), back;
    auto first = write(*files, 1, small);
    ASSERT_TRUE(first);
    auto failed = write(*files, 2, large);
    EXPECT_EQ(failed.status().code(), StatusCode::kOutOfMemory) << failed.status().to_string();
    EXPECT_EQ(files->bytes_on_disk(), small.size());
    auto after = write(*files, 3, bytes(1 << 20, 3));  // what the failed one took is free again
    EXPECT_TRUE(after) << after.status().to_string();
    EXPECT_TRUE(read(*files, 1, *first, back));
    EXPECT_EQ(back, small);
    EXPECT_TRUE(files->close());
  }
  EXPECT_TRUE(std::filesystem::is_empty(mounted));
  umount2(mounted.c_str(), MNT_DETACH);
}

TEST_F(SpillTest, CloseInTheMiddleOfWorkLeavesNothing) {
  Buffer data = bytes(8 << 20, 1);
  for (int round = 0; round < 5; ++round) {
    auto files = open();
    for (uint64_t n = 0; n < 6; ++n) {
      files->write(id(n), data.data(), data.size(),
                   [](const Result<SpillPlace>&) { FAIL() << "after close"; });
    }
    EXPECT_TRUE(files->close());
    EXPECT_FALSE(std::filesystem::exists(directory()));
  }
}

TEST_F(SpillTest, RefusesADirectoryThatIsInUse) {
  auto files = open();
  Buffer data = bytes(10, 1);
  ASSERT_TRUE(write(*files, 1, data));
  auto second = SpillFiles::create({directory(), 1 << 20, 1, {}});
  EXPECT_EQ(second.status().code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(SpillFiles::create({dir_.path() + "/no/such", 1 << 20, 1, {}}).status().code(),
            StatusCode::kNotFound);
}

TEST_F(SpillTest, FileIsKeptWhileItIsRead) {
  auto files = open();
  Buffer data = bytes(1 << 20, 5), back(data.size());
  auto place = write(*files, 1, data);
  ASSERT_TRUE(place);
  Status status(StatusCode::kInternal, "not called");
  files->read(id(1), *place, back.data(), [&](Status s) { status = std::move(s); });
  files->remove(*place);
  settle(*files);
  EXPECT_TRUE(status) << status.to_string();
  EXPECT_EQ(back, data);
  EXPECT_EQ(files_in_directory(), 0u);
}

}  // namespace
}  // namespace sheaf::objstore::spill_test
