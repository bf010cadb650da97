#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>

#include "core/env.h"
#include "gpu/device.h"

namespace sheaf::gpu {
namespace {

std::unique_ptr<DeviceBackend> make(std::string_view topology) {
  auto backend = make_hostdev(topology);
  EXPECT_TRUE(backend.has_value()) << backend.status().to_string();
  return std::move(backend).value();
}

std::span<const std::byte> bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string read(DeviceBackend& backend, const DeviceMemory& memory, uint64_t at, size_t size) {
  std::string out(size, '?');
  EXPECT_TRUE(
      backend.copy_out(std::as_writable_bytes(std::span(out.data(), out.size())), memory, at));
  return out;
}

TEST(HostDevTest, TopologyStringNamesTheDevices) {
  auto backend = make("2x1GiB@1,1x64KiB");
  ASSERT_EQ(backend->devices().size(), 3u);
  EXPECT_EQ(backend->devices()[1].memory_bytes, 1u << 30);
  EXPECT_EQ(backend->devices()[1].numa_node, 1);
  EXPECT_EQ(backend->devices()[2].numa_node, -1);
  EXPECT_EQ(backend->devices()[2].name, "hostdev2");
  EXPECT_TRUE(make("")->devices().empty());
}

TEST(HostDevTest, MalformedTopologyIsRefused) {
  for (const char* text : {"x", "1", "1x", "1x0", "1xGiB", "1x1GiB@", "1x1GiB@x", "65x4096",
                           "1x99999999GiB", "1x1PiB", "-1x4096", "1x4096@1@2"}) {
    EXPECT_EQ(make_hostdev(text).status().code(), StatusCode::kInvalidArgument) << text;
  }
}

TEST(HostDevTest, BytesComeBackAndTravelBetweenDevices) {
  auto backend = make("2x1MiB");
  DeviceMemory a = *backend->allocate(0, 100), b = *backend->allocate(1, 100);
  ASSERT_TRUE(backend->copy_in(a, 10, bytes("hello")));
  ASSERT_TRUE(backend->copy(b, a));
  EXPECT_EQ(read(*backend, b, 10, 5), "hello");
}

TEST(HostDevTest, CopiesOutsideTheirRangeAreRefused) {
  auto backend = make("1x1MiB");
  DeviceMemory memory = *backend->allocate(0, 8);
  EXPECT_FALSE(backend->copy_in(memory, 4, bytes("12345")));
  EXPECT_FALSE(backend->copy_in(memory, ~uint64_t{0}, bytes("1")));
  EXPECT_FALSE(backend->copy_in({1, 0, 8}, 0, bytes("1")));
  EXPECT_TRUE(backend->copy_in(memory, 8, bytes("")));
  ASSERT_TRUE(backend->free(memory));
  EXPECT_FALSE(backend->free(memory));
  EXPECT_FALSE(backend->copy_in(memory, 0, bytes("1")));
}

TEST(HostDevTest, AnotherMappingOfTheExportSeesTheBytes) {
  auto backend = make("1x64KiB");
  DeviceMemory memory = *backend->allocate(0, 64);
  ASSERT_TRUE(backend->copy_in(memory, 0, bytes("shared")));
  Fd fd = std::move(backend->export_memory(0)).value();
  void* view = ::mmap(nullptr, 65536, PROT_READ, MAP_SHARED, fd.get(), 0);
  ASSERT_NE(view, MAP_FAILED);
  EXPECT_EQ(std::memcmp(static_cast<char*>(view) + memory.offset, "shared", 6), 0);
  ::munmap(view, 65536);
}

TEST(HostDevTest, RandomAllocationsNeverOverlapAndAllComeBack) {
  const uint64_t seed = 11;
  uint64_t state = seed;
  auto backend = make("1x1MiB");
  std::vector<std::pair<DeviceMemory, char>> live;
  for (int round = 0; round < 5000; ++round) {
    if (live.empty() || splitmix64(state) % 2 == 0) {
      auto memory = backend->allocate(0, splitmix64(state) % 40000);
      if (!memory) continue;
      char mark = static_cast<char>(splitmix64(state));
      ASSERT_TRUE(backend->copy_in(*memory, 0, bytes(std::string(memory->bytes, mark))));
      live.emplace_back(*memory, mark);
    } else {
      size_t index = splitmix64(state) % live.size();
      auto [memory, mark] = live[index];
      ASSERT_EQ(read(*backend, memory, 0, memory.bytes), std::string(memory.bytes, mark))
          << "seed " << seed;
      ASSERT_TRUE(backend->free(memory));
      live.erase(live.begin() + static_cast<ptrdiff_t>(index));
    }
  }
  for (auto& [memory, mark] : live) ASSERT_TRUE(backend->free(memory));
  EXPECT_EQ(backend->free_bytes(0), 1u << 20);
  EXPECT_TRUE(backend->allocate(0, 1 << 20).has_value());
  EXPECT_EQ(backend->allocate(0, 1).status().code(), StatusCode::kOutOfMemory);
}

}  // namespace
}  // namespace sheaf::gpu
