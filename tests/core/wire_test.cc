#include "core/wire.h"

#include <gtest/gtest.h>

#include "core/env.h"

namespace sheaf::wire {
namespace {

enum class Colour : uint8_t { kRed = 1, kBlue = 2 };

struct Inner {
  uint16_t small = 0;
  std::optional<std::string> maybe;
  template <class A>
  void fields(A& a) {
    a(small, maybe);
  }
  bool operator==(const Inner&) const = default;
};

struct Outer {
  bool flag = false;
  Colour colour = Colour::kRed;
  int64_t number = 0;
  double real = 0;
  std::string text;
  std::vector<Inner> list;
  std::map<std::string, uint32_t> map;
  std::pair<std::string, uint8_t> pair;
  ObjectId id;
  template <class A>
  void fields(A& a) {
    a(flag, colour, number, real, text, list, map, pair, id);
  }
  bool operator==(const Outer&) const = default;
};

struct Empty {
  template <class A>
  void fields(A& a) {
    a();
  }
};

std::string to_hex_bytes(const std::string& bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (unsigned char c : bytes) {
    out += kDigits[c >> 4];
    out += kDigits[c & 15];
  }
  return out;
}

Outer sample() {
  Outer o;
  o.flag = true;
  o.colour = Colour::kBlue;
  o.number = -2;
  o.real = 1.5;
  o.text = "abc";
  o.list = {{7, std::nullopt}, {8, "x"}};
  o.map = {{"k", 9}};
  o.pair = {"p", 3};
  o.id = ObjectId::make(make_process(1, 2, 3), 4);
  return o;
}

// These bytes are the format. If this test fails, every peer of another version has been cut off.
TEST(WireTest, GoldenVector) {
  EXPECT_EQ(to_hex_bytes(encode(sample())),
            "01"                // flag
            "02"                // colour
            "feffffffffffffff"  // number
            "000000000000f83f"  // real
            "03000000616263"    // text
            "02000000"
            "070000"
            "0800010100000078"  // list
            "01000000"
            "010000006b"
            "09000000"  // map
            "0100000070"
            "03"  // pair
            "0300000002000100"
            "0400000000000000");  // id: hi, lo
}

TEST(WireTest, RoundTrip) {
  auto back = decode<Outer>(encode(sample()));
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(*back, sample());
  EXPECT_EQ(encode(Empty{}), "");
  EXPECT_TRUE(decode<Empty>(std::string_view("")).has_value());
}

TEST(WireTest, EveryTruncationIsRefused) {
  std::string bytes = encode(sample());
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(decode<Outer>(std::string_view(bytes).substr(0, size)).status().code(),
              StatusCode::kCorrupt)
        << size;
  }
}

TEST(WireTest, TrailingBytesOfANewerPeerAreAllowed) {
  auto back = decode<Outer>(encode(sample()) + "more");
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(*back, sample());
}

TEST(WireTest, HugeCountsAllocateNothing) {
  std::string bytes = "\xff\xff\xff\xff";
  EXPECT_FALSE(decode<std::vector<uint8_t>>(bytes).has_value());
  EXPECT_FALSE((decode<std::map<std::string, std::string>>(bytes).has_value()));
  EXPECT_FALSE(decode<std::string>(bytes).has_value());
  EXPECT_FALSE(decode<std::vector<Inner>>(bytes + std::string(100, '\0')).has_value());
}

TEST(WireTest, ReaderStaysAtItsFirstError) {
  Reader r(std::string_view("\x05\0\0\0ab", 6));
  std::string text;
  uint8_t byte = 7;
  r(text, byte);
  EXPECT_FALSE(r.ok());
  EXPECT_EQ(byte, 0);
  EXPECT_TRUE(r.take(0).empty());
}

TEST(WireTest, MutatedInputNeverReadsOutside) {
  uint64_t state = 1;
  const std::string original = encode(sample());
  for (int round = 0; round < 50000; ++round) {
    std::string bytes = original;
    for (uint64_t n = 1 + splitmix64(state) % 6; n > 0; --n) {
      bytes[splitmix64(state) % bytes.size()] = static_cast<char>(splitmix64(state));
    }
    bytes.resize(splitmix64(state) % (bytes.size() + 1));
    bytes.shrink_to_fit();  // the sanitizer sees a read past the end
    auto back = decode<Outer>(bytes);
    if (back) {
      ASSERT_LE(encode(*back).size(), bytes.size() + 16) << "seed 1 round " << round;
    }
  }
}

}  // namespace
}  // namespace sheaf::wire
