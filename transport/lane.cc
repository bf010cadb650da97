#include "transport/lane.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace sheaf::transport {
namespace {

constexpr uint64_t kRingMask = kRingBytes - 1;
static_assert((kRingBytes & kRingMask) == 0 && kFragmentBytes % 8 == 0);
// The largest record and the filler before it fit into an empty ring, so a sender with room always
// gets on.
static_assert(2 * (kFragmentBytes + sizeof(RecordHeader)) <= kRingBytes);

// Consumed bytes that may stay unannounced while more is known to wait: saves a fence a message in
// bursts.
constexpr size_t kTailLagBytes = kRingBytes / 4;
constexpr size_t kAssemblyKeepBytes = 64 * 1024;

constexpr size_t record_bytes(size_t length) {
  return sizeof(RecordHeader) + ((length + 7) & ~size_t{7});
}

// Without a call for the sizes that most records have.
constexpr size_t kSmallBytes = 64;
template <class Word>
void copy_ends(std::byte* to, const std::byte* from, size_t n) {   // of one word to two
  Word first, last;
  std::memcpy(&first, from, sizeof first);
  std::memcpy(&last, from + n - sizeof last, sizeof last);
  std::memcpy(to, &first, sizeof first);
  std::memcpy(to + n - sizeof last, &last, sizeof last);
}
struct Words4 {
  uint64_t words[4];
};
struct Words2 {
  uint64_t words[2];
};
void copy_bytes(std::byte* to, const std::byte* from, size_t n) {
  if (n > kSmallBytes) std::memcpy(to, from, n);
  else if (n >= 32) copy_ends<Words4>(to, from, n);
  else if (n >= 16) copy_ends<Words2>(to, from, n);
  else if (n >= 8) copy_ends<uint64_t>(to, from, n);
  else if (n >= 4) copy_ends<uint32_t>(to, from, n);
  else if (n >= 2) copy_ends<uint16_t>(to, from, n);
  else if (n == 1) *to = *from;
}

// Bytes [offset, offset + length) of `head` followed by `body`.
void gather(std::byte* out, wire::Bytes head, wire::Bytes body, size_t offset, size_t length) {
  if (offset < head.size()) {
    size_t n = std::min(length, head.size() - offset);
    std::memcpy(out, head.data() + offset, n);
    out += n;
    offset += n;
    length -= n;
  }
  if (length != 0) std::memcpy(out, body.data() + (offset - head.size()), length);
}

}  // namespace

Result<Lane> Lane::open(const LaneRegion& region, const LaneInfo& info) {
  bool inside = region.contains(info.tx_ring, sizeof(RingBlock)) &&
                region.contains(info.rx_ring, sizeof(RingBlock)) &&
                region.contains(info.peer_bell, sizeof(BellBlock));
  bool aligned = (info.tx_ring | info.rx_ring | info.peer_bell) % 64 == 0;
  if (!inside || !aligned || info.peer_lane >= kMaxLanes || info.own_lane >= kMaxLanes) {
    return Status(StatusCode::kInvalidArgument, "a lane that lies outside the lane region");
  }
  Lane lane;
  lane.info_ = info;
  lane.tx_ = region.at<RingBlock>(info.tx_ring);
  lane.rx_ = region.at<RingBlock>(info.rx_ring);
  lane.peer_ = BellRinger(region.at<BellBlock>(info.peer_bell), info.peer_lane);
  lane.tx_head_ = lane.tx_->head.load(std::memory_order_relaxed);
  lane.rx_tail_ = lane.rx_->tail.load(std::memory_order_relaxed);
  lane.rx_tail_published_ = lane.rx_tail_;
  lane.rx_head_seen_ = lane.rx_tail_;
  lane.tx_tail_seen_ = lane.tx_->tail.load(std::memory_order_acquire);
  if ((lane.tx_head_ | lane.rx_tail_ | lane.tx_tail_seen_) % 8 != 0 ||
      lane.tx_head_ - lane.tx_tail_seen_ > kRingBytes) {
    return Status(StatusCode::kCorrupt, "a lane whose rings hold impossible cursors");
  }
  return lane;
}

void Lane::mark_corrupt() {
  corrupt_ = true;
  overflow_.clear();
  overflow_bytes_ = 0;
  assembly_ = {};
  assembling_ = assembly_complete_ = false;
  peeked_bytes_ = 0;
}

// ---- Sending ----------------------------------------------------------------------------------

bool Lane::refresh_tx_tail() {
  uint64_t tail = tx_->tail.load(std::memory_order_seq_cst);
  if (tail % 8 != 0 || tail - tx_tail_seen_ > tx_head_ - tx_tail_seen_) {
    mark_corrupt();
    return false;
  }
  tx_tail_seen_ = tail;
  return true;
}

