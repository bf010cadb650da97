// Every type of runtime/api/codec.h through its bytes and back, also at random; what is malformed ends in an error.
#include "runtime/api/codec.h"

#include <gtest/gtest.h>

#include <random>

#include "runtime/api/registry.h"
#include "runtime/api/sha256.h"

namespace sheaf {
namespace {

using internal::CountSink;
using internal::Decoder;
using internal::DecodeSource;
using internal::Encoder;
using internal::MemorySink;
using runtime::ValueTag;

template <class T>
std::string encode(const T& value, bool plain = false) {
  Encoder<CountSink> counter(CountSink(), plain);
  internal::write(counter, value);
  std::string out(counter.sink().position(), '\0');
  std::vector<runtime::Slot> refs;
  Encoder<MemorySink> writer(MemorySink(reinterpret_cast<std::byte*>(out.data()), 0, out.size(), &refs), plain);
  internal::write(writer, value);
  EXPECT_EQ(writer.sink().position(), out.size());
  return out;
}

template <class T>
T decode(const std::string& bytes, std::string* error = nullptr) {
  DecodeSource source;
  Decoder d(wire::as_bytes(bytes), source);
  T out{};
  internal::read(d, out);
  if (error) *error = d.error();
  else EXPECT_TRUE(d.ok()) << d.error();
  if (d.ok()) {
    EXPECT_EQ(d.remaining(), 0u);
  }
  return out;
}

template <class T>
void round_trip(const T& value) {
  EXPECT_EQ(decode<T>(encode(value)), value);
  EXPECT_EQ(decode<T>(encode(value, true)), value);
}

struct Point {
  double x = 0, y = 0;
  std::vector<std::string> tags;
  template <class A>
  void fields(A& a) {
    a(x, y);
    a(tags);
  }
  bool operator==(const Point&) const = default;
};
enum class Colour : uint8_t { kRed = 1, kBlue = 200 };

TEST(CodecTest, ScalarsRoundTrip) {
  round_trip(true);
  round_trip(false);
  for (int64_t v : {INT64_MIN, int64_t{-129}, int64_t{-128}, int64_t{-1}, int64_t{0}, int64_t{127}, int64_t{128}, INT64_MAX}) {
    round_trip(v);
  }
  round_trip(UINT64_MAX);
  round_trip(uint64_t{1} << 63);
  round_trip(int8_t{-128});
  round_trip('a');
  round_trip(1.5f);
  round_trip(-0.0);
  round_trip(Colour::kBlue);
  round_trip(std::monostate{});
  EXPECT_EQ(encode(5).size(), 2u);
}

TEST(CodecTest, ContainersRoundTrip) {
  round_trip(std::string("text with \0 inside", 18));
  round_trip(std::string("\xff\xfe not UTF-8"));
  round_trip(std::vector<std::byte>{std::byte{0}, std::byte{255}});
  round_trip(std::vector<uint8_t>{0, 1, 255});
  round_trip(std::vector<bool>{true, false, true});
  round_trip(std::vector<double>{});
  round_trip(std::vector<float>{1.5f, -2.5f});
  round_trip(std::vector<std::vector<int>>{{1, 2}, {}, {3}});
  round_trip(std::array<int16_t, 3>{1, 2, 3});
  round_trip(std::deque<std::string>{"a", "b"});
  round_trip(std::set<int>{3, 1});
  round_trip(std::unordered_set<std::string>{"x", "y"});
  round_trip(std::map<std::string, std::vector<int>>{{"a", {1}}, {"b", {}}});
  round_trip(std::unordered_map<int, double>{{1, 0.5}, {2, 0.25}});
  round_trip(std::pair<int, std::string>{1, "one"});
  round_trip(std::tuple<>{});
  round_trip(std::tuple<int, bool, std::optional<int>>{1, true, std::nullopt});
  round_trip(std::optional<std::string>{"some"});
  round_trip(Point{1, -2, {"a", "b"}});
  round_trip(std::vector<Point>{{1, 2, {}}, {3, 4, {"t"}}});
}

TEST(CodecTest, StructIsATuple) {
  Point p{1.5, 2.5, {"a"}};
  auto t = decode<std::tuple<double, double, std::vector<std::string>>>(encode(p));
  EXPECT_EQ(t, std::make_tuple(1.5, 2.5, std::vector<std::string>{"a"}));
}

TEST(CodecTest, NumbersAreReadAsOtherNumbers) {
  EXPECT_EQ(decode<double>(encode(3)), 3.0);
  EXPECT_EQ(decode<int8_t>(encode(int64_t{-128})), -128);
  EXPECT_EQ(decode<int>(encode(true)), 1);
  EXPECT_EQ(decode<std::vector<double>>(encode(std::vector<int>{1, 2})), (std::vector<double>{1, 2}));
  EXPECT_EQ(decode<std::vector<int64_t>>(encode(std::vector<uint16_t>{1, 65535})), (std::vector<int64_t>{1, 65535}));
  EXPECT_EQ(decode<std::vector<int>>(encode(std::make_tuple(1, 2))), (std::vector<int>{1, 2}));
}

template <class T>
std::string error_of(const std::string& bytes) {
  std::string error;
  decode<T>(bytes, &error);
  return error;
}

TEST(CodecTest, WrongTypesSayWhatWasExpected) {
  EXPECT_EQ(error_of<int>(encode(std::string("x"))), "expected an integer, found a str");
  EXPECT_EQ(error_of<int>(encode(1.5)), "expected an integer, found a float");
  EXPECT_EQ(error_of<std::string>(encode(1)), "expected a str, found an integer");
  EXPECT_EQ(error_of<int8_t>(encode(128)), "the integer 128 does not fit into 8 bits");
  EXPECT_EQ(error_of<uint32_t>(encode(-1)), "the integer -1 does not fit into 32 bits without a sign");
  EXPECT_EQ(error_of<int64_t>(encode(UINT64_MAX)), "the integer 18446744073709551615 does not fit into 64 bits");
  EXPECT_EQ(error_of<std::vector<int8_t>>(encode(std::vector<int>{1, 1000})), "the integer 1000 does not fit into 8 bits");
  EXPECT_EQ(error_of<std::vector<int>>(encode(std::vector<double>{1})), "expected integers, found an array of floats");
  EXPECT_EQ((error_of<std::pair<int, int>>(encode(std::make_tuple(1, 2, 3)))), "expected a tuple of 2, found one of 3");
  EXPECT_EQ((error_of<std::map<int, int>>(encode(std::vector<int>{1}))), "expected a dict, found an array of numbers");
  EXPECT_EQ((error_of<std::array<int, 2>>(encode(std::vector<int>{1}))), "expected 2 elements, found 1");
  EXPECT_EQ(error_of<ObjectRef<int>>(encode(1)), "expected a reference, found an integer");
}

TEST(CodecTest, PlainDataHasNoTagsOfOurOwn) {
  EXPECT_EQ(encode(std::vector<int>{1}, true)[0], static_cast<char>(ValueTag::kList));
  EXPECT_EQ(encode(std::vector<int>{1})[0], static_cast<char>(ValueTag::kNumbers));
  EXPECT_EQ(encode(std::vector<uint8_t>{1}, true)[0], static_cast<char>(ValueTag::kBytes));
  EXPECT_EQ(encode(std::string("\xff"), true)[0], static_cast<char>(ValueTag::kBytes));
  EXPECT_EQ(encode(std::string("\xff"))[0], static_cast<char>(ValueTag::kStr));
}

TEST(CodecTest, Utf8IsRecognised) {
  for (std::string good : {"", "plain", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_TRUE(internal::is_utf8(good)) << good;
  }
  for (std::string bad : {"\xff", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc3(", "\x80"}) {
    EXPECT_FALSE(internal::is_utf8(bad)) << bad;
  }
}

TEST(CodecTest, LargeArraysStartAtAMultipleOf64) {
  for (size_t before : {0, 1, 7, 63}) {
    std::tuple<std::string, std::vector<double>> value{std::string(before, 'x'), std::vector<double>(1000, 1.0)};
    std::string bytes = encode(value);
    EXPECT_EQ((bytes.size() - 8000) % 64, 0u);
    EXPECT_EQ((decode<decltype(value)>(bytes)), value);
  }
}

// ---- Random values and random damage

struct Tree {
  int64_t number = 0;
  std::string text;
  std::vector<Tree> children;
  std::map<std::string, double> weights;
  std::optional<std::vector<float>> data;
  template <class A>
  void fields(A& a) { a(number, text, children, weights, data); }
  bool operator==(const Tree&) const = default;
};

using Random = std::mt19937_64;

std::string random_text(Random& random) {
  std::string out(random() % 20, '\0');
  for (char& c : out) c = static_cast<char>(random());
  return out;
}

Tree random_tree(Random& random, int depth) {
  Tree t;
  t.number = static_cast<int64_t>(random() >> random() % 64);
  t.text = random_text(random);
  for (uint64_t n = depth > 0 ? random() % 4 : 0; n > 0; --n) t.children.push_back(random_tree(random, depth - 1));
  for (uint64_t n = random() % 3; n > 0; --n) t.weights[random_text(random)] = static_cast<double>(random()) / 7;
  if (random() % 2) t.data.emplace(random() % 100, 0.5f);
  return t;
}

TEST(CodecTest, RandomTreesRoundTrip) {
  uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  for (int i = 0; i < 300; ++i) round_trip(random_tree(random, 4));
}

TEST(CodecTest, DamagedBytesEndInAValueOrAnError) {
  uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  std::string error;
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = encode(random_tree(random, 2), random() % 2);
    for (uint64_t n = random() % 4; n > 0; --n) bytes[random() % bytes.size()] = static_cast<char>(random());
    if (random() % 2) bytes.resize(random() % bytes.size());
    DecodeSource source;
    Decoder d(wire::as_bytes(bytes), source);
    Tree out;
    internal::read(d, out);
    EXPECT_EQ(d.ok(), d.error().empty());
  }
}

TEST(CodecTest, EndlessNestingIsRefused) {
  std::string bytes;
  for (int i = 0; i < 100000; ++i) {
    bytes += std::string("\x08\x05\x00\x00\x00\x03\x00\x07\x00\x00\x00\x00\x09\x01\x00\x00\x00", 17);
  }
  EXPECT_EQ(error_of<Tree>(bytes), "nested too deeply");
}

TEST(CodecTest, FunctionIdsAreTheHashOfTheName) {
  auto hex = [](std::string_view text) {
    std::string out;
    for (uint8_t b : internal::sha256(text)) {
      char two[3];
      std::snprintf(two, sizeof two, "%02x", b);
      out += two;
    }
    return out;
  };
  EXPECT_EQ(hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(to_hex(internal::function_id("abc")), "ba7816bf8f01cfea414140de5dae2223");
}

}  // namespace
}  // namespace sheaf
