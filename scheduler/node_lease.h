// A node's side of its membership: when to say that it lives, and when to stop by itself.
//
// The controller declares a node dead that it has not heard from for `lease_time`. The node stops
// at 0.8 of that, counted from when it *sent* the last heartbeat that was answered, so that it has
// stopped before anyone takes its place, however long messages take and however the clocks differ.
// Pure; times are the node's own monotonic clock, which has to run on while the machine sleeps.
// Owned by the daemon's loop.
#pragma once

#include <optional>

#include "scheduler/node_messages.h"

namespace sheaf::scheduler {

struct NodeLeaseConfig {
  Time lease_time = std::chrono::seconds(3);
  Time heartbeat_interval = std::chrono::milliseconds(300);
};

class NodeLease {
 public:
  // `joined_at`: when the message was sent that NodeAccepted answers; the first one, if it was
  // repeated to the same head, as nothing says which of them it was that had an answer.
  NodeLease(NodeLeaseConfig config, Time joined_at);

  // The time to put into a heartbeat that is to be sent now; nothing when none is due.
  std::optional<Time> heartbeat(Time now);
  // An answer, with the time that its heartbeat carried. Late and repeated ones are harmless.
  void renewed(Time sent_at);
  // From then on this node is nobody: workers are killed, nothing is sent or answered any more.
  // Look before every message that matters, not only when a timer fires.
  bool expired(Time now) const { return now >= fence_at(); }
  Time fence_at() const;
  // When heartbeat() or expired() will have something new to say.
  Time next_tick() const;

 private:
  NodeLeaseConfig config_;
  Time renewed_;         // sent time of the newest heartbeat that was answered
  Time next_heartbeat_;
};

}  // namespace sheaf::scheduler
