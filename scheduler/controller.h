// The controller: jobs, actors, placement groups, key-value and membership of the cluster, as a
// pure state machine.
//
// handle(event, now) returns the actions to perform, in order. No I/O, clock, randomness or
// threads. A write that must survive the daemon is answered only after its journal record is
// durable: the controller keeps the reply back until JournalSynced. Journaled: key-value (all
// spaces; "fn" without waiting for clients of this node, as an earlier record is durable whenever a
// later one is), jobs (without waiting), detached actors, placement groups (only detached ones are
// waited for) and deaths of nodes until all others have heard of them. Actors that die with their
// driver are not journaled: their creators' nodes bring them along. One incarnation of an actor has
// authority at any time; messages of others are dropped. Nodes get numbers that are never used
// again while the journal lives; the head's own is 1. A node that is silent for its lease is
// declared dead, and nothing of that life is accepted any more. Owned by the head daemon's loop.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/variant.h"
#include "scheduler/journal.h"
#include "scheduler/node_messages.h"
#include "scheduler/protocol.h"
#include "scheduler/resources.h"

namespace sheaf::scheduler {

struct ControllerConfig {
  Time holder_grace = std::chrono::milliseconds(50);   // an actor that nobody holds ends after this
  // a reservation on several nodes is planned anew after this
  Time group_retry = std::chrono::seconds(1);
  Time warn_interval = std::chrono::seconds(30);
  // until then a boot number that found no room on disk waits
  Time boot_retry = std::chrono::milliseconds(500);
  // NodeLeaseConfig. Two members that cannot reach each other for so long are one too many.
  Time lease_time = std::chrono::seconds(3);
  Time view_interval = std::chrono::milliseconds(100);   // of ClusterViews, at least
  // Names the journal, if it has no name yet: what tells one cluster from the next at this address.
  // 0: nobody needs it.
  uint64_t cluster = 0;
  size_t dead_actors_kept = 10000;                     // so that late subscribers learn the cause
  size_t dead_groups_kept = 10000;
};

// ---- Events -------------------------------------------------------------------------------------

// A message of a client. `request` 0: one-way.
template <class Message>
struct From {
  ProcessId process = 0;
  uint64_t request = 0;
  Message message;
};
// Before the process's first message. Workers come with the job they serve.
struct ClientJoined {
  ProcessId process = 0;
  protocol::ClientKind kind = protocol::ClientKind::kDriver;
  JobId job = 0;
};
// Drivers: their job ends. Everyone: handle counts, subscriptions and waits are dropped.
struct ClientLeft {
  ProcessId process = 0;
  protocol::ErrorRecord cause;
};
// The head's own node, which is in this process: no lease, no handshake.
struct NodeJoined {
  NodeId node;
  ResourceMap total;
  Labels labels;
  std::string hostname = {}, address = {};
  uint16_t number = 1;
  uint16_t incarnation = 0;      // 0: boot()
};
// Answered by NodeAccepted or NodeRefused, at once or when the number is durable. See NodeJoin for
// the two that a node sends. Repeating it is harmless.
struct NodeAsks { NodeJoin join; };
// Of a member; RenewLease answers it. Dead lives get no answer.
struct NodeHeartbeat {
  uint16_t number = 0, incarnation = 0;
  Time sent_at{0};               // the node's clock
};
// A death that is proved: the daemon's process is gone. Silence is the controller's to notice. Also
// of one of expected() after a restart: it is not waited for.
struct NodeLost {
  NodeId node;
  protocol::ErrorRecord cause;
};
// `sheaf node drain`. Unknown numbers are ignored.
struct DrainAsked {
  uint16_t number = 0;
  bool drain = true;
};
// The cluster ends: nobody may join any more.
struct ClusterClosing {};
struct FromNode {
  NodeId node;
  AgentReport report;
};
// As JournalCompletion: failed ones first, then durable.
struct JournalSynced { JournalCompletion completion; };
struct ControllerTick {};

struct ControllerEvent
    : std::variant<From<protocol::RegisterJob>, From<protocol::KvPut>, From<protocol::KvGet>,
                   From<protocol::KvDelete>, From<protocol::KvKeys>, From<protocol::ActorCreate>,
                   From<protocol::ActorSubscribe>, From<protocol::ActorHold>,
                   From<protocol::ActorKill>, From<protocol::ActorLookup>,
                   From<protocol::ActorNames>, From<protocol::ActorStarted>,
                   From<protocol::ActorExiting>, From<protocol::GroupCreate>,
                   From<protocol::GroupRemove>, From<protocol::GroupSubscribe>, ClientJoined,
                   ClientLeft, NodeJoined, NodeAsks, NodeHeartbeat, NodeLost, DrainAsked,
                   ClusterClosing, FromNode, JournalSynced, ControllerTick> {
  SHEAF_VARIANT(ControllerEvent)
};

// ---- Actions ------------------------------------------------------------------------------------

// Journal::append(sequence, records).
struct AppendJournal {
  uint64_t sequence = 0;
  std::vector<JournalRecord> records;
};
// kReply: Envelope{request}, ReplyHead{code, message}, then `payload` (an encoded reply struct, or
// empty).
struct Reply {
  ProcessId process = 0;
  uint64_t request = 0;
  StatusCode code = StatusCode::kOk;
  std::string message;
  std::string payload;
};
struct ToNode {
  NodeId node;
  NodeMessage message;
  uint16_t number = 0;
};
// To the node that asked. member: its join is complete and it has a lease; else it has its number
// now, and joins with what it has to offer.
struct NodeAccepted {
  NodeId node;
  uint16_t number = 0, incarnation = 0;
  bool member = false;
};
// kAlreadyExists, kPermissionDenied (that life was declared dead: start anew), kDisconnected (the
// cluster is closing), kInvalidArgument.
struct NodeRefused {
  NodeId node;
  Status status;
  uint16_t number = 0, incarnation = 0;
};
struct RenewLease {
  NodeId node;
  uint16_t number = 0, incarnation = 0;
  Time sent_at{0};
};
// That life is dead: the fabric forgets the peer and accepts nothing of it any more. Comes before
// the NodeGone messages that tell everybody.
struct FenceNode {
  NodeId node;
  uint16_t number = 0, incarnation = 0;
  protocol::ErrorRecord cause;
};
// `update.lane` is empty: the daemon makes the lane of subscriber and worker when the state is
// kAlive.
struct PushActorUpdate {
  ProcessId process = 0;
  protocol::ActorUpdate update;
};
struct PushGroupUpdate {
  ProcessId process = 0;
  protocol::GroupUpdate update;
};
// For people, on the standard error of the job's driver.
struct WarnJob {
  JobId job = 0;
  std::string text;
};
// The creation task's objects (ActorSpec::holds): hold them from Accepted until Gone.
struct ActorAccepted { std::shared_ptr<const protocol::ActorSpec> spec; };
struct ActorGone { std::shared_ptr<const protocol::ActorSpec> spec; };
// The job has ended; its workers are told to go by the agents.
struct JobFinished { JobId job = 0; };

struct ControllerAction
    : std::variant<AppendJournal, Reply, ToNode, PushActorUpdate, PushGroupUpdate, WarnJob,
                   ActorAccepted, ActorGone, JobFinished, NodeAccepted, NodeRefused, RenewLease,
                   FenceNode> {
  SHEAF_VARIANT(ControllerAction)
};
using ControllerActions = std::vector<ControllerAction>;

// ---- State, open to reading ---------------------------------------------------------------------

struct JobInfo {
  JobId job = 0;
  ProcessId driver = 0;              // 0 once it has ended
  protocol::RegisterJob spec;        // name_space filled in
  Time started{0}, ended{0};
  bool alive = false;
};
struct ActorInfo {
  std::shared_ptr<const protocol::ActorSpec> spec;   // name_space filled in
  JobId job = 0;
  protocol::ActorState state = protocol::ActorState::kPending;
  uint32_t incarnation = 0;
  NodeId node;                       // nil: not placed yet
  ProcessId process = 0;             // of this incarnation, once assigned
  uint32_t restarts = 0;
  std::set<ProcessId> holders;       // processes with a handle; its creator has the first
  std::set<ProcessId> subscribers;
  protocol::ErrorRecord cause;       // kDead, kRestarting
  uint64_t journal_pending = 0;      // its creation is not durable yet: unknown to others
  bool counted = false;              // in its node's `actors`
  bool asked_back = false;           // TakeBackActor is on its way
  bool ending = false;               // intended exit under way: the next loss is final
  bool ran = false;                  // was alive once: it has a state that can be lost
  std::optional<Time> unheld_since;
  Time next_warning{0};
};
struct GroupInfo {
  protocol::GroupCreate spec;        // name_space filled in
  JobId job = 0;
  ProcessId creator = 0;
  protocol::GroupState state = protocol::GroupState::kPending;
  std::vector<NodeId> placed;        // by bundle; nil: nowhere
  std::set<size_t> settling;         // bundles of the attempt under way; the others stay
  std::set<NodeId> awaiting;         // GroupReserved still to come
  std::set<NodeId> watchers;         // nodes that have asked where it is
  uint32_t attempt = 0;
  Time attempt_started{0};
  Time next_warning{0};
  uint64_t journal_pending = 0;
  std::set<ProcessId> subscribers;
  std::set<ActorId> actors;          // that live or wait inside it
};
struct NodeInfo {
  NodeId node;
  ResourceMap total, reported;       // reported: what the node says is free
  ResourceMap available;             // less what was placed there since
  Labels labels;
  uint16_t number = 0, incarnation = 0;
  std::string hostname, address;
  bool draining = false;
  bool local = false;                // the head's own: never expires
  Time heard{0};                     // last sign of life
  std::set<ActorId> placing;         // sent there, no worker yet
  uint32_t actors = 0;               // sent there, or alive there
  // It is to stop, and why: its lease is not renewed any more.
  std::optional<protocol::ErrorRecord> condemned;
  // In a large cluster: what it looks for, and whose load it knows.
  std::vector<WantedRoom> wanted;
  std::vector<uint16_t> named;
  std::set<uint16_t> told;
};
// Its number has been given out, and it has not joined yet; or it was a member before a restart.
struct ExpectedNode {
  NodeId node;
  uint16_t number = 0, incarnation = 0;
  std::string hostname;
  uint64_t journal_pending = 0;
  Time since{0};
  bool dead = false;                 // declared so, and maybe not everybody has heard of it
  std::string address = {};          // where it listens, once it was a member
  template <class A>
  void fields(A& a) {
    a(node, number, incarnation, hostname, dead, address);
  }
};
struct Barrier {
  uint16_t number = 0, incarnation = 0;   // of the dead node
  std::set<NodeId> awaited;
};

class Controller {
 public:
  explicit Controller(ControllerConfig config = {});