bool Lane::has_space(size_t bytes) {
  auto fits = [&] { return kRingBytes - (tx_head_ - tx_tail_seen_) >= bytes; };
  if (fits()) return true;
  if (!refresh_tx_tail()) return false;
  if (fits()) return true;
  // Dekker with consume(): we ask, then look at the tail; the consumer moves the tail, then looks
  // whether we asked. Both orders are sequentially consistent, so either we see the room or it
  // rings us.
  tx_->want_space.store(1, std::memory_order_seq_cst);
  return refresh_tx_tail() && fits();
}

// Room for one record with its header written, or null. Becomes visible with the next store to
// tx_->head.
std::byte* Lane::reserve(size_t length, RecordHeader header) {
  size_t need = record_bytes(length);
  size_t to_end = kRingBytes - (tx_head_ & kRingMask);
  size_t filler = need > to_end ? to_end : 0;
  if (!has_space(filler + need)) return nullptr;
  if (filler != 0) {
    RecordHeader skip{static_cast<uint32_t>(filler - sizeof(RecordHeader)), kFillerType, 0};
    std::memcpy(tx_->data + (tx_head_ & kRingMask), &skip, sizeof skip);
    tx_head_ += filler;
  }
  std::byte* record = tx_->data + (tx_head_ & kRingMask);
  std::memcpy(record, &header, sizeof header);
  tx_head_ += need;
  return record + sizeof header;
}

// Writes the records of one message from byte `sent` on, as many as fit; the number of bytes in the
// ring afterwards, or SIZE_MAX when the last record is in.
size_t Lane::write_fragments(uint16_t type, uint16_t flags, wire::Bytes head, wire::Bytes body,
                             size_t sent) {
  size_t total = head.size() + body.size();
  for (;;) {
    size_t length = std::min(total - sent, kFragmentBytes);
    bool last = sent + length == total;
    uint16_t record_flags = last ? flags : static_cast<uint16_t>(flags | kMoreFragments);
    std::byte* out = reserve(length, {static_cast<uint32_t>(length), type, record_flags});
    if (out == nullptr) return sent;
    gather(out, head, body, sent, length);
    tx_->head.store(tx_head_, std::memory_order_release);
    if (last) return SIZE_MAX;
    sent += length;
  }
}

void Lane::send(uint16_t type, wire::Bytes head, wire::Bytes body, uint16_t flags, bool may_wait) {
  SHEAF_CHECK(type != kFillerType && (flags & ~kSenderFlags) == 0);
  const size_t total = head.size() + body.size();
  SHEAF_CHECK(total <= kMaxMessageBytes);
  if (corrupt_) return;
  // One record, room for it as far as we have seen, not across the end of the ring: nearly always.
  const size_t need = record_bytes(total), at = tx_head_ & kRingMask;
  const uint64_t used = tx_head_ - tx_tail_seen_;
  const bool fits = total <= kFragmentBytes && need <= kRingBytes - std::max<uint64_t>(used, at);
  if (fits && overflow_.empty()) {
    std::byte* record = tx_->data + at;
    const RecordHeader header{static_cast<uint32_t>(total), type, flags};
    std::memcpy(record, &header, sizeof header);
    copy_bytes(record + sizeof header, head.data(), head.size());
    copy_bytes(record + sizeof header + head.size(), body.data(), body.size());
    tx_head_ += need;
    tx_->head.store(tx_head_, std::memory_order_release);
    return peer_.ring(may_wait);
  }
  size_t sent = 0;
  if (overflow_.empty()) {
    sent = write_fragments(type, flags, head, body, 0);
    if (sent != 0) peer_.ring();
    if (sent == SIZE_MAX || corrupt_) return;
  }
  std::string rest(total - sent, '\0');
  gather(reinterpret_cast<std::byte*>(rest.data()), head, body, sent, rest.size());
  overflow_bytes_ += rest.size() + sizeof(RecordHeader);
  overflow_.push_back({type, flags, std::move(rest)});
}

bool Lane::flush() {
  bool wrote = false;
  while (!overflow_.empty()) {
    Overflow& next = overflow_.front();
    size_t before = next.sent;
    size_t sent = write_fragments(next.type, next.flags, wire::as_bytes(next.bytes), {}, before);
    if (corrupt_) return true;
    wrote |= sent != before;
    if (sent != SIZE_MAX) {
      overflow_bytes_ -= sent - before;
      next.sent = sent;
      break;
    }
    overflow_bytes_ -= next.bytes.size() - before + sizeof(RecordHeader);
    overflow_.pop_front();
  }
  if (wrote) peer_.ring();
  return overflow_.empty();
}

// ---- Receiving --------------------------------------------------------------------------------

