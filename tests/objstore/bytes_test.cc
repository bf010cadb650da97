// Copies and checksums, at all sizes and alignments that take different paths.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "objstore/checksum.h"
#include "objstore/copy.h"

namespace sheaf::objstore::bytes_test {
namespace {

TEST(CopyTest, CopiesExactlyTheGivenBytes) {
  std::mt19937 random(7);
  std::vector<unsigned char> source(3 * kStreamingCopyBytes), target(source.size() + 256);
  for (auto& b : source) b = static_cast<unsigned char>(random());
  for (size_t size : {size_t{0}, size_t{1}, size_t{63}, size_t{4097}, kStreamingCopyBytes - 1,
                      kStreamingCopyBytes, kStreamingCopyBytes + 1, 2 * kStreamingCopyBytes + 77}) {
    for (size_t skew : {0, 1, 31, 63}) {
      std::fill(target.begin(), target.end(), 0xee);
      copy_to_arena(target.data() + skew, source.data() + 3, size);
      ASSERT_EQ(std::memcmp(target.data() + skew, source.data() + 3, size), 0)
          << size << " " << skew;
      for (size_t i = 0; i < skew; ++i) ASSERT_EQ(target[i], 0xee);
      for (size_t i = 0; i < 64; ++i) ASSERT_EQ(target[skew + size + i], 0xee);
    }
  }
}

// Each thread of many copies while others do, with more threads than cores.
TEST(CopyTest, LargeCopiesAreSharedByThreads) {
  constexpr size_t kSize = kParallelCopyBytes + 5 * 1024 * 1024 + 77;
  std::mt19937_64 random(9);
  std::vector<uint64_t> source(kSize / 8 + 2);
  for (auto& word : source) word = random();
  auto client = [&](size_t skew) {
    std::vector<unsigned char> target(kSize + 192, 0xee);
    for (size_t size : {kParallelCopyBytes, kParallelCopyBytes + 1, kSize}) {
      copy_to_arena(target.data() + skew, source.data(), size);
      EXPECT_EQ(std::memcmp(target.data() + skew, source.data(), size), 0) << size << " " << skew;
      for (size_t i = 0; i < 64; ++i) EXPECT_EQ(target[skew + size + i], 0xee);
      std::fill(target.begin() + static_cast<ptrdiff_t>(skew), target.end(), 0xee);
    }
  };
  std::vector<std::thread> clients;
  for (size_t skew : {0, 5, 64}) clients.emplace_back(client, skew);
  for (auto& c : clients) c.join();
}

TEST(ChecksumTest, KnownVectors) {
  EXPECT_EQ(crc32c("123456789", 9), 0xe3069283u);
  EXPECT_EQ(internal::crc32c_table("123456789", 9, 0), 0xe3069283u);
  EXPECT_EQ(crc32c("", 0), 0u);
  std::string zeros(32, '\0'), ones(32, '\xff');  // RFC 3720, appendix B.4
  EXPECT_EQ(crc32c(zeros.data(), 32), 0x8a9136aau);
  EXPECT_EQ(crc32c(ones.data(), 32), 0x62a8ab43u);
}

TEST(ChecksumTest, InstructionTableAndPiecesAgree) {
  std::mt19937 random(11);
  std::string bytes(100000, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  for (size_t size : {1, 7, 8, 9, 12287, 12288, 12289, 24576, 99999}) {
    uint32_t whole = crc32c(bytes.data() + 1, size);
    EXPECT_EQ(whole, internal::crc32c_table(bytes.data() + 1, size, 0)) << size;
    size_t cut = random() % size;
    EXPECT_EQ(whole, crc32c(bytes.data() + 1 + cut, size - cut, crc32c(bytes.data() + 1, cut)))
        << size;
  }
}

}  // namespace
}  // namespace sheaf::objstore::bytes_test
