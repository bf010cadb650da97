#include "transport/fabric/frames.h"

#include <fmt/core.h>

#include <algorithm>

namespace sheaf::transport {
namespace {

constexpr size_t kReadBytes = 32 * 1024;

}  // namespace

void append_frame(std::string& out, FrameKind kind, uint8_t flags, uint16_t type,
                  wire::Bytes body) {
  FrameHeader header{static_cast<uint32_t>(body.size()), kind, flags, type};
  out.append(reinterpret_cast<const char*>(&header), sizeof header);
  out.append(wire::as_text(body));
}

void encode_pull_head(const PullHead& head, std::byte out[kPullHeadBytes]) {
  FrameHeader header{static_cast<uint32_t>(sizeof head.data + head.length), FrameKind::kPullData, 0,
                     0};
  std::memcpy(out, &header, sizeof header);
  std::memcpy(out + sizeof header, &head.data, sizeof head.data);
}

Result<PullHead> decode_pull_head(const std::byte in[kPullHeadBytes]) {
  FrameHeader header;
  PullHead head;
  std::memcpy(&header, in, sizeof header);
  std::memcpy(&head.data, in + sizeof header, sizeof head.data);
  if (header.kind != FrameKind::kPullData || header.length <= sizeof head.data ||
      header.length > sizeof head.data + kPullDataBytesMax) {
    return Status(StatusCode::kCorrupt, "a frame on the bulk connection that may not be there");
  }
  head.length = header.length - sizeof head.data;
  return head;
}

std::span<std::byte> FrameParser::room() {
  if (begin_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  size_t want = std::min(kReadBytes, 2 * (sizeof(FrameHeader) + body_max_));
  if (buffer_.size() < want) buffer_.resize(want);
  return std::span(buffer_).subspan(end_);
}

Result<bool> FrameParser::next(Frame* frame) {
  if (end_ - begin_ < sizeof(FrameHeader)) return false;
  std::memcpy(&frame->header, buffer_.data() + begin_, sizeof(FrameHeader));
  size_t length = frame->header.length;
  if (length > body_max_) {
    return Status(StatusCode::kCorrupt,
                  fmt::format("a frame of {} bytes, at most {} allowed", length, body_max_));
  }
  if (end_ - begin_ < sizeof(FrameHeader) + length) return false;
  frame->body = wire::Bytes(buffer_).subspan(begin_ + sizeof(FrameHeader), length);
  begin_ += sizeof(FrameHeader) + length;
  return true;
}

}  // namespace sheaf::transport