bool Lane::refresh_rx_head() {
  // Sequentially consistent for the second drain of Bell::for_each_ready: its clear of the bit
  // comes before this load.
  uint64_t head = rx_->head.load(std::memory_order_seq_cst);
  if (head % 8 != 0 || head - rx_tail_ > kRingBytes) {
    mark_corrupt();
    return false;
  }
  rx_head_seen_ = head;
  return head != rx_tail_;
}

void Lane::consume(size_t bytes) {
  rx_tail_ += bytes;
  if (rx_tail_ != rx_head_seen_ && rx_tail_ - rx_tail_published_ < kTailLagBytes) return;
  rx_->tail.store(rx_tail_, std::memory_order_release);
  rx_tail_published_ = rx_tail_;
  // Tail before want_space: see has_space(). With these sizes one unseen tail never hides enough
  // room to matter (lag and record together are less than half a ring); the fence spares us that
  // proof.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (rx_->want_space.load(std::memory_order_relaxed) != 0) {
    // Cleared before the ring: a request that comes in between is answered by that same ring.
    rx_->want_space.store(0, std::memory_order_relaxed);
    peer_.ring();
  }
}

Message Lane::assembled() const {
  return {assembly_type_, assembly_flags_, wire::as_bytes(assembly_)};
}

bool Lane::append_fragment(const RecordHeader& header, const std::byte* payload) {
  uint16_t flags = header.flags & kSenderFlags;
  if (!assembling_) {
    assembling_ = true;
    assembly_type_ = header.type;
    assembly_flags_ = flags;
  } else if (header.type != assembly_type_ || flags != assembly_flags_) {
    return false;
  }
  if (header.length > kMaxMessageBytes - assembly_.size()) return false;
  assembly_.append(reinterpret_cast<const char*>(payload), header.length);
  return true;
}

std::optional<Message> Lane::peek() {
  if (!assembling_ && !assembly_complete_ && !corrupt_) {
    if (rx_tail_ == rx_head_seen_) {
      if (rx_->head.load(std::memory_order_seq_cst) == rx_tail_) return std::nullopt;
      if (!refresh_rx_head()) return std::nullopt;
    }
    const size_t at = rx_tail_ & kRingMask;
    RecordHeader header;
    std::memcpy(&header, rx_->data + at, sizeof header);
    const size_t bytes = record_bytes(header.length);
    const size_t available = std::min<uint64_t>(rx_head_seen_ - rx_tail_, kRingBytes - at);
    const bool whole = header.length <= kFragmentBytes && (header.flags & kMoreFragments) == 0;
    if (whole && header.type != kFillerType && bytes <= available) {
      peeked_bytes_ = bytes;
      return Message{header.type, static_cast<uint16_t>(header.flags & kSenderFlags),
                     wire::Bytes(rx_->data + at + sizeof header, header.length)};
    }
  }
  // Fillers, fragments, and what no correct peer writes.
  if (assembly_complete_) return assembled();
  while (!corrupt_) {
    if (rx_tail_ == rx_head_seen_ && !refresh_rx_head()) return std::nullopt;
    size_t at = rx_tail_ & kRingMask;
    size_t available = std::min<uint64_t>(rx_head_seen_ - rx_tail_, kRingBytes - at);
    RecordHeader header;  // copied once, so that what is checked is what is used
    std::memcpy(&header, rx_->data + at, sizeof header);
    size_t bytes = record_bytes(header.length);
    if (bytes > available) break;
    if (header.type == kFillerType) {
      if (at + bytes != kRingBytes) break;
      consume(bytes);
      continue;
    }
    if (header.length > kFragmentBytes) break;
    const std::byte* payload = rx_->data + at + sizeof header;
    bool last = (header.flags & kMoreFragments) == 0;
    if (last && !assembling_) {
      peeked_bytes_ = bytes;
      uint16_t flags = header.flags & kSenderFlags;
      return Message{header.type, flags, wire::Bytes(payload, header.length)};
    }
    if (!append_fragment(header, payload)) break;
    consume(bytes);
    if (last) {
      assembly_complete_ = true;
      return assembled();
    }
  }
  if (!corrupt_) mark_corrupt();
  return std::nullopt;
}

void Lane::pop() {
  if (assembly_complete_) {
    assembly_complete_ = assembling_ = false;
    if (assembly_.capacity() > kAssemblyKeepBytes) assembly_ = {};
    assembly_.clear();
    return;
  }
  if (corrupt_) return;
  SHEAF_CHECK(peeked_bytes_ != 0);
  consume(std::exchange(peeked_bytes_, 0));
}

bool Lane::rx_empty() const {
  if (corrupt_) return true;
  if (assembly_complete_) return false;
  return rx_->head.load(std::memory_order_seq_cst) == rx_tail_;
}

}  // namespace sheaf::transport
