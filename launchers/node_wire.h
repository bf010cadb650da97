// What the daemons of a cluster's nodes say to each other: the messages of the mesh.
//
// The scheduler's own (controller and agents) and the stores' travel inside kToAgent, kToController
// and kObjects as they encode themselves. Numbers travel on the wire: append only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/ids.h"
#include "core/status.h"
#include "scheduler/protocol.h"

namespace sheaf::launchers {

enum class NodeMessageType : uint16_t {
  // a node that has no number yet, and the head
  kAskNumber = 16,       // AskNumber
  kNumberGiven = 17,     // NumberGiven
  // member -> head
  kJoin = 18,            // scheduler::NodeJoin: here I am, and this is what I offer
  kHeartbeat = 19,       // Heartbeat
  kReport = 20,          // scheduler::AgentReport
  kClientJoined = 21,    // ClientCame
  kClientLeft = 22,      // ClientWent
  kControl = 23,         // ForwardedRequest: a client's message to the controller
  kDrain = 24,           // scheduler::DrainRequest
  // head -> member
  kRenewed = 30,         // Heartbeat, echoed
  kToAgent = 31,         // scheduler::NodeMessage
  kActorUpdate = 32,     // ForwardedUpdate
  kAccepted = 33,        // Accepted: the node is a member, its lease runs
  kRefused = 34,         // NumberGiven with the reason: the node ends
  // any -> any
  kToProcess = 40,       // ForProcess: for a client of that node
  kLeaseAsk = 41,        // scheduler::LeaseRequested
  kLeaseGrant = 42,      // ForwardedGrant
  kLeaseRefused = 43,    // ForwardedRefusal
  kLeaseReturn = 44,     // scheduler::LeaseReturned
  kProcessGone = 45,     // ClientWent
  kRecords = 46,         // RecordHead, bytes: what a process wrote on a relayed lane
  kObjects = 47,         // objstore::ObjectMessage
  kKill = 48,            // KillRemote
  kQuery = 49,           // ForwardedQuery
  kAnswer = 50,          // QueryAnswer
  kShutdown = 51,        // protocol::ShutdownCluster
  kHandTask = 52,        // HandedTask: to the node of the process that is to run it again
  kMakerGone = 53,       // ClientWent: the process of a HandedTask has died, or there was none
};

#define SHEAF_FIELDS(...) \
  template <class A>      \
  void fields(A& a) { a(__VA_ARGS__); }

// The node that the controller is on. The other nodes' numbers begin behind it.
inline constexpr uint16_t kHeadNumber = 1;
inline constexpr uint32_t kNodeWireVersion = 2;

struct AskNumber {
  uint32_t version = kNodeWireVersion;
  NodeId node;
  std::string hostname, sheaf_version;
  SHEAF_FIELDS(version, node, hostname, sheaf_version)
};
struct NumberGiven {
  StatusCode code = StatusCode::kOk;
  std::string message;
  uint16_t number = 0, incarnation = 0;
  uint16_t head = 0, head_incarnation = 0;
  uint64_t cluster = 0;  // SockFabricOptions::cluster
  SHEAF_FIELDS(code, message, number, incarnation, head, head_incarnation, cluster)
};
// The sender's own clock, in nanoseconds; the receiver gives it back as it is.
struct Heartbeat {
  int64_t sent_at = 0;
  SHEAF_FIELDS(sent_at)
};
struct Accepted {
  int64_t lease_ns = 0;
  SHEAF_FIELDS(lease_ns)
};
struct ClientCame {
  ProcessId process = 0;
  protocol::ClientKind kind = protocol::ClientKind::kDriver;
  JobId job = 0;
  int32_t pid = 0;
  SHEAF_FIELDS(process, kind, job, pid)
};
struct ClientWent {
  ProcessId process = 0;
  protocol::ErrorRecord cause;
  SHEAF_FIELDS(process, cause)
};
struct ForwardedRequest {
  ProcessId process = 0;
  uint64_t request = 0;
  uint16_t type = 0;  // protocol::MessageType
  std::string body;
  SHEAF_FIELDS(process, request, type, body)
};
struct ForProcess {
  ProcessId process = 0;
  uint16_t type = 0;  // protocol::MessageType
  std::string payload;  // with its Envelope
  SHEAF_FIELDS(process, type, payload)
};
struct ForwardedUpdate {
  ProcessId process = 0;
  protocol::ActorUpdate update;
  SHEAF_FIELDS(process, update)
};
struct ForwardedRefusal {
  ProcessId client = 0;
  uint32_t class_id = 0;
  protocol::ErrorRecord error;
  SHEAF_FIELDS(client, class_id, error)
};
struct ForwardedGrant {
  ProcessId client = 0;
  uint32_t class_id = 0;
  uint64_t lease = 0;
  ProcessId worker = 0;
  std::map<std::string, std::vector<uint32_t>> devices;
  SHEAF_FIELDS(client, class_id, lease, worker, devices)
};
// `more`: the record goes on in the next message of this pair.
struct RecordHead {
  ProcessId from = 0, to = 0;
  uint16_t type = 0;
  uint8_t flags = 0;
  bool more = false;
  SHEAF_FIELDS(from, to, type, flags, more)
};
struct KillRemote {
  ProcessId asker = 0;
  uint64_t request = 0;
  JobId job = 0;
  ProcessId target = 0;
  SHEAF_FIELDS(asker, request, job, target)
};
// `maker`: a process of the receiver's node, or its daemon, which chooses one of the job.
struct HandedTask {
  ProcessId maker = 0;
  JobId job = 0;
  protocol::TaskLineage task;
  SHEAF_FIELDS(maker, job, task)
};
struct ForwardedQuery {
  uint64_t ticket = 0;
  protocol::StateQuery query;
  SHEAF_FIELDS(ticket, query)
};
struct QueryAnswer {
  uint64_t ticket = 0;
  StatusCode code = StatusCode::kOk;
  protocol::StateReply reply;
  SHEAF_FIELDS(ticket, code, reply)
};

#undef SHEAF_FIELDS

}  // namespace sheaf::launchers