  // Before the first event: what the journal kept. Returns what it could not make sense of, for
  // the log.
  std::vector<std::string> restore(const std::vector<JournalRecord>& records);
  // First actions of this life (the boot record). Call once, after restore().
  ControllerActions start(Time now);
  ControllerActions handle(const ControllerEvent& event, Time now);
  std::optional<Time> next_tick() const;

  // How often this journal has been opened, from 1: the node incarnation that goes into ids.
  uint32_t boot() const { return boot_; }
  // The journal's name: ControllerConfig::cluster of its first life.
  uint64_t cluster() const { return cluster_; }
  // Where the head of the last life was reached; "" in the first.
  const std::string& head_address() const { return head_address_; }
  // Who has a number and is no member: after a restart, those of the last life that may come back.
  const std::map<uint16_t, ExpectedNode>& expected() const { return expected_; }
  uint16_t last_number() const { return last_number_; }
  const std::map<JobId, JobInfo>& jobs() const { return jobs_; }
  const std::map<ActorId, ActorInfo>& actors() const { return actors_; }
  const std::map<PlacementGroupId, GroupInfo>& groups() const { return groups_; }
  const std::map<NodeId, NodeInfo>& nodes() const { return nodes_; }   // members, alive
  // Nil when it is not a member's number.
  NodeId node_with(uint16_t number) const;
  const std::map<uint64_t, Barrier>& barriers() const { return barriers_; }
  // After a restart, until the nodes of the last life are back or given up.
  bool restoring() const { return restoring_; }
  const std::map<std::pair<std::string, std::string>,
                           std::string>& key_values() const { return kv_; }
  JobId job_of(ProcessId process) const;

