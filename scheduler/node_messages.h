// What the controller and the agents say to each other.
//
// On the head's node both machines live in one sheafd, which hands these structs over by value;
// other nodes get and send them encoded, in order. Every message about an actor carries its
// incarnation and every reservation its attempt: the receiver drops what does not match (the
// fence), so duplicates and stragglers are harmless. Variants are encoded as a byte, the
// alternative's index, and the struct: append alternatives only.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/ids.h"
#include "core/status.h"
#include "core/variant.h"
#include "core/wire.h"
#include "scheduler/protocol.h"

namespace sheaf::scheduler {

// Monotonic, from an arbitrary start. Never a wall clock.
using Time = std::chrono::nanoseconds;

// Up to so many nodes all hear of every other's load. In a larger cluster who looks for room hears
// of nodes that have it, and nobody else's load is known.
inline constexpr size_t kNodesInFullViews = 64;
// What everybody says regularly is said less often where there are very many.
inline Time paced(Time interval, size_t nodes) {
  constexpr size_t kAtFullPace = 1024;
  return interval * static_cast<int64_t>(nodes > kAtFullPace ? nodes / kAtFullPace : 1);
}

// "GPU" -> indices of this node's devices.
using Devices = std::map<std::string, std::vector<uint32_t>>;

#define SHEAF_FIELDS(...) \
  template <class A>      \
  void fields(A& a) { a(__VA_ARGS__); }

// A spec that several messages share travels by value; what was read is never null.
template <class A>
void shared_spec_fields(A& a, std::shared_ptr<const protocol::ActorSpec>& spec) {
  if constexpr (std::is_same_v<A, wire::Writer>) {
    if (spec) a(*spec);
    else a(protocol::ActorSpec{});
  } else {
    auto own = std::make_shared<protocol::ActorSpec>();
    a(*own);
    spec = std::move(own);
  }
}

// ---- Controller to agent ------------------------------------------------------------------------

// Find a worker and resources for this incarnation; wait for them if need be. Answered by
// ActorAssigned, then maybe ActorLost; or by ActorPlaceFailed.
struct PlaceActor {
  ActorId actor;
  uint32_t incarnation = 0;
  JobId job = 0;
  std::shared_ptr<const protocol::ActorSpec> spec;
  bool job_ended = false;   // a detached actor that outlived its job
  uint32_t restarts = 0;    // of those that it may have: for the controller's next life
  template <class A>
  void fields(A& a) {
    a(actor, incarnation, job);
    shared_spec_fields(a, spec);
    a(job_ended, restarts);
  }
};
// The constructor has run: from creation resources to lifetime resources.
struct ActorRunning {
  ActorId actor;
  uint32_t incarnation = 0;
  SHEAF_FIELDS(actor, incarnation)
};
// Not wanted any more, wherever it stands. graceful: the worker finishes what it has. Answered by
// ActorLost once the worker is gone, if one had been assigned.
struct ReleaseActor {
  ActorId actor;
  uint32_t incarnation = 0;
  bool graceful = false;
  protocol::ErrorRecord cause;
  SHEAF_FIELDS(actor, incarnation, graceful, cause)
};
// If it still waits for a worker or resources, it is to go to another node: answered by
// ActorTakenBack, or not at all.
struct TakeBackActor {
  ActorId actor;
  uint32_t incarnation = 0;
  SHEAF_FIELDS(actor, incarnation)
};
struct BundleRequest {
  int32_t index = 0;
  protocol::ResourceMap resources;
  SHEAF_FIELDS(index, resources)
};
// All bundles or none; waits for resources that are in use. Answered by GroupReserved.
struct ReserveGroup {
  PlacementGroupId group;
  uint32_t attempt = 0;
  std::vector<BundleRequest> bundles;
  SHEAF_FIELDS(group, attempt, bundles)
};
// gone: the group is removed or was never known: requests that name it are refused, workers inside
// it killed. Otherwise only this reservation is given up (the controller plans again) and requests
// keep waiting.
struct ReleaseGroup {
  PlacementGroupId group;
  bool gone = true;
  std::vector<int32_t> bundles = {};   // not gone: only these are given up; empty: all
  SHEAF_FIELDS(group, gone, bundles)
};
// Leases, idle workers and requests of the job go; workers of detached actors stay.
struct EndJob {
  JobId job = 0;
  SHEAF_FIELDS(job)
};
// Comes before anything else about the job, to every node: when it is registered, and to a node
// that joins later. The daemon keeps the spec, for the workers that it starts, until ForgetJob.
struct JobStarted {
  JobId job = 0;
  protocol::RegisterJob spec;
  ProcessId driver = 0;
  SHEAF_FIELDS(job, spec, driver)
};
// The job has ended and no detached actor of it is left anywhere: its spec has no use any more.
struct ForgetJob {
  JobId job = 0;
  SHEAF_FIELDS(job)
};
struct NodeView {
  NodeId node;
  uint16_t number = 0, incarnation = 0;
  std::string address;            // of its fabric: "host:port"
  std::string hostname;
  protocol::ResourceMap total, available;
  protocol::Labels labels;
  bool draining = false;
  SHEAF_FIELDS(node, number, incarnation, address, hostname, total, available, labels, draining)
};
struct NodeLoad {
  uint16_t number = 0;
  protocol::ResourceMap available;
  SHEAF_FIELDS(number, available)
};
// What changed since the last one. The first that a node gets holds every live node, itself too.
// `nodes`: new ones, and those of which more than the load is new. Nodes leave by NodeGone. A node
// with nothing `available` at all is one whose load this node is not told.
struct ClusterView {
  std::vector<NodeView> nodes;
  std::vector<NodeLoad> loads;
  SHEAF_FIELDS(nodes, loads)
};
// That life of a node is dead: nothing of it is accepted any more. The daemon fails the peer and
// all that hangs on it, flushes what its stores and clients have to say, and then reports
// BarrierReached{barrier}.
struct NodeGone {
  NodeId node;
  uint16_t number = 0, incarnation = 0;
  protocol::ErrorRecord cause;
  uint64_t barrier = 0;
  SHEAF_FIELDS(node, number, incarnation, cause, barrier)
};
// All live nodes have reached it: only now may owners free objects that the dead one held.
struct BarrierClosed {
  uint64_t barrier = 0;
  uint16_t number = 0, incarnation = 0;   // of the dead node
  SHEAF_FIELDS(barrier, number, incarnation)
};
// Answer to AskGroup, once the group is there, and at every later change: the number of the node
// that holds each bundle, 0 while it is nowhere.
struct GroupPlaced {
  PlacementGroupId group;
  std::vector<uint16_t> nodes;
  SHEAF_FIELDS(group, nodes)
};
// No new grants, actors or groups on this node from now on.
struct DrainNode {
  bool drain = true;
  SHEAF_FIELDS(drain)
};
// A client's protocol::MessageType::kDrainNode: `sheaf node drain`.
struct DrainRequest {
  uint16_t number = 0;
  bool drain = true;
  SHEAF_FIELDS(number, drain)
};
struct NodeMessage
    : std::variant<PlaceActor, ActorRunning, ReleaseActor, ReserveGroup, ReleaseGroup, EndJob,
                   JobStarted, ForgetJob, ClusterView, NodeGone, BarrierClosed, GroupPlaced,
                   DrainNode, TakeBackActor> {
  SHEAF_VARIANT(NodeMessage)
};
std::string encode(const NodeMessage& message);
Result<NodeMessage> decode_node_message(wire::Bytes bytes);

// ---- Agent to controller ------------------------------------------------------------------------

struct ActorAssigned {
  ActorId actor;
  uint32_t incarnation = 0;
  ProcessId process = 0;
  SHEAF_FIELDS(actor, incarnation, process)
};
// The worker that served (or was to construct) this incarnation is dead.
struct ActorLost {
  ActorId actor;
  uint32_t incarnation = 0;
  protocol::ErrorRecord cause;
  SHEAF_FIELDS(actor, incarnation, cause)
};
// No worker can be had: its runtime environment cannot be set up, or the group it names is gone.
struct ActorPlaceFailed {
  ActorId actor;
  uint32_t incarnation = 0;
  protocol::ErrorRecord error;
  SHEAF_FIELDS(actor, incarnation, error)
};
struct ActorTakenBack {
  ActorId actor;
  uint32_t incarnation = 0;
  SHEAF_FIELDS(actor, incarnation)
};
// ok = false: this node can never hold these bundles as it is.
struct GroupReserved {
  PlacementGroupId group;
  uint32_t attempt = 0;
  bool ok = false;
  SHEAF_FIELDS(group, attempt, ok)
};
// A request names a group that this node knows nothing about: the controller answers
// ReleaseGroup{gone} if the group does not exist (any more), and nothing while it is pending.
struct AskGroup {
  PlacementGroupId group;
  SHEAF_FIELDS(group)
};
// Leases that a node's clients want and do not have. `apart`: on as many nodes as can be.
struct WantedRoom {
  protocol::ResourceMap resources;
  protocol::Labels hard_labels;
  uint32_t count = 0;             // about; a power of two
  bool apart = false;
  bool operator==(const WantedRoom&) const = default;
  SHEAF_FIELDS(resources, hard_labels, count, apart)
};
// The scheduler's view of the node: sent when it changed, at most every
// AgentConfig::report_interval. `wanted` and `named` (nodes that requests would go to first) say in
// a large cluster whose load this node has a use for; in a small one they are empty.
struct ReportResources {
  protocol::ResourceMap total;
  protocol::ResourceMap available;
  bool draining = false;
  std::vector<WantedRoom> wanted = {};
  std::vector<uint16_t> named = {};
  SHEAF_FIELDS(total, available, draining, wanted, named)
};
// Made by the daemon, not by its agent: see NodeGone.
struct BarrierReached {
  uint64_t barrier = 0;
  SHEAF_FIELDS(barrier)
};
// Made by the daemon: the members that it cannot reach, all of them, though it reaches the head.
// Said again while it lasts; nothing in it once they are all there again.
struct PeersSilent {
  std::vector<uint16_t> numbers;
  SHEAF_FIELDS(numbers)
};
// This node drains, and nothing is in these bundles any more: they are to go elsewhere.
struct BundlesLeft {
  PlacementGroupId group;
  uint32_t attempt = 0;           // the newest that reserved any of the group here
  std::vector<int32_t> bundles;
  SHEAF_FIELDS(group, attempt, bundles)
};
struct AgentReport
    : std::variant<ActorAssigned, ActorLost, ActorPlaceFailed, GroupReserved, AskGroup,
                   ReportResources, BarrierReached, ActorTakenBack, PeersSilent, BundlesLeft> {
  SHEAF_VARIANT(AgentReport)
};
std::string encode(const AgentReport& report);
Result<AgentReport> decode_agent_report(wire::Bytes bytes);

// ---- Joining ------------------------------------------------------------------------------------

// What a node brings along that registers again, after a restart of the controller. `running`: the
// worker has said ActorStarted{ok}, whether or not a controller heard it; a worker that has not yet
// says it to the controller of this life.
struct LiveActor {
  ActorId actor;
  uint32_t incarnation = 0;
  ProcessId process = 0;          // 0: it waits for a worker or resources
  JobId job = 0;
  bool running = false;
  std::shared_ptr<const protocol::ActorSpec> spec;
  uint32_t restarts = 0;          // as the controller said
  template <class A>
  void fields(A& a) {
    a(actor, incarnation, process, job, running);
    shared_spec_fields(a, spec);
    a(restarts);
  }
};
struct LiveGroup {
  PlacementGroupId group;
  uint32_t attempt = 0;
  std::vector<int32_t> bundles;
  SHEAF_FIELDS(group, attempt, bundles)
};
// An actor whose creation was acknowledged to a client of this node. `ran`: it was alive once;
// `restarts`: those seen here.
struct CreatedActor {
  std::shared_ptr<const protocol::ActorSpec> spec;
  bool ran = false;
  uint32_t restarts = 0;
  template <class A>
  void fields(A& a) {
    shared_spec_fields(a, spec);
    a(ran, restarts);
  }
};
// It left of its own will, and no controller may have heard it.
struct ExitedActor {
  ActorId actor;
  std::string reason;
  SHEAF_FIELDS(actor, reason)
};
struct LiveClient {
  ProcessId process = 0;
  protocol::ClientKind kind = protocol::ClientKind::kDriver;
  JobId job = 0;
  std::vector<ActorId> holds, watches;   // ActorHold counts above 0; ActorSubscribe
  std::vector<PlacementGroupId> watched_groups;
  std::vector<CreatedActor> created;   // not known to be dead
  std::vector<ActorId> ended;          // created by it and dead: the last ones
  int32_t pid = 0;
  SHEAF_FIELDS(process, kind, job, holds, watches, watched_groups, created, ended, pid)
};
// number 0: a node that has none asks for one; only `node` and `hostname` matter then. Otherwise
// the node becomes a member with what it says here, or, if it was one before the controller
// restarted, stays one.
struct NodeJoin {
  NodeId node;
  uint16_t number = 0, incarnation = 0;
  std::string hostname, address;
  protocol::ResourceMap total;
  protocol::Labels labels;
  std::vector<LiveActor> actors;
  std::vector<LiveGroup> groups;
  std::vector<LiveClient> clients;
  std::vector<JobStarted> jobs;   // whose specs it keeps
  std::vector<ExitedActor> exited;
  SHEAF_FIELDS(node, number, incarnation, hostname, address, total, labels, actors, groups,
               clients, jobs, exited)
};

#undef SHEAF_FIELDS

}  // namespace sheaf::scheduler
