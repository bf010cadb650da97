// Fabric: bytes between the daemons of a cluster's nodes. The interface that every backend
// implements.
//
// Two kinds of traffic: messages (small, ordered per peer, credit-controlled) and pulls (a range of
// a region that a peer exports, read straight into the caller's memory). A message never waits
// behind a pull. Every operation ends exactly once, with a Status, whatever happens to either side;
// a callback never runs inside the call that caused it. Owned by the thread of the EventLoop that
// it was made with: all calls and all callbacks are there; backends keep their own threads to
// themselves.
#pragma once

#include <chrono>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/event_loop.h"
#include "core/log.h"
#include "core/status.h"
#include "core/wire.h"

namespace sheaf::transport {

// A node that has no number yet, because it is about to ask the controller for one. Such peers are
// told apart by their incarnations alone, which are random then.
inline constexpr uint32_t kNoNode = 0xffffffff;

// One life of one node. A node that restarts has a higher incarnation; what an earlier life sent or
// asked for is refused from the moment on at which the later one is known. `incarnation` 0 in a
// call of connect() means whichever life is there.
struct PeerId {
  uint32_t node = kNoNode;
  uint64_t incarnation = 0;
  auto operator<=>(const PeerId&) const = default;
};
// "3.17": node, incarnation; "new.17" without a number.
std::string to_string(const PeerId& id);

// Numeric only: the loop never waits for a name server.
struct FabricAddress {
  std::string host;  // IPv4 or IPv6
  uint16_t port = 0;
  bool operator==(const FabricAddress&) const = default;
};
// "10.0.0.1:4711", "[fe80::1]:4711".
std::string to_string(const FabricAddress& address);
Result<FabricAddress> parse_fabric_address(std::string_view text);

// Larger messages are the caller's mistake: it sends a locator, and the peer pulls.
inline constexpr size_t kFabricMessageBytesMax = 1 << 20;
// What a peer may have sent and not yet seen consumed: messages of up to kFabricFragmentBytes, or
// fragments of larger ones.
inline constexpr size_t kFabricFragmentBytes = 8 * 1024;
inline constexpr uint64_t kFabricCreditMessages = 256;
inline constexpr uint64_t kFabricCreditBytes = 256 * 1024;

// Bytes of a peer's memory. `generation` is that of the object's extent; the exporting side's guard
// compares it.
struct RemoteRange {
  uint32_t region = 0;
  uint32_t generation = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
};

// Asked by the exporting side's fabric, on the loop, for every pull. Cheap and synchronous: what
// has to be restored or waited for is settled by messages before the pull.
class RangeGuard {
 public:
  virtual ~RangeGuard() = default;
  // The range lies inside the region already. OK: its bytes stay as they are until release(). An
  // error becomes the reader's: kNotFound for what was freed, kCorrupt for another generation.
  virtual Status acquire(const PeerId& reader, const RemoteRange& range) = 0;
  // Once per successful acquire(), also when the reader died.
  virtual void release(const PeerId& reader, const RemoteRange& range) = 0;
};

// The order in which pulls from one peer get the wire: the more urgent first, equal ones in order
// of their start. Less urgent ones get a turn every half second per step, so that none starves.
enum class PullPriority : uint8_t {
  kTaskArgument = 0,
  kInteractive = 1,
  kPrefetch = 2,
  kReplicate = 3
};

using PullId = uint64_t;  // never reused; 0 = none

struct PullOptions {
  PullPriority priority = PullPriority::kTaskArgument;
  EventLoop::TimePoint deadline = EventLoop::TimePoint::max();
};

enum class PeerState : uint8_t { kUp = 1, kDown = 2 };

struct FabricEvents {
  // `payload` is valid inside the call only.
  std::function<void(const PeerId& from, uint16_t type, wire::Bytes payload)> on_message;
  // kUp: may be sent to; also for peers that connected to us. kDown: everything that was under way
  // has failed or is about to, messages that were accepted may be lost; `why` says what happened.
  // A later kUp of the same PeerId is a new session.
  std::function<void(const PeerId& peer, PeerState state, const Status& why)> on_peer;
  // After send() said kOverloaded: half of the queue is free again.
  std::function<void(const PeerId& peer)> on_room;
};

struct FabricStats {
  uint64_t messages_sent = 0, messages_received = 0;
  uint64_t message_bytes_sent = 0, message_bytes_received = 0;
  uint64_t pulls_started = 0, pulls_done = 0, pulls_failed = 0;
  uint64_t pull_bytes_received = 0, pull_bytes_sent = 0;
  uint64_t peers_up = 0, half_open = 0;
  uint64_t refused = 0;   // connections that did not authenticate, and hellos that were turned down
  uint64_t ranges_held = 0;  // acquired and not yet released
};

// What a caller may rely on, and why (`sheaf doctor` prints it).
struct FabricCapabilities {
  std::string_view name;        // "sock"
  bool one_sided = false;       // a pull costs the exporting side no processor time
  bool device_memory = false;
  bool encrypted = false;
  size_t best_pull_bytes = 0;   // smaller pulls do not fill the wire
};

class CreditSource;

// Keeps a message's credit from going back to its sender. Belongs to the loop, like the fabric.
class CreditHold {
 public:
  CreditHold() = default;
  CreditHold(std::weak_ptr<CreditSource> source, uint64_t messages, uint64_t bytes)
      : source_(std::move(source)), messages_(messages), bytes_(bytes) {}
  CreditHold(CreditHold&& other) noexcept { *this = std::move(other); }
  CreditHold& operator=(CreditHold&& other) noexcept;
  ~CreditHold() { release(); }
  void release();

