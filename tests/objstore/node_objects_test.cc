// The messages between stores as bytes: every alternative there and back, cut short, and altered.
#include <gtest/gtest.h>

#include <random>

#include "objstore/node_objects.h"

namespace sheaf::objstore::node_objects_test {
namespace {

std::vector<ObjectMessage> one_of_each() {
  const ObjectId a{make_process(3, 2, 7), 11}, b{make_process(1, 2, 9), 12};
  const Locator l{3, 0, MemoryKind::kHost, 5, 4096, 70000};
  return {Register{4, {a, b}},
          Registered{4},
          Drop{{{a, 1}, {b, 2}}},
          HandOff{make_process(2, 1, 100), HandOffKind::kCounted, {a}},
          HandOffDone{{a, b}},
          Sealed{a, l, make_process(1, 1, 100), {b}},
          Published{a, ValueState::kInline, "value", {b}},
          Want{a, true, make_process(2, 1, 1)},
          Here{a, ValueState::kArena, "", l},
          NotHere{a},
          CopyMade{a, l, true, {b}},
          CopyGone{a, true},
          Release{a, true},
          Keep{a},
          MakeCopy{a, l},
          Free{{a, b}},
          CopyStarted{a, l},
          Remember{7, {{3, -1, {a}, {b}, "task"}}, {{b, ValueState::kInline, "value", {a}}}},
          Forget{{a}, {b}}};
}

TEST(NodeObjectsTest, EveryMessageComesBackAsItWas) {
  std::vector<ObjectMessage> all = one_of_each();
  ASSERT_EQ(all.size(), std::variant_size_v<ObjectMessage::variant>);
  for (size_t i = 0; i < all.size(); ++i) {
    ASSERT_EQ(all[i].index(), i);
    std::string bytes = encode(all[i]);
    ASSERT_EQ(static_cast<uint8_t>(bytes[0]), i) << "numbers travel on the wire";
    auto back = decode_object_message(wire::as_bytes(bytes));
    ASSERT_TRUE(back) << name_of(all[i]);
    EXPECT_EQ(encode(*back), bytes) << name_of(all[i]);
  }
}

TEST(NodeObjectsTest, WhatIsCutShortIsRefused) {
  for (const ObjectMessage& m : one_of_each()) {
    std::string bytes = encode(m);
    for (size_t size = 0; size < bytes.size(); ++size) {
      std::string cut = bytes.substr(0, size);
      cut.shrink_to_fit();
      EXPECT_FALSE(decode_object_message(wire::as_bytes(cut))) << name_of(m) << " to " << size;
    }
  }
  for (int unknown : {19, 20, 200, 255}) {
    std::string bytes(100, static_cast<char>(unknown));
    EXPECT_FALSE(decode_object_message(wire::as_bytes(bytes))) << unknown;
  }
}

TEST(NodeObjectsTest, AlteredBytesEndInAMessageOrAnError) {
  std::mt19937 random(7);
  for (const ObjectMessage& m : one_of_each()) {
    for (int round = 0; round < 2000; ++round) {
      std::string bytes = encode(m);
      for (uint32_t n = 1 + random() % 6; n > 0; --n)
        bytes[random() % bytes.size()] = static_cast<char>(random() % 4 == 0 ? 0xff : random());
      bytes.resize(random() % (bytes.size() + 1));
      bytes.shrink_to_fit();
      auto back = decode_object_message(wire::as_bytes(bytes));
      if (!back) continue;
      std::string again = encode(*back);
      auto twice = decode_object_message(wire::as_bytes(again));
      ASSERT_TRUE(twice) << name_of(m) << " round " << round;
      ASSERT_EQ(encode(*twice), again) << name_of(m) << " round " << round;
    }
  }
}

}  // namespace
}  // namespace sheaf::objstore::node_objects_test
