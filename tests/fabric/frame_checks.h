// One function that the fuzzer and the random test share: any bytes through every decoder.
#pragma once

#include <algorithm>
#include <cstring>

#include "transport/fabric/frames.h"

namespace sheaf::transport::test {

template <class T>
void check_body(wire::Bytes body) {
  Result<T> value = wire::decode<T>(body);
  if (!value) return;
  std::string once = wire::encode(*value);
  Result<T> back = wire::decode<T>(once);
  SHEAF_CHECK(back.has_value() && wire::encode(*back) == once);
}

// Feeds `input` in pieces of up to `piece` bytes. Returns the number of frames found before the end
// or the first error.
inline size_t check_frames(wire::Bytes input, size_t piece, size_t body_max) {
  FrameParser parser(body_max);
  size_t frames = 0;
  while (!input.empty()) {
    auto room = parser.room();
    SHEAF_CHECK(!room.empty());
    size_t n = std::min({piece, room.size(), input.size()});
    std::memcpy(room.data(), input.data(), n);
    parser.add(n);
    input = input.subspan(n);
    Frame frame;
    for (;;) {
      Result<bool> next = parser.next(&frame);
      if (!next) return frames;
      if (!*next) break;
      ++frames;
      SHEAF_CHECK(frame.body.size() == frame.header.length && frame.body.size() <= body_max);
      check_body<Hello>(frame.body);
      check_body<Welcome>(frame.body);
      check_body<Credit>(frame.body);
      check_body<PullOpen>(frame.body);
      check_body<PullGrant>(frame.body);
      check_body<PullClose>(frame.body);
      check_body<PullFailed>(frame.body);
      check_body<Bye>(frame.body);
    }
    SHEAF_CHECK(parser.buffered() < sizeof(FrameHeader) + body_max);
  }
  return frames;
}

inline void check_pull_head(wire::Bytes input) {
  if (input.size() < kPullHeadBytes) return;
  Result<PullHead> head = decode_pull_head(input.data());
  if (!head) return;
  SHEAF_CHECK(head->length >= 1 && head->length <= kPullDataBytesMax);
  std::byte again[kPullHeadBytes];
  encode_pull_head(*head, again);
  SHEAF_CHECK(decode_pull_head(again).has_value());
}

}  // namespace sheaf::transport::test