 private:
  std::weak_ptr<CreditSource> source_;  // gone with the session
  uint64_t messages_ = 0, bytes_ = 0;
};

// A backend's side of CreditHold.
class CreditSource {
 public:
  virtual ~CreditSource() = default;
  virtual void return_credit(uint64_t messages, uint64_t bytes) = 0;
};

class Fabric {
 public:
  using OnConnected = std::function<void(Result<PeerId>)>;
  using OnPulled = std::function<void(const Status&)>;

  // Destroying it is close().
  virtual ~Fabric() = default;

  virtual PeerId self() const = 0;
  // Where peers reach this node; port 0 when it was made without a listener.
  virtual FabricAddress address() const = 0;
  virtual FabricCapabilities capabilities() const = 0;
  virtual FabricStats stats() const = 0;

  // One session per pair of peers, however many ask and from whichever side. Ends by `deadline`:
  // OK; kDisconnected: that life is not there, which is proved (the port is closed, or another life
  // answers); kPermissionDenied (token, or one of the two is fenced); kUnsupported (version);
  // kTimeout: nothing is known. An error leaves nothing behind and may be tried again.
  virtual void connect(const PeerId& peer, const FabricAddress& address,
                       EventLoop::TimePoint deadline, OnConnected done) = 0;
  virtual bool is_up(const PeerId& peer) const = 0;

  // Delivered in order and at most once, or the session goes down. `payload` is copied. Never
  // blocks: kOverloaded when the peer's queue is full (on_room follows), kDisconnected without a
  // session, kInvalidArgument above kFabricMessageBytesMax.
  virtual Status send(const PeerId& to, uint16_t type, wire::Bytes payload) = 0;
  // Inside on_message: the message counts as not consumed while the result lives. Back-pressure for
  // a receiver that hands work on.
  virtual CreditHold hold_credit() = 0;

  // Lets peers pull from `memory`, which outlives the fabric, or withdraw_region(). kAlreadyExists.
  virtual Status export_region(uint32_t region, std::span<const std::byte> memory,
                               RangeGuard* guard) = 0;
  // New pulls are refused; those under way end first, then `done` runs and the memory may go.
  virtual void withdraw_region(uint32_t region, std::function<void()> done) = 0;

  // Reads `range` of `from` into `into` (of the same length), which must stay until `done`. After
  // `done` nothing is written there, whatever its status: OK (all bytes), kNotFound, kCorrupt,
  // kInvalidArgument (outside of the region), kDisconnected, kTimeout, kCancelled.
  // An error here means that `done` will not run.
  virtual Result<PullId> pull(const PeerId& from, const RemoteRange& range,
                              std::span<std::byte> into, const PullOptions& options,
                              OnPulled done) = 0;
  // `done` follows with kCancelled, unless the pull has ended otherwise meanwhile.
  virtual void cancel(PullId id) = 0;

  // The owner's failure detector has spoken: ends the session and all that hangs on it. Nothing
  // happens for a peer that is not up.
  virtual void fail(const PeerId& peer, const Status& why) = 0;
  // From now on lives of `node` below `incarnation` are refused, and failed where they are up.
  virtual void fence(uint32_t node, uint64_t incarnation) = 0;

  // Ends every session and operation; all callbacks have run when it returns. No call may follow.
  virtual void close() = 0;
};

}  // namespace sheaf::transport
