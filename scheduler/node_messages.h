// What the controller and the agents say to each other.
//
// On one node both machines live in one sheafd, which hands these structs over by value; between
// nodes the same structs will travel in frames. Every message about an actor carries its
// incarnation and every reservation its attempt: the receiver drops what does not match (the
// fence), so duplicates and stragglers are harmless.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "core/ids.h"
#include "scheduler/protocol.h"

namespace sheaf::scheduler {

// Monotonic, from an arbitrary start. Never a wall clock.
using Time = std::chrono::nanoseconds;

// "GPU" -> indices of this node's devices.
using Devices = std::map<std::string, std::vector<uint32_t>>;

// ---- Controller to agent ------------------------------------------------------------------------

// Find a worker and resources for this incarnation; wait for them if need be. Answered by
// ActorAssigned, then maybe ActorLost; or by ActorPlaceFailed.
struct PlaceActor {
  ActorId actor;
  uint32_t incarnation = 0;
  JobId job = 0;
  std::shared_ptr<const protocol::ActorSpec> spec;
  bool job_ended = false;   // a detached actor that outlived its job
};
// The constructor has run: from creation resources to lifetime resources.
struct ActorRunning {
  ActorId actor;
  uint32_t incarnation = 0;
};
// Not wanted any more, wherever it stands. graceful: the worker finishes what it has. Answered by
// ActorLost once the worker is gone, if one had been assigned.
struct ReleaseActor {
  ActorId actor;
  uint32_t incarnation = 0;
  bool graceful = false;
  protocol::ErrorRecord cause;
};
struct BundleRequest {
  int32_t index = 0;
  protocol::ResourceMap resources;
};
// All bundles or none; waits for resources that are in use. Answered by GroupReserved.
struct ReserveGroup {
  PlacementGroupId group;
  uint32_t attempt = 0;
  std::vector<BundleRequest> bundles;
};
// gone: the group is removed or was never known: requests that name it are refused, workers inside
// it killed. Otherwise only this reservation is given up (the controller plans again) and requests
// keep waiting.
struct ReleaseGroup {
  PlacementGroupId group;
  bool gone = true;
};
// Leases, idle workers and requests of the job go; workers of detached actors stay.
struct EndJob {
  JobId job = 0;
};
using NodeMessage =
    std::variant<PlaceActor, ActorRunning, ReleaseActor, ReserveGroup, ReleaseGroup, EndJob>;

// ---- Agent to controller ------------------------------------------------------------------------

struct ActorAssigned {
  ActorId actor;
  uint32_t incarnation = 0;
  ProcessId process = 0;
};
// The worker that served (or was to construct) this incarnation is dead.
struct ActorLost {
  ActorId actor;
  uint32_t incarnation = 0;
  protocol::ErrorRecord cause;
};
// No worker can be had: its runtime environment cannot be set up, or the group it names is gone.
struct ActorPlaceFailed {
  ActorId actor;
  uint32_t incarnation = 0;
  protocol::ErrorRecord error;
};
// ok = false: this node can never hold these bundles as it is.
struct GroupReserved {
  PlacementGroupId group;
  uint32_t attempt = 0;
  bool ok = false;
};
// A request names a group that this node knows nothing about: the controller answers
// ReleaseGroup{gone} if the group does not exist (any more), and nothing while it is pending.
struct AskGroup {
  PlacementGroupId group;
};
// The scheduler's view of the node: sent when it changed, at most every
// AgentConfig::report_interval.
struct ReportResources {
  protocol::ResourceMap total;
  protocol::ResourceMap available;
};
using AgentReport =
    std::variant<ActorAssigned, ActorLost, ActorPlaceFailed, GroupReserved, AskGroup,
                 ReportResources>;

}  // namespace sheaf::scheduler
