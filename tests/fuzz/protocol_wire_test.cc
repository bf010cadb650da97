// Every struct of the protocol headers: the bytes it has always had, random round trips, mutated
// input.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "wire_archives.h"

namespace sheaf::fuzz {
namespace {

constexpr const char* kGoldenPath = SHEAF_SOURCE_DIR "/tests/fuzz/golden_protocol.txt";

std::string hex(const std::string& bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (unsigned char c : bytes) {
    out += kDigits[c >> 4];
    out += kDigits[c & 15];
  }
  return out;
}

// One line a struct: its name, and the bytes of the instance that seed 2026 fills in with at most
// two elements each.
std::string golden_text() {
  std::ostringstream out;
  for_each_wire_struct([&]<class T>(const char* name) {
    out << name << ' ' << hex(wire::encode(make_filled<T>(2026, 2))) << '\n';
  });
  return out.str();
}

TEST(ProtocolWireTest, BytesAreThoseOfTheGoldenFile) {
  if (std::getenv("SHEAF_TEST_UPDATE_GOLDEN") != nullptr)
    std::ofstream(kGoldenPath) << golden_text();
  std::ifstream in(kGoldenPath);
  std::stringstream golden;
  golden << in.rdbuf();
  std::istringstream have(golden_text());
  std::string want_line, have_line;
  while (std::getline(have, have_line)) {
    ASSERT_TRUE(std::getline(golden, want_line)) << "new struct: " << have_line;
    EXPECT_EQ(have_line, want_line) << "The protocol has changed. If that is meant: raise kVersion "
                                       "when old peers cannot read it, then run this "
                                       "test once with SHEAF_TEST_UPDATE_GOLDEN=1.";
  }
  EXPECT_FALSE(std::getline(golden, want_line)) << "struct is gone: " << want_line;
}

TEST(ProtocolWireTest, RandomValuesRoundTrip) {
  for_each_wire_struct([&]<class T>(const char* name) {
    for (uint64_t seed = 1; seed <= 200; ++seed) {
      std::string bytes = wire::encode(make_filled<T>(seed, 5));
      Result<T> back = wire::decode<T>(bytes);
      ASSERT_TRUE(back.has_value()) << name << " seed " << seed;
      ASSERT_EQ(wire::encode(*back), bytes) << name << " seed " << seed;
    }
  });
}

TEST(ProtocolWireTest, EveryTruncationIsRefused) {
  for_each_wire_struct([&]<class T>(const char* name) {
    std::string bytes = wire::encode(make_filled<T>(3, 2));
    for (size_t size = 0; size < bytes.size(); ++size) {
      std::string cut = bytes.substr(0, size);
      cut.shrink_to_fit();
      ASSERT_FALSE(wire::decode<T>(cut).has_value()) << name << " cut to " << size;
    }
  });
}

TEST(ProtocolWireTest, MutatedInputEndsInAValueOrAnError) {
  uint64_t state = 99;
  for_each_wire_struct([&]<class T>(const char* name) {
    const std::string original = wire::encode(make_filled<T>(7, 3));
    if (original.empty()) return;
    for (int round = 0; round < 1000; ++round) {
      std::string bytes = original;
      for (uint64_t n = 1 + splitmix64(state) % 8; n > 0; --n) {
        uint64_t value = splitmix64(state) % 4 == 0 ? 0xff : splitmix64(state);
        bytes[splitmix64(state) % bytes.size()] = static_cast<char>(value);
      }
      bytes.resize(splitmix64(state) % (bytes.size() + 1));
      bytes.shrink_to_fit();
      Result<T> value = wire::decode<T>(bytes);
      // What was understood can be said again and understood the same way.
      if (value) {
        std::string again = wire::encode(*value);
        Result<T> back = wire::decode<T>(again);
        ASSERT_TRUE(back.has_value()) << name << " round " << round << " seed 99";
        ASSERT_EQ(wire::encode(*back), again) << name << " round " << round << " seed 99";
      }
    }
  });
}

}  // namespace
}  // namespace sheaf::fuzz
