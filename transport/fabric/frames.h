// The frames of the `sock` backend, and a parser that takes them out of a stream of bytes.
//
// A frame is an 8-byte header and a body. The parser is pure and holds at most one frame: any input
// ends in frames or in an error, after which the stream is unusable. Bodies are wire archives
// (core/wire.h), but for messages and pulled bytes, which are raw. docs/wire.md describes them.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "core/wire.h"
#include "transport/fabric/fabric.h"

namespace sheaf::transport {

// Raised by any change that is not an appended member.
inline constexpr uint16_t kFabricVersion = 2;
inline constexpr uint32_t kFabricMagic = 0x31424653;  // "SFB1"

enum class FrameKind : uint8_t {
  kHello = 1,      // dialer, first frame of every connection
  kWelcome = 2,    // its answer
  kMessage = 16,   // type; flag kMoreFragments
  kCredit = 17,
  kPullOpen = 18,  // reader to exporter
  kPullGrant = 19,
  kPullClose = 20,
  kPullFailed = 21,  // exporter to reader
  kBye = 22,
  kPullData = 32,  // on the bulk connection
};
inline constexpr uint8_t kMoreFragments = 1;

struct FrameHeader {
  uint32_t length = 0;  // of the body
  FrameKind kind{};
  uint8_t flags = 0;
  uint16_t type = 0;    // of a message
};
static_assert(sizeof(FrameHeader) == 8);

inline constexpr size_t kControlBodyMax = kFabricFragmentBytes;
inline constexpr size_t kHelloBodyMax = 512;

enum class ConnectionPurpose : uint8_t { kControl = 1, kBulk = 2 };

struct Hello {
  uint32_t magic = kFabricMagic;
  uint16_t version = kFabricVersion;
  ConnectionPurpose purpose = ConnectionPurpose::kControl;
  PeerId self;
  PeerId expected;       // incarnation 0: any
  uint64_t dial = 0;     // counts this process's connections to that node, from 1
  uint64_t session = 0;  // of the control connection to which a bulk connection belongs
  uint64_t cluster = 0;  // SockFabricOptions::cluster
  template <class A>
  void fields(A& a) {
    a(magic, version, purpose, self.node, self.incarnation, expected.node, expected.incarnation,
      dial, session, cluster);
  }
};

struct Welcome {
  uint32_t magic = kFabricMagic;
  uint16_t version = kFabricVersion;
  StatusCode code = StatusCode::kOk;
  std::string message;
  PeerId self;
  uint64_t session = 0;    // random; what a bulk connection proves its belonging with
  uint64_t abandoned = 0;  // the answering side's own dials up to here are void
  template <class A>
  void fields(A& a) {
    a(magic, version, code, message, self.node, self.incarnation, session, abandoned);
  }
};

// Totals since the session began: a lost update cannot matter.
struct Credit {
  uint64_t messages = 0, bytes = 0;
  template <class A>
  void fields(A& a) { a(messages, bytes); }
};

struct PullOpen {
  uint64_t pull = 0;  // the reader's number
  RemoteRange range;
  PullPriority priority{};
  uint64_t granted = 0;  // bytes from the start of the range that may be sent
  template <class A>
  void fields(A& a) {
    a(pull, range.region, range.generation, range.offset, range.length, priority, granted);
  }
};

struct PullGrant {
  uint64_t pull = 0, granted = 0;
  template <class A>
  void fields(A& a) { a(pull, granted); }
};

struct PullClose {
  uint64_t pull = 0;
  template <class A>
  void fields(A& a) { a(pull); }
};

struct PullFailed {
  uint64_t pull = 0;
  StatusCode code{};
  std::string message;
  template <class A>
  void fields(A& a) { a(pull, code, message); }
};

struct Bye {
  StatusCode code{};
  std::string message;
  template <class A>
  void fields(A& a) { a(code, message); }
};

// Stands at the start of the body of kPullData; the bytes of the object follow.
struct PullData {
  uint64_t pull = 0;
  uint64_t offset = 0;  // from the start of the range
};
static_assert(sizeof(PullData) == 16);
inline constexpr size_t kPullDataBytesMax = 256 * 1024;
// What a reader grants is a multiple of this, or the whole range.
inline constexpr uint64_t kPullGrantBytes = 1 << 20;
inline constexpr size_t kPullHeadBytes = sizeof(FrameHeader) + sizeof(PullData);

void append_frame(std::string& out, FrameKind kind, uint8_t flags, uint16_t type, wire::Bytes body);
template <class T>
void append_frame(std::string& out, FrameKind kind, const T& body) {
  append_frame(out, kind, 0, 0, wire::as_bytes(wire::encode(body)));
}

struct PullHead {
  PullData data;
  size_t length = 0;  // of the object's bytes that follow
};
void encode_pull_head(const PullHead& head, std::byte out[kPullHeadBytes]);
// kCorrupt for any other frame, or one of a length that may not be.
Result<PullHead> decode_pull_head(const std::byte in[kPullHeadBytes]);

struct Frame {
  FrameHeader header;
  wire::Bytes body;
};

class FrameParser {
 public:
  explicit FrameParser(size_t body_max) : body_max_(body_max) {}
  // Where the next bytes go: at least one.
  std::span<std::byte> room();
  void add(size_t bytes) { end_ += bytes; }
  // True: *frame is the next one, its body valid until room(). False: there is none yet; an error
  // is final.
  Result<bool> next(Frame* frame);
  void set_body_max(size_t body_max) { body_max_ = body_max; }
  size_t buffered() const { return end_ - begin_; }

 private:
  size_t body_max_;
  std::vector<std::byte> buffer_;
  size_t begin_ = 0, end_ = 0;
};

}  // namespace sheaf::transport