 private:
  friend class ControllerTestAccess;
  struct Client {
    protocol::ClientKind kind = protocol::ClientKind::kDriver;
    JobId job = 0;
  };
  struct KvWait {
    ProcessId process = 0;
    uint64_t request = 0;
    Time deadline{0};
  };
  using KvKey = std::pair<std::string, std::string>;   // {space, key}
  // A write whose record is not durable yet: what to do then, and what to undo should it fail.
  struct Pending {
    std::optional<Reply> reply;
    std::vector<std::pair<KvKey, std::optional<std::string>>> kv_before;
    ActorId actor;                           // created by it
    PlacementGroupId group;                  // created by it
    std::vector<ControllerEvent> deferred;   // read what this writes: handled again afterwards
    bool boot = false;                       // the boot number
    uint16_t number = 0;                     // given out by it
    uint16_t death = 0;                      // of that number
    std::vector<JournalRecord> again;        // should they fail, detached actors need them still
  };
  // A handle may be elsewhere before its creator's request is here: that one waits for the
  // constructor's arguments.
  struct EarlyInterest {
    std::set<ProcessId> holders, subscribers;
  };
  struct Timer {
    Time at{0};
    enum class Kind : uint8_t {
      kActor = 0, kGroup = 1, kKeyWait = 2, kBoot = 3, kNode = 4, kView = 5, kRestoring = 6,
      kQuarrel = 7
    };
    Kind kind = Kind::kActor;
    uint64_t hi = 0, lo = 0;
    auto operator<=>(const Timer&) const = default;
  };

