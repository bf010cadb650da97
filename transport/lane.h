// A lane: a duplex pair of single-producer single-consumer rings between two processes of a node.
//
// A message is {type, flags, bytes}. Any size goes: what exceeds a quarter of the ring travels in
// fragments. send() never blocks and never fails: what the ring cannot take waits in an ordered
// overflow list, and flush() moves it on when the consumer has made room (it rings the sender's
// bell when it was asked to). A record becomes visible by one release store after its last byte:
// the death of the sender at any instruction leaves whole messages only. Lane: guarded by its
// owner's lock (one runtime lock per process); the rings are shared with the peer.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>

#include "core/wire.h"
#include "transport/bell.h"
#include "transport/lane_region.h"

namespace sheaf::transport {

inline constexpr size_t kRingBytes = 16 * 1024;
// Payload of the largest single record: with its header a quarter of the ring.
inline constexpr size_t kFragmentBytes = kRingBytes / 4 - 8;
inline constexpr size_t kMaxMessageBytes = size_t{1} << 30;  // a peer that claims more is corrupt

// In shared memory. Cursors are free-running byte counts; records are 8-byte aligned, never wrap.
struct RingBlock {
  alignas(64) std::atomic<uint64_t> head;        // written by the producer
  alignas(64) std::atomic<uint64_t> tail;        // written by the consumer
  alignas(64) std::atomic<uint32_t> want_space;  // producer: ring me when you have consumed
  alignas(64) std::byte data[kRingBytes];
};

struct RecordHeader {
  uint32_t length;  // of the payload, without this header and padding
  uint16_t type;    // message type; 0xffff = filler up to the end of the ring
  uint16_t flags;   // low 8 bits: the sender's; kMoreFragments is ours
};
static_assert(sizeof(RecordHeader) == 8);
inline constexpr uint16_t kMoreFragments = 0x8000;
inline constexpr uint16_t kFillerType = 0xffff;
inline constexpr uint16_t kSenderFlags = 0x00ff;

// Where both ends of a lane are; made by the daemon, one for each side. Offsets in the LaneRegion.
struct LaneInfo {
  RegionOffset tx_ring = 0;
  RegionOffset rx_ring = 0;
  RegionOffset peer_bell = 0;
  uint32_t peer_lane = 0;  // our number at the peer's bell
  uint32_t own_lane = 0;   // its number at our bell
  template <class A>
  void fields(A& a) {
    a(tx_ring, rx_ring, peer_bell, peer_lane, own_lane);
  }
};

// A received message. The payload is a view into the ring, or into the lane's reassembly buffer,
// until pop().
struct Message {
  uint16_t type = 0;
  uint16_t flags = 0;
  wire::Bytes payload;
};

class Lane {
 public:
  // kInvalidArgument when an offset lies outside the region.
  static Result<Lane> open(const LaneRegion& region, const LaneInfo& info);
  Lane(Lane&&) = default;
  Lane& operator=(Lane&&) = default;

  // Queues one message of at most kMaxMessageBytes: head and body are copied, one after the other.
  // Rings the peer's bell; does not wake one that rests if it `may_wait`. `type` is not 0xffff,
  // `flags` fits 8 bits. Dropped when the lane is corrupt().
  void send(uint16_t type, wire::Bytes head, wire::Bytes body = {}, uint16_t flags = 0,
            bool may_wait = false);
  // Moves overflow into the ring as far as it goes. True when nothing is left over. When something
  // is, the peer rings this lane after it has consumed: call flush() whenever the bell names the
  // lane.
  bool flush();
  // Payload and headers that wait outside the ring; 0 only when nothing waits.
  size_t overflow_bytes() const { return overflow_bytes_; }

  // The oldest unconsumed message, if one is complete. The same one until pop().
  std::optional<Message> peek();
  // Consumes what peek() returned, which becomes invalid.
  void pop();
  // True when peek() would find nothing. The first part of a message whose rest is still with the
  // sender counts as nothing: the sender rings again with the rest.
  bool rx_empty() const;
  // True once the shared memory held what no correct peer writes. Nothing is received or sent any
  // more: close it.
  bool corrupt() const { return corrupt_; }
  uint32_t own_lane() const { return info_.own_lane; }

 private:
  Lane() = default;
  size_t write_fragments(uint16_t type, uint16_t flags, wire::Bytes head, wire::Bytes body,
                         size_t sent);
  std::byte* reserve(size_t length, RecordHeader header);
  bool has_space(size_t bytes);
  bool refresh_tx_tail();
  bool refresh_rx_head();
  Message assembled() const;
  bool append_fragment(const RecordHeader& header, const std::byte* payload);
  void consume(size_t bytes);
  void mark_corrupt();

  struct Overflow {
    uint16_t type;
    uint16_t flags;
    std::string bytes;
    size_t sent = 0;  // how many of `bytes` are in the ring already
  };

  LaneInfo info_;
  RingBlock* tx_ = nullptr;
  RingBlock* rx_ = nullptr;
  BellRinger peer_;
  uint64_t tx_head_ = 0;            // our copy of tx_->head
  uint64_t tx_tail_seen_ = 0;       // last value read of tx_->tail
  uint64_t rx_tail_ = 0;            // consumed up to here
  uint64_t rx_tail_published_ = 0;  // our copy of rx_->tail
  uint64_t rx_head_seen_ = 0;
  // Ring bytes to give back at pop(); 0 when the message sits in `assembly_`.
  size_t peeked_bytes_ = 0;
  bool corrupt_ = false;
  bool assembling_ = false;
  bool assembly_complete_ = false;
  uint16_t assembly_type_ = 0;
  uint16_t assembly_flags_ = 0;
  std::string assembly_;
  std::deque<Overflow> overflow_;
  size_t overflow_bytes_ = 0;
};

}  // namespace sheaf::transport
