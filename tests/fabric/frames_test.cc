#include <gtest/gtest.h>

#include <random>

#include "tests/fabric/frame_checks.h"

namespace sheaf::transport {
namespace {

TEST(FabricFramesTest, FramesSurviveAnyCutting) {
  std::string stream;
  append_frame(stream, FrameKind::kMessage, kMoreFragments, 513, wire::as_bytes("first"));
  append_frame(stream, FrameKind::kMessage, 0, 513, {});
  append_frame(stream, FrameKind::kCredit, Credit{5, 6});
  append_frame(stream, FrameKind::kPullFailed, PullFailed{7, StatusCode::kCorrupt, "why"});
  append_frame(stream, FrameKind::kMessage, 0, 1,
               wire::as_bytes(std::string(kControlBodyMax, 'x')));
  for (size_t piece : {1, 2, 7, 8, 9, 4096, 100'000}) {
    EXPECT_EQ(test::check_frames(wire::as_bytes(stream), piece, kControlBodyMax), 5u);
  }
}

TEST(FabricFramesTest, ALengthThatMayNotBeIsAnErrorBeforeItsBytesArrive) {
  FrameParser parser(100);
  FrameHeader header{101, FrameKind::kMessage, 0, 0};
  std::memcpy(parser.room().data(), &header, sizeof header);
  parser.add(sizeof header);
  Frame frame;
  EXPECT_EQ(parser.next(&frame).status().code(), StatusCode::kCorrupt);
}

TEST(FabricFramesTest, HeadsOfPulledBytesAreChecked) {
  std::byte bytes[kPullHeadBytes];
  for (size_t length : {size_t{0}, size_t{1}, kPullDataBytesMax, kPullDataBytesMax + 1}) {
    encode_pull_head({{3, 4}, length}, bytes);
    auto head = decode_pull_head(bytes);
    EXPECT_EQ(head.has_value(), length >= 1 && length <= kPullDataBytesMax) << length;
    if (!head) continue;
    EXPECT_TRUE(head->data.pull == 3 && head->data.offset == 4 && head->length == length);
  }
}

TEST(FabricFramesTest, RandomBytesEndInFramesOrAnError) {
  uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int i = 0; i < 20'000; ++i) {
    std::string input(random() % 300, '\0');
    for (char& c : input) c = static_cast<char>(random());
    // Small lengths, so that bodies are reached.
    for (size_t at = 0; at + 4 < input.size(); at += 8 + static_cast<uint8_t>(input[at])) {
      input[at + 1] = input[at + 2] = input[at + 3] = 0;
    }
    test::check_frames(wire::as_bytes(input), 1 + random() % 64, kControlBodyMax);
    test::check_pull_head(wire::as_bytes(input));
  }
}

}  // namespace
}  // namespace sheaf::transport