  template <class Message>
  using Request = From<Message>;
  void on(const Request<protocol::RegisterJob>& event);
  void on(const Request<protocol::KvPut>& event);
  void on(const Request<protocol::KvGet>& event);
  void on(const Request<protocol::KvDelete>& event);
  void on(const Request<protocol::KvKeys>& event);
  void on(const Request<protocol::ActorCreate>& event);
  void on(const Request<protocol::ActorSubscribe>& event);
  void on(const Request<protocol::ActorHold>& event);
  void on(const Request<protocol::ActorKill>& event);
  void on(const Request<protocol::ActorLookup>& event);
  void on(const Request<protocol::ActorNames>& event);
  void on(const Request<protocol::ActorStarted>& event);
  void on(const Request<protocol::ActorExiting>& event);
  void on(const Request<protocol::GroupCreate>& event);
  void on(const Request<protocol::GroupRemove>& event);
  void on(const Request<protocol::GroupSubscribe>& event);
  void on(const ClientJoined& event);
  void on(const ClientLeft& event);
  void on(const NodeJoined& event);
  void on(const NodeAsks& event);
  void on(const NodeHeartbeat& event);
  void on(const NodeLost& event);
  void on(const DrainAsked& event);
  void on(const ClusterClosing& event);
  void on(const FromNode& event);
  void on(const JournalSynced& event);
  void on(const ControllerTick& event);
  void on_report(const NodeId& node, const ActorAssigned& report);
  void on_report(const NodeId& node, const ActorLost& report);
  void on_report(const NodeId& node, const ActorPlaceFailed& report);
  void on_report(const NodeId& node, const GroupReserved& report);
  void on_report(const NodeId& node, const AskGroup& report);
  void on_report(const NodeId& node, const ReportResources& report);
  void on_report(const NodeId& node, const BarrierReached& report);
  void on_report(const NodeId& node, const ActorTakenBack& report);
  void on_report(const NodeId& node, const PeersSilent& report);
  void on_report(const NodeId& node, const BundlesLeft& report);

  // Journal and replies (controller.cc).
  uint64_t journal(std::vector<JournalRecord> records);
  Pending& wait_for(uint64_t sequence) { return pending_[sequence]; }
  void journal_boot();
  uint64_t journal_for_later(JournalRecord record);
  bool is_current(const JournalRecord& record) const;
  std::vector<JournalRecord> not_yet_stored() const;
  void settle(Pending pending);
  void undo(uint64_t sequence, Pending pending, const Status& status);
  void reply(ProcessId process, uint64_t request, Status status, std::string payload = {});
  void set_timer(Time at, Timer::Kind kind, uint64_t hi, uint64_t lo);
  void warn(JobId job, std::string text);

  // Membership (controller_nodes.cc).
  void send(const NodeId& node, NodeMessage message);
  void send_to_all(const NodeMessage& message);
  void give_number(const NodeJoin& join);
  void number_settled(uint16_t number, const Status& status);
  void refuse(const NodeJoin& join, StatusCode code, std::string why);
  void add_member(NodeInfo info);
  void node_dead(const NodeId& node, protocol::ErrorRecord cause);
  void drop_clients_of(uint16_t number, uint16_t incarnation, const protocol::ErrorRecord& cause);
  void open_barrier(const NodeInfo& dead, const protocol::ErrorRecord& cause);
  void reach_barrier(uint64_t barrier, const NodeId& node);
  void journal_death(const NodeInfo& dead);
  void close_death(const Barrier& barrier);
  void review_node(uint16_t number, Time due);
  NodeInfo* member(uint16_t number);

