#include "scheduler/node_lease.h"

#include <algorithm>

namespace sheaf::scheduler {

NodeLease::NodeLease(NodeLeaseConfig config, Time joined_at)
    : config_(config),
      renewed_(joined_at),
      next_heartbeat_(joined_at + config.heartbeat_interval) {}

std::optional<Time> NodeLease::heartbeat(Time now) {
  if (now < next_heartbeat_) return std::nullopt;
  next_heartbeat_ = now + config_.heartbeat_interval;
  return now;
}

void NodeLease::renewed(Time sent_at) { renewed_ = std::max(renewed_, sent_at); }

Time NodeLease::fence_at() const { return renewed_ + config_.lease_time * 4 / 5; }

Time NodeLease::next_tick() const { return std::min(next_heartbeat_, fence_at()); }

}  // namespace sheaf::scheduler
