// The control protocol: every message between a client process (driver, worker, command line) and its node daemon.
//
// After the handshake on a unix socket (Hello, Welcome) all of it travels over the client's lane 0. A message's lane
// type is its MessageType; its payload is an Envelope followed by the struct. A request carries a non-zero
// `request`, and its answer is a kReply with the same number: a Status, then the reply struct. One-way messages have
// request 0. FIFO per direction. Unknown types and undecodable payloads end that client's session, nobody else's.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/ids.h"
#include "core/status.h"
#include "core/wire.h"
#include "objstore/locator.h"
#include "transport/lane.h"

namespace sheaf::protocol {

inline constexpr uint32_t kMagic = 0x53484641;   // "SHFA"
inline constexpr uint16_t kVersion = 1;

#define SHEAF_FIELDS(...) \
  template <class A>      \
  void fields(A& a) { a(__VA_ARGS__); }

// ---- Common values -------------------------------------------------------------------------------------------------

// Amounts in fixed point: 1/10000 of a unit, as fractional GPUs and CPUs are common and doubles do not add up.
using ResourceAmount = int64_t;
inline constexpr ResourceAmount kResourceUnit = 10000;
using ResourceMap = std::map<std::string, ResourceAmount>;   // "CPU", "GPU", "memory" (bytes), custom names
using Labels = std::map<std::string, std::string>;

enum class StrategyKind : uint8_t { kDefault = 0, kSpread = 1, kNodeAffinity = 2, kNodeLabel = 3, kPlacementGroup = 4 };
struct Strategy {
  StrategyKind kind = StrategyKind::kDefault;
  std::string node;                  // hex NodeId, for kNodeAffinity
  bool soft = false;
  Labels hard_labels, soft_labels;   // value syntax as Ray's label_selector: "v", "!v", "in(a,b)", "!in(a,b)"
  PlacementGroupId group;
  int32_t bundle = -1;               // -1: any
  bool capture_child_tasks = false;
  SHEAF_FIELDS(kind, node, soft, hard_labels, soft_labels, group, bundle, capture_child_tasks)
  bool operator==(const Strategy&) const = default;
};

// What kind of worker a task needs. Equal classes share leases and workers.
struct SchedulingClass {
  ResourceMap resources;
  Strategy strategy;
  std::string runtime_env;           // canonical JSON; "" = the job's
  std::string language = "python";   // "python", or "cpp:<path of the user's shared library>"
  SHEAF_FIELDS(resources, strategy, runtime_env, language)
  bool operator==(const SchedulingClass&) const = default;
};

// Why something ended. Also travels inside stored values (see runtime/value.h).
enum class ErrorKind : uint8_t {
  kNone = 0,
  kUserException = 1,         // payload: language-encoded exception
  kWorkerCrashed = 2,
  kActorDied = 3,
  kActorUnavailable = 4,      // restarting; the call may have been executed
  kCancelled = 5,
  kObjectLost = 6,
  kOwnerDied = 7,
  kObjectFreed = 8,
  kOutOfMemory = 9,
  kObjectStoreFull = 10,
  kOutOfDisk = 11,
  kRuntimeEnvSetup = 12,
  kUnschedulable = 13,
  kPlacementGroupRemoved = 14,
  kPendingCallsLimit = 15,
  kSystem = 16,
  kActorPlacementGroupRemoved = 17,
  kNodeDied = 18,
};
struct ErrorRecord {
  ErrorKind kind = ErrorKind::kNone;
  std::string message;   // for people
  std::string payload;   // kUserException: what the worker's language wrote; kActorDied from a constructor: likewise
  ActorId actor;
  SHEAF_FIELDS(kind, message, payload, actor)
};

// How a value is at hand. kInline: `bytes`. kArena: `locator`. kError: `bytes` is an encoded ErrorRecord.
using objstore::ValueState;

// ---- Handshake (SOCK_SEQPACKET; fds by SCM_RIGHTS) -------------------------------------------------------------------

enum class ClientKind : uint8_t { kDriver = 0, kWorker = 1, kTool = 2 };   // tools: command line, read mostly
struct Hello {
  uint32_t magic = kMagic;
  uint16_t version = kVersion;
  ClientKind kind = ClientKind::kDriver;
  int32_t pid = 0;
  uint64_t spawn_token = 0;      // workers: given at the fork request, so that the daemon knows which one this is
  SHEAF_FIELDS(magic, version, kind, pid, spawn_token)
};
struct Welcome {
  StatusCode code = StatusCode::kOk;
  std::string message;
  ProcessId process = 0;
  uint16_t node = 0;
  uint16_t incarnation = 0;
  NodeId node_id;
  JobId job = 0;                       // workers: the job they serve
  std::string session_dir;
  transport::RegionOffset bell = 0;    // this process's BellBlock
  transport::LaneInfo daemon_lane;     // lane 0
  transport::RegionOffset pin_table = 0;   // objstore/pins.h
  uint32_t pin_slots = 0;
  uint64_t arena_bytes = 0;
  std::string arena_backing;           // "huge-tmpfs", "memfd-thp", "hugetlb", "memfd"
  transport::RegionOffset death_lock = 0;  // launchers/death_lock.h: taken by the main thread
  std::map<std::string, std::string> config;   // the cluster's effective configuration
  // Descriptors that come with it, in order: lane region (rw), arena (rw).
  SHEAF_FIELDS(code, message, process, node, incarnation, node_id, job, session_dir, bell, daemon_lane, pin_table,
               pin_slots, arena_bytes, arena_backing, death_lock, config)
};

struct Envelope {
  uint64_t request = 0;
  SHEAF_FIELDS(request)
};

// Numbers travel on the wire: append only. Ranges: 0x100 client -> daemon, 0x200 daemon -> client.
enum class MessageType : uint16_t {
  // requests (R) and one-way messages (-), client -> daemon
  kRegisterJob = 0x100,      // R
  kKvPut = 0x101,            // R
  kKvGet = 0x102,            // R
  kKvDelete = 0x103,         // R
  kKvKeys = 0x104,           // R
  kLeaseRequest = 0x110,     // -
  kLeaseReturn = 0x111,      // -
  kBlocked = 0x112,          // -  this worker waits in get(): lend its CPUs
  kUnblocked = 0x113,        // -
  kKillProcess = 0x114,      // R  force-cancel: kill -9 a worker of this job
  kActorCreate = 0x120,      // R
  kActorSubscribe = 0x121,   // -  answered by kActorUpdate now and at each change
  kActorHold = 0x122,        // -  handle counts
  kActorKill = 0x123,        // R
  kActorLookup = 0x124,      // R
  kActorNames = 0x125,       // R
  kActorStarted = 0x126,     // -  worker: the constructor has run
  kActorExiting = 0x127,     // -  worker: exit_actor() or graceful end
  kExtentAlloc = 0x130,      // R  may wait for space up to `wait_ms`
  kSlabLease = 0x131,        // R
  kObjectSeal = 0x132,       // -
  kObjectPublish = 0x133,    // -
  kHold = 0x134,             // -
  kObjectSubscribe = 0x135,  // -  answered by kObjectReady for each id, now or later
  kObjectFree = 0x136,       // R
  kObjectReplicate = 0x138,  // -
  kExtentAbort = 0x137,      // -
  kGroupCreate = 0x140,      // R
  kGroupRemove = 0x141,      // R
  kGroupSubscribe = 0x142,   // -  answered by kGroupUpdate
  kStateQuery = 0x150,       // R
  kMetricsPush = 0x151,      // -
  kTaskEvents = 0x152,       // -
  kShutdownCluster = 0x153,  // R
  kDrainNode = 0x154,        // R