  // Members that cannot reach each other (controller_quarrels.cc).
  void forget_quarrels_of(uint16_t number);
  void review_quarrels(Time due);
  void condemn(NodeInfo& node, protocol::ErrorRecord cause);

  // What nodes are told of each other (controller_views.cc).
  NodeView view_of(const NodeInfo& node) const;
  void changed(const NodeInfo& node, bool load_only);
  void send_views();
  void send_first_view(const NodeId& node);
  void choose_who_hears(std::set<uint16_t>& loads);
  void deal_room(const std::set<uint16_t>& loads);
  struct Seeker;
  bool tell_of_room(Seeker& seeker, const NodeInfo& node);
  void deal_at_once(NodeInfo& node);
  uint64_t update_told(NodeInfo& seeker, const std::set<uint16_t>& loads, ClusterView& view);
  void forget_told(NodeInfo& node);

  // After a restart (controller_takeover.cc).
  void take_over(const NodeId& node, const NodeJoin& join);
  void take_over_clients(const NodeJoin& join);
  void take_over_created(const LiveClient& creator, const CreatedActor& created);
  void add_dead_actor(ActorId id, const std::string& why);
  void take_over_actor(const NodeId& node, const LiveActor& live);
  void take_over_group(const NodeId& node, const LiveGroup& live);
  void settle_early();
  void end_restoring_if_complete();
  void end_restoring();

  // Jobs and key-value (controller_jobs.cc).
  void end_job(JobId job);
  void forget_job_if_unused(JobId job);
  bool has_detached_actors(JobId job) const;
  std::string name_space_of(ProcessId process, const std::string& wanted) const;
  void set_key(const KvKey& key, std::optional<std::string> value);
  void answer_waits(const KvKey& key);
  void expire_key_waits();
  bool defer_for_key(const KvKey& key, const ControllerEvent& event);

  // Actors (controller_actors.cc).
  std::optional<Reply> check_actor(const Request<protocol::ActorCreate>& event,
                                   const protocol::ActorSpec& spec);
  void place(ActorId id, ActorInfo& actor);
  static ResourceMap creation_request(const protocol::ActorSpec& spec);
  NodeId choose_node(ActorId id, const ActorInfo& actor) const;
  NodeId choose_in_group(const ActorInfo& actor, const GroupInfo& group) const;
  bool has_room(const NodeInfo& node, const ActorInfo& actor) const;
  static ResourceAmount load_of(const NodeInfo& node);
  void settle_on(ActorId id, ActorInfo& actor, const NodeId& node);
  void leave_node(ActorId id, ActorInfo& actor);
  void take_back_from(const NodeInfo& node);
  void relieve_crowded(const NodeInfo& node);
  bool node_suits(const NodeInfo& node, const ActorInfo& actor) const;
  static bool restarts_left(const ActorInfo& actor);
  void actor_lost(ActorId id, ActorInfo& actor, const protocol::ErrorRecord& cause);
  void end_actor(ActorId id, ActorInfo& actor, protocol::ErrorRecord cause,
                 bool erase_record = true);
  void release_actor(ActorId id, ActorInfo& actor, bool graceful,
                     const protocol::ErrorRecord& cause);
  bool may_still_be_created(ActorId id) const;
  void refuse_early(ActorId id, const std::string& why);
  void review_actor(ActorId id);
  void drop_holder(ActorId id, ActorInfo& actor, ProcessId process);
  void push(ActorId id, const ActorInfo& actor);
  protocol::ActorUpdate update_of(ActorId id, const ActorInfo& actor) const;
  JournalRecord record_of(ActorId id, const ActorInfo& actor) const;
  JournalRecord record_of(PlacementGroupId id, const GroupInfo& group) const;
  void place_waiting_actors();

  // controller_restore.cc
  bool restore_record(const JournalRecord& record);
  bool restore_node(const JournalRecord& record);
  void drop_unused_jobs();
  void restore_actor(ActorInfo saved);
  void drop_unowned_groups();

  // Placement groups (controller_groups.cc).
  void plan(PlacementGroupId id, GroupInfo& group);
  void abandon_attempt(PlacementGroupId id, GroupInfo& group);
  void remove_group(PlacementGroupId id, GroupInfo& group);
  void review_group(PlacementGroupId id);
  void push(PlacementGroupId id, const GroupInfo& group);
  void plan_waiting_groups();
  void lose_groups_on(const NodeId& node);
  Time group_retry(PlacementGroupId id) const;
  void tell_places(PlacementGroupId id, const GroupInfo& group, const NodeId* only = nullptr);

  ControllerConfig config_;
  uint32_t boot_ = 1;
  uint64_t cluster_ = 0;
  bool cluster_stored_ = false;
  std::string head_address_;
  bool boot_durable_ = false;        // before that no job is registered and nothing is placed
  uint64_t boot_pending_ = 0;        // its sequence while it is on its way
  uint32_t jobs_started_ = 0;
  std::map<ProcessId, Client> clients_;
  std::map<JobId, JobInfo> jobs_;
  std::deque<JobId> ended_jobs_;                                   // oldest first
  std::map<ActorId, ActorInfo> actors_;
  std::set<ActorId> living_;           // those of actors_ that are not dead
  std::map<std::pair<std::string, std::string>, ActorId> names_;   // {namespace, name}
  std::map<ActorId, EarlyInterest> early_;                         // in actors yet to be created
  std::map<ProcessId, uint64_t> forgotten_;   // newest dead actor of a creator that was dropped
  std::deque<ActorId> dead_actors_;                                // oldest first
  std::set<ActorId> unplaced_;                                     // no node suits them now
  std::set<ActorId> crowded_;                                      // wait at a node without room
  ActorId last_relieved_;
  std::map<PlacementGroupId, GroupInfo> groups_;
  std::map<std::pair<std::string, std::string>, PlacementGroupId> group_names_;
  std::deque<PlacementGroupId> dead_groups_;
  std::set<PlacementGroupId> unplanned_;
  std::map<NodeId, NodeInfo> nodes_;
  std::map<uint16_t, NodeId> numbers_;                             // of members
  std::map<uint16_t, ExpectedNode> expected_;                      // have a number, are no members
  uint16_t last_number_ = 1;                                       // given out, or the head's
  std::map<uint64_t, Barrier> barriers_;
  uint64_t barriers_opened_ = 0;
  // {who cannot reach, whom}: since when.
  std::map<std::pair<uint16_t, uint16_t>, Time> quarrels_;
  std::set<uint16_t> new_facts_, new_loads_;                       // not in a view yet
  bool dealing_ = false;                                           // a large cluster
  std::map<uint16_t, uint32_t> listeners_;                         // of a node's load, dealing
  uint16_t next_seeker_ = 0, next_room_ = 0;                       // whose turn it is
  Time last_view_{0};
  bool view_planned_ = false;
  bool closing_ = false;
  bool restoring_ = false;
  uint32_t first_incarnation_ = 0;                                 // of actors placed in this life
  std::set<ActorId> unconfirmed_;                                  // may live on such a node
  std::set<ActorId> held_back_;            // asked for since; the same may be there from before
  std::vector<ExpectedNode> dead_before_;  // in the last life; some may not have heard of it
  // Died while restoring: who is not back yet has to hear of it, too.
  std::vector<std::pair<NodeInfo, protocol::ErrorRecord>> unannounced_;
  std::map<KvKey, std::string> kv_;
  std::map<std::string, std::set<JobId>> function_users_;          // "fn" keys: jobs that put them
  std::map<KvKey, std::vector<KvWait>> kv_waits_;
  std::map<uint64_t, Pending> pending_;                            // by journal sequence
  std::map<KvKey, uint64_t> kv_pending_;                           // last unsynced write of a key
  std::vector<JournalRecord> stale_records_;                       // found by restore(), to erase
  // Of jobs and functions, not on disk for want of room: they go with each detached actor.
  std::map<std::pair<RecordKind, std::string>, JournalRecord> unstored_;
  std::set<Timer> timers_;                                         // stale ones are harmless
  uint64_t next_sequence_ = 1;
  Time now_{0};
  ControllerActions out_;
};

}  // namespace sheaf::scheduler