  // daemon -> client, one-way
  kReply = 0x200,
  kLeaseGrant = 0x201,
  kLeaseRecall = 0x202,      // return this lease when its tasks in flight are done: others wait
  kLeaseRefused = 0x203,
  kLaneOpen = 0x204,         // a peer will talk to you on this lane; always precedes its first message
  kPeerDown = 0x205,
  kActorUpdate = 0x206,
  kActorStart = 0x207,       // worker: become this actor
  kObjectReady = 0x208,
  kGroupUpdate = 0x209,
  kLogLines = 0x20a,         // drivers
  kWarning = 0x20b,          // drivers: a sentence for stderr
  kExit = 0x20c,             // workers: finish what runs, then leave
  kFlushRequest = 0x20d,     // send kTaskEvents and kMetricsPush now, then kReply's twin: kFlushDone
  kFlushDone = 0x155,        // -  client -> daemon
  kCancelTask = 0x156,       // -  client -> daemon, for a task that another process submitted
  kTaskLineage = 0x157,      // -  client -> daemon: TaskLineage, before a reference to its returns leaves
  kObjectMade = 0x158,       // -  client -> daemon: ObjectPublish, the result of an AdoptTask; counts no hold
  kCancelRequest = 0x20e,    // -  daemon -> client: CancelTask of a task of yours
  kAdoptTask = 0x20f,        // -  daemon -> client: TaskLineage of a process of your job; run it, publish its returns
};

struct ReplyHead {
  StatusCode code = StatusCode::kOk;
  std::string message;
  SHEAF_FIELDS(code, message)
};

// ---- Jobs, key-value -------------------------------------------------------------------------------------------------

struct RegisterJob {
  std::string name_space;
  std::string entrypoint;                        // for people: the script's command line
  std::string cwd;
  std::vector<std::string> sys_path;
  std::map<std::string, std::string> env;        // the driver's environment, applied to its workers
  std::string runtime_env;                       // canonical JSON, "" = none
  std::string metadata;                          // JSON object
  bool log_to_driver = true;
  std::string python;                            // the driver's interpreter
  SHEAF_FIELDS(name_space, entrypoint, cwd, sys_path, env, runtime_env, metadata, log_to_driver, python)
};
struct RegisterJobReply { JobId job = 0; std::string name_space; SHEAF_FIELDS(job, name_space) };

// Spaces: "fn" functions and classes by hash, "user" internal_kv, "pkg" runtime_env packages, "serve", ...
struct KvPut { std::string space, key, value; bool overwrite = true; SHEAF_FIELDS(space, key, value, overwrite) };
struct KvPutReply { bool added = false; SHEAF_FIELDS(added) };
struct KvGet { std::string space, key; uint32_t wait_ms = 0; SHEAF_FIELDS(space, key, wait_ms) };
struct KvGetReply { std::optional<std::string> value; SHEAF_FIELDS(value) };
struct KvDelete { std::string space, key; bool by_prefix = false; SHEAF_FIELDS(space, key, by_prefix) };
struct KvDeleteReply { uint32_t deleted = 0; SHEAF_FIELDS(deleted) };
struct KvKeys { std::string space, prefix; SHEAF_FIELDS(space, prefix) };
struct KvKeysReply { std::vector<std::string> keys; SHEAF_FIELDS(keys) };

// ---- Leases ------------------------------------------------------------------------------------------------------------

// Level-triggered: replaces what this client asked for this class before. backlog 0 = nothing more is wanted.
// `class_id` is the client's own number; the class travels each time (it is small, and the daemon keeps no state
// between requests). The daemon grants up to min(backlog, what fits).
struct LeaseRequest {
  uint32_t class_id = 0;
  SchedulingClass spec;
  uint32_t backlog = 0;
  std::map<uint16_t, uint64_t> bytes_at;  // of the waiting tasks' arguments, by node number: where they would run best
  SHEAF_FIELDS(class_id, spec, backlog, bytes_at)
};
struct LeaseGrant {
  uint32_t class_id = 0;
  uint64_t lease = 0;
  ProcessId worker = 0;
  transport::LaneInfo lane;               // tasks out, replies in
  std::map<std::string, std::vector<uint32_t>> devices;   // "GPU" -> indices, told to the worker with the first task
  SHEAF_FIELDS(class_id, lease, worker, lane, devices)
};
// `worker_exits`: the worker leaves by itself (max_calls); do not lease it again.
struct LeaseReturn { uint64_t lease = 0; bool worker_exits = false; SHEAF_FIELDS(lease, worker_exits) };
struct LeaseRecall { uint64_t lease = 0; SHEAF_FIELDS(lease) };
struct LeaseRefused { uint32_t class_id = 0; ErrorRecord error; SHEAF_FIELDS(class_id, error) };
struct Blocked { SHEAF_FIELDS() };
struct KillProcess { ProcessId process = 0; SHEAF_FIELDS(process) };
// Cancels the task of this return object. From any process to its daemon, and from there to the process that
// submitted it, which alone knows where the task is.
struct CancelTask { ObjectId id; bool force = false, recursive = true; SHEAF_FIELDS(id, force, recursive) };

struct LaneOpen { ProcessId process = 0; ClientKind kind = ClientKind::kDriver; transport::LaneInfo lane; SHEAF_FIELDS(process, kind, lane) };
struct PeerDown { ProcessId process = 0; ErrorRecord cause; SHEAF_FIELDS(process, cause) };

// ---- Actors --------------------------------------------------------------------------------------------------------------

struct ActorSpec {
  ActorId actor;
  std::string name, name_space;          // name "" = anonymous
  std::string class_name;                // for people
  bool detached = false;
  bool get_if_exists = false;
  SchedulingClass placement;             // resources held for the actor's lifetime
  ResourceMap creation_resources;        // needed to place it, given back once it runs (Ray: 1 CPU when none is named)
  int32_t max_restarts = 0;              // -1: for ever
  int32_t max_task_retries = 0;
  uint32_t max_concurrency = 1;
  bool is_async = false;
  bool out_of_order = false;
  std::map<std::string, uint32_t> concurrency_groups;
  std::string creation_task;             // runtime/task_wire.h: the constructor call, dependencies resolved
  std::vector<ObjectId> holds;           // objects that the creation task refers to, kept while it can be re-run
  std::string handle;                    // opaque to the daemon: what get_actor() returns to the caller's language
  SHEAF_FIELDS(actor, name, name_space, class_name, detached, get_if_exists, placement, creation_resources,
               max_restarts, max_task_retries, max_concurrency, is_async, out_of_order, concurrency_groups,
               creation_task, holds, handle)
};
// `existing` is set, with its handle, when get_if_exists found one. kAlreadyExists when the name is taken.
struct ActorCreate { ActorSpec spec; SHEAF_FIELDS(spec) };
struct ActorCreateReply { std::optional<ActorId> existing; std::string handle; SHEAF_FIELDS(existing, handle) };

enum class ActorState : uint8_t { kPending = 0, kAlive = 1, kRestarting = 2, kDead = 3 };
struct ActorSubscribe { ActorId actor; SHEAF_FIELDS(actor) };
struct ActorUpdate {
  ActorId actor;
  ActorState state = ActorState::kPending;
  uint32_t incarnation = 0;
  ProcessId process = 0;
  transport::LaneInfo lane;              // kAlive: made for this subscriber
  ErrorRecord cause;                     // kDead, kRestarting
  SHEAF_FIELDS(actor, state, incarnation, process, lane, cause)
};
// +1 at a process's first handle, -1 at its last. An actor that is not detached and has no holder ends gracefully.
struct ActorHold { ActorId actor; int32_t delta = 0; SHEAF_FIELDS(actor, delta) };
struct ActorKill { ActorId actor; bool no_restart = true; SHEAF_FIELDS(actor, no_restart) };
struct ActorLookup { std::string name, name_space; SHEAF_FIELDS(name, name_space) };
struct ActorLookupReply { ActorId actor; std::string handle; SHEAF_FIELDS(actor, handle) };
struct ActorNames { bool all_namespaces = false; std::string name_space; SHEAF_FIELDS(all_namespaces, name_space) };
struct ActorNamesReply { std::vector<std::pair<std::string, std::string>> names; SHEAF_FIELDS(names) };   // {namespace, name}
struct ActorStart { ActorSpec spec; uint32_t incarnation = 0; JobId job = 0; std::map<std::string, std::vector<uint32_t>> devices; SHEAF_FIELDS(spec, incarnation, job, devices) };
struct ActorStarted { ActorId actor; uint32_t incarnation = 0; bool ok = false; ErrorRecord error; SHEAF_FIELDS(actor, incarnation, ok, error) };
struct ActorExiting { ActorId actor; uint32_t incarnation = 0; bool intended = true; std::string reason; SHEAF_FIELDS(actor, incarnation, intended, reason) };
struct Exit { bool graceful = true; std::string reason; SHEAF_FIELDS(graceful, reason) };

// ---- Objects ---------------------------------------------------------------------------------------------------------------

struct ExtentAlloc { uint64_t payload_bytes = 0; uint32_t wait_ms = 0; SHEAF_FIELDS(payload_bytes, wait_ms) };
struct ExtentAllocReply { objstore::Locator locator; SHEAF_FIELDS(locator) };   // not sealed yet; header unwritten
struct ExtentAbort { objstore::Locator locator; SHEAF_FIELDS(locator) };
struct SlabLease { SHEAF_FIELDS() };
struct SlabLeaseReply { uint64_t offset = 0, length = 0; uint32_t generation = 0; SHEAF_FIELDS(offset, length, generation) };
// The bytes at `locator` are object `id`. `holder` gets the first hold (0 = the sender). `contained`: references
// inside the value; the object holds them while it lives.
struct ObjectSeal {
  ObjectId id;
  objstore::Locator locator;
  ProcessId holder = 0;
  std::vector<ObjectId> contained;
  SHEAF_FIELDS(id, locator, holder, contained)
};
// Makes an object of the sender known to the node, because a reference to it is about to leave the process. The sender
// holds it. Sent as kPending first if it has no value yet, and again when it has.
struct ObjectPublish {
  ObjectId id;
  ValueState state = ValueState::kPending;
  std::string bytes;                     // kInline, kError
  std::vector<ObjectId> contained;
  SHEAF_FIELDS(id, state, bytes, contained)
};
// Process-level hold counts, signed. `process` 0 = the sender; another one = a hold made on its behalf, before a
// reference is handed to it. Counts may pass through negative values on their way: the daemon decides about an
// object only after it has drained every lane once more.
struct Hold { ProcessId process = 0; std::vector<ObjectId> add, drop; SHEAF_FIELDS(process, add, drop) };
// `where`: what the asker knows of places on other nodes, for the first of `ids` (nil locators: nothing).
struct ObjectSubscribe {
  std::vector<ObjectId> ids;
  bool restore = true;
  std::vector<objstore::Locator> where;
  SHEAF_FIELDS(ids, restore, where)
};
struct ObjectReady {
  ObjectId id;
  ValueState state = ValueState::kPending;
  std::string bytes;
  objstore::Locator locator;
  SHEAF_FIELDS(id, state, bytes, locator)
};
// A task that others of the job can run again when its submitter is gone and its returns are lost. `task` is the
// runtime's. `arguments`: every object that it refers to; held while any of `returns` is. `runs_left` -1: no limit.
struct TaskLineage {
  std::vector<ObjectId> returns, arguments;
  int32_t runs_left = 0;
  std::string task;
  SHEAF_FIELDS(returns, arguments, runs_left, task)
};
struct ObjectFree { std::vector<ObjectId> ids; SHEAF_FIELDS(ids) };
// Keep the bytes on so many other nodes too, as long as there are so many. For objects of the sender.
struct ObjectReplicate { ObjectId id; uint32_t copies = 0; SHEAF_FIELDS(id, copies) };

// ---- Placement groups ------------------------------------------------------------------------------------------------------

enum class GroupStrategy : uint8_t { kPack = 0, kSpread = 1, kStrictPack = 2, kStrictSpread = 3 };
enum class GroupState : uint8_t { kPending = 0, kCreated = 1, kRemoved = 2, kRescheduling = 3 };
struct GroupCreate {
  PlacementGroupId group;
  std::vector<ResourceMap> bundles;
  std::vector<Labels> bundle_labels;
  GroupStrategy strategy = GroupStrategy::kPack;
  std::string name, name_space;
  bool detached = false;
  SHEAF_FIELDS(group, bundles, bundle_labels, strategy, name, name_space, detached)
};
struct GroupRemove { PlacementGroupId group; SHEAF_FIELDS(group) };
struct GroupSubscribe { PlacementGroupId group; SHEAF_FIELDS(group) };
struct GroupUpdate { PlacementGroupId group; GroupState state = GroupState::kPending; SHEAF_FIELDS(group, state) };

// ---- Observation -------------------------------------------------------------------------------------------------------------

// what: nodes, actors, tasks, objects, workers, jobs, placement_groups, cluster_resources, available_resources, config,
// metrics (Prometheus text), pins, logs, runtime_envs, cluster_events. The reply is JSON except for metrics.
struct StateQuery { std::string what; std::map<std::string, std::string> filters; uint32_t limit = 10000; SHEAF_FIELDS(what, filters, limit) };
struct StateReply { std::string text; bool truncated = false; SHEAF_FIELDS(text, truncated) };
struct MetricSample { std::string name, help; uint8_t kind = 0; std::map<std::string, std::string> tags; double value = 0; std::vector<double> bounds, counts; SHEAF_FIELDS(name, help, kind, tags, value, bounds, counts) };
struct MetricsPush { std::vector<MetricSample> samples; SHEAF_FIELDS(samples) };
enum class TaskEventState : uint8_t { kSubmitted = 0, kRunning = 1, kFinished = 2, kFailed = 3 };
struct TaskEvent {
  TaskId task;
  TaskEventState state = TaskEventState::kSubmitted;
  uint8_t kind = 0;                      // 0 task, 1 actor creation, 2 actor method
  uint16_t attempt = 0;
  int64_t start_ns = 0, end_ns = 0;      // wall clock, for people
  ActorId actor;
  std::string name, error;               // error: type name
  SHEAF_FIELDS(task, state, kind, attempt, start_ns, end_ns, actor, name, error)
};
struct TaskEvents { std::vector<TaskEvent> events; uint64_t dropped = 0; SHEAF_FIELDS(events, dropped) };
struct LogLine { int32_t pid = 0; bool is_stderr = false; std::string name, text; SHEAF_FIELDS(pid, is_stderr, name, text) };
struct LogLines { std::vector<LogLine> lines; SHEAF_FIELDS(lines) };
struct Warning { std::string text; SHEAF_FIELDS(text) };
struct FlushRequest { uint64_t ticket = 0; SHEAF_FIELDS(ticket) };
struct ShutdownCluster { std::string reason; SHEAF_FIELDS(reason) };

#undef SHEAF_FIELDS

}  // namespace sheaf::protocol
