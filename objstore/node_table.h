// What the objects of this node mean to other nodes, as a pure state machine around ObjectTable.
//
// Guarantees, with any node dying at any instant: no owner frees an object that a process of a live
// node holds or is being handed (NoDangling); when nobody holds it any more, every node lets go of
// it (NoLeak). How: an owner counts holds by node. A node registers its first hold and drops it
// with its last; nothing that could make others let go (drops, releases, records of processes)
// leaves a node before its earlier registrations are confirmed, unless it goes to the very owner.
// A reference handed to another node is pinned by the sender until the receiver is registered.
// While a death barrier is open, owners free nothing. Node 1 adopts what dead nodes owned; when
// that node has a new life, what earlier lives owned or adopted is registered there anew. It makes
// again what is lost, from what owners told it before references left them. Methods append
// Actions; digest() must see what table() appended. Owned by the daemon's control loop.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/ids.h"
#include "core/status.h"
#include "objstore/lineage_table.h"
#include "objstore/node_objects.h"
#include "objstore/object_table.h"

namespace sheaf::objstore {

class NodeTable {
 public:
  // `self` kNoProcess: there are no other nodes.
  NodeTable(ObjectTable::EncodeError encode_error, ProcessId self)
      : encode_error_(encode_error), self_(self), table_(std::move(encode_error), self) {}

  ObjectTable& table() { return table_; }
  const ObjectTable& table() const { return table_; }
  ProcessId self() const { return self_; }
  bool is_remote(ProcessId process) const {
    return self_ != kNoProcess && process >> 32 != self_ >> 32 && process >> 32 != 0;
  }
  // The daemon that decides about the object; may be this one.
  ProcessId owner_of(const ObjectId& id) const;

  // Turns what the table said about other nodes into messages and pulls, at the end of `actions`.
  void digest(Actions& actions);

  // ---- Processes of this node
  // `on_behalf_of` may be of another node: then a reference to each of `add` is about to go there.
  void hold(ProcessId process, ProcessId on_behalf_of, std::span<const ObjectId> add,
            std::span<const ObjectId> drop, Actions& out);
  void publish(ProcessId sender, const ObjectId& id, ValueState state, std::string bytes,
               std::span<const ObjectId> contained, Actions& out);
  void free(std::span<const ObjectId> ids, Actions& out);
  // Ours: keeps its bytes on `copies` other nodes, as long as there are so many (0: no more).
  void replicate(const ObjectId& id, uint32_t copies, Actions& out);
  // Where its bytes may be found, if they are asked for before the next digest().
  void hint(const ObjectId& id, const Locator& locator);

  // ---- Lineage
  // Before any reference to its returns leaves the process that submitted it, which is of this
  // node, as they are.
  void record(TaskRecord record, Actions& out);
  // A maker's result. Counts no hold for it.
  void made(const ObjectId& id, ValueState state, std::string bytes,
            std::span<const ObjectId> contained, Actions& out);
  // Answers FindMaker; kNoProcess: there is none.
  void maker_found(const ObjectId& id, ProcessId maker, Actions& out);
  // It has died, or says that it cannot.
  void maker_gone(ProcessId maker, Actions& out);
  const LineageTable& lineage() const { return lineage_; }
  size_t values_kept_elsewhere() const { return sunk_values_.size(); }

  // ---- Other nodes
  void peer_up(ProcessId daemon, Actions& out);
  void peer_down(ProcessId daemon, uint64_t barrier, Actions& out);
  // An owner that is gone and has no heir yet: nobody frees anything, so what was registered there
  // needs no confirmation. peer_down() follows, when there is a controller again.
  void peer_away(ProcessId daemon, Actions& out);
  void peer_awaited_in_vain(ProcessId daemon, Actions& out);
  void barrier_closed(uint64_t barrier, Actions& out);
  void on_message(ProcessId from, ObjectMessage message, Actions& out);
  // `gate`: 0 at first; a record that was refused keeps its own, so that later registrations do not
  // hold it back for ever.
  bool may_forward(ProcessId to, uint64_t& gate);
  bool may_forward(ProcessId to) {
    uint64_t gate = 0;
    return may_forward(to, gate);
  }
  bool is_up(ProcessId daemon) const {
    auto it = peers_.find(daemon);
    return it != peers_.end() && it->second.up;
  }
  bool is_dead(ProcessId daemon) const { return dead_.contains(daemon); }
  // An object from `bytes` on is read by at most `readers` nodes at once from each that has it, or
  // has begun to get it, chunk by chunk; others wait. So one that all want goes down a chain of
  // nodes in little more than the time of one transfer, as long as the chain is short against its
  // chunks; beyond that it spreads by the copies that are made.
  void set_broadcast(uint64_t bytes, uint32_t readers, uint64_t chunk_bytes) {
    broadcast_bytes_ = bytes;
    broadcast_readers_ = readers;
    chunk_bytes_ = chunk_bytes;
  }
  // Of an object of this size.
  uint64_t chunk_bytes(uint64_t size) const;

  // ---- Answers
  // kOutOfMemory: there is no room here. `local` is valid when OK, sealed, and given away.
  void pulled(const ObjectId& id, const Status& status, const Locator& local, Actions& out);
  void retry(const ObjectId& id, Actions& out);
  // A part of it has come, to `local`, where others may read it.
  void pull_started(const ObjectId& id, const Locator& local, Actions& out);

  // ---- Questions, for observation and checks
  struct Foreign {
    uint32_t counted = 0;     // what the owner counts for us, or will have when all is delivered
    bool copy_told = false;   // the owner knows that bytes are here
    bool idle() const { return counted == 0 && !copy_told; }
  };
  struct Copy {
    ProcessId daemon = 0;
    Locator locator;
    bool kept = false;        // counts on our Release
    bool replica = false;     // kept as one of replicate()'s
  };
  struct Replicas {
    uint32_t wanted = 0;
    std::set<ProcessId> asked;   // MakeCopy is under way
  };
  struct Fetch {
    ProcessId asked = 0;      // waiting for its Here; 0 = for a pull, or a pause
    ProcessId source = 0;     // of the pull, the latest
    uint32_t attempts = 0;
    bool pulling = false;
    bool pausing = false;
    bool granted = false;     // the owner counts us as a reader until it hears how it ended
  };
  struct Broadcast {
    struct Waiting { ProcessId reader, tried; };
    std::map<ProcessId, ProcessId> readers;   // each of them, and what it reads from
    std::map<ProcessId, Locator> started;     // who may be read from while it reads
    std::deque<Waiting> waiting;              // never without readers
  };
  struct Gated { uint64_t after; ObjectMessage message; };
  struct Peer {
    bool up = false;
    bool forward_waits = false;
    uint64_t forward_after = 0;
    std::vector<ObjectMessage> early;    // before it was up
    std::deque<Gated> gated;             // until registrations up to `after` are confirmed
  };
  struct Unconfirmed { ProcessId owner = 0; uint64_t instead = 0; };
  struct Barrier { uint64_t after = 0; bool reached = false; std::set<ProcessId> dead; };
  const std::unordered_map<ObjectId, Foreign>& foreign() const { return foreign_; }
  const std::unordered_map<ObjectId, std::vector<Copy>>& copies() const { return copies_; }
  const std::unordered_map<ObjectId, Fetch>& fetches() const { return fetches_; }
  const std::unordered_map<ObjectId, Broadcast>& broadcasts() const { return broadcasts_; }
  const std::map<ProcessId, Peer>& peers() const { return peers_; }
  const std::map<uint64_t, Unconfirmed>& unconfirmed() const { return unconfirmed_; }
  const std::map<uint64_t, Barrier>& barriers() const { return barriers_; }
  uint64_t last_number() const { return last_number_; }
  using Deferred = std::vector<std::pair<ProcessId, ObjectMessage>>;
  const std::map<ProcessId, Deferred>& deferred() const { return deferred_; }

 private:
  using Ids = std::vector<ObjectId>;
  static ProcessId home_of(const ObjectId& id) { return (id.hi >> 32 << 32) | kDaemonProcess; }
  ProcessId head() const;
  ProcessId daemon_of(uint16_t node) const;   // 0: not up
  bool owns(const ObjectId& id) const { return owner_of(id) == self_; }
  bool settled(uint64_t number, ProcessId to) const;

  void handle(Action& action, Actions& out);
  void flush(Actions& out);
  void pump(Actions& out);
  void tell(ProcessId to, ObjectMessage message, Actions& out);
  void tell_settled(ProcessId to, ObjectMessage message, Actions& out);
  Peer& peer(ProcessId daemon, Actions& out);
  void hand_over(ProcessId process, std::span<const ObjectId> ids, Actions& out);
  bool defer_for_home(ProcessId from, const ObjectMessage& message, Actions& out);
  void bury(ProcessId daemon, uint64_t barrier, Actions& out);
  bool inherit_from(ProcessId home, Actions& out);
  void adopt(ProcessId home, uint64_t barrier, Actions& out);
  void move_to_head(ProcessId home, Actions& out);

  void on(ProcessId from, Register& m, Actions& out);
  void on(ProcessId from, Registered& m, Actions& out);
  void on(ProcessId from, Drop& m, Actions& out);
  void on(ProcessId from, HandOff& m, Actions& out);
  void on(ProcessId from, HandOffDone& m, Actions& out);
  void on(ProcessId from, Sealed& m, Actions& out);
  void on(ProcessId from, Published& m, Actions& out);
  void on(ProcessId from, Want& m, Actions& out);
  void on(ProcessId from, Here& m, Actions& out);
  void on(ProcessId from, NotHere& m, Actions& out);
  void on(ProcessId from, CopyMade& m, Actions& out);
  void on(ProcessId from, CopyGone& m, Actions& out);
  void on(ProcessId from, Release& m, Actions& out);
  void on(ProcessId from, Keep& m, Actions& out);
  void on(ProcessId from, MakeCopy& m, Actions& out);
  void on(ProcessId from, Free& m, Actions& out);
  void on(ProcessId from, CopyStarted& m, Actions& out);
  void on(ProcessId from, Remember& m, Actions& out);
  void on(ProcessId from, Forget& m, Actions& out);

  // Lineage
  void handle_lineage(Action& action, Actions& out);
  void make_again(const ObjectId& id, Actions& out);
  void ask_again(const Ids& ids, Actions& out);
  void let_go(const LineageTable::Row& row, Actions& out);
  bool has_sink() const { return self_ != kNoProcess && node_of(self_) != 1; }
  void expose(std::span<const ObjectId> ids);
  void sink_task(LineageTable::Row& row);
  void sink_value(const ObjectId& id, const ObjectTable::Entry& e);
  void value_came(const ObjectId& id, Actions& out);
  void sink_anew();
  void take_over(ProcessId home, Actions& out);
  void makers_lost(ProcessId daemon, Actions& out);
  void flush_lineage(Actions& out);

  // Values
  void start_fetch(const ObjectId& id, Actions& out);
  void ask(const ObjectId& id, Fetch& f, ProcessId whom, ProcessId tried, Actions& out);
  void pull(const ObjectId& id, Fetch& f, const Locator& from, Actions& out);
  void pause(const ObjectId& id, Fetch& f, Actions& out);
  void give_up(const ObjectId& id, LossCause cause, Actions& out);
  void end_fetch(const ObjectId& id, Actions& out);
  void direct(const ObjectId& id, ProcessId reader, ProcessId tried, Actions& out);
  void serve_readers(const ObjectId& id, Actions& out);
  void reader_done(const ObjectId& id, ProcessId reader, Actions& out);
  static std::optional<size_t> hops(const Broadcast& b, ProcessId daemon, ProcessId reader);
  const Locator* best_source(const ObjectId& id, const ObjectTable::Entry& e, const Broadcast& b,
                             const Broadcast::Waiting& w, ProcessId* source) const;
  void add_copy(const ObjectId& id, const Copy& copy);
  void copy_gone(const ObjectId& id, ProcessId daemon, LossCause cause, Actions& out);
  void place_replicas(const ObjectId& id, Actions& out);
  void replica_came(const ObjectEvent& event, Actions& out);
  void sealed_by_us(const SealedAbroad& sealed, Actions& out);
  Locator locator_of(const ObjectTable::Entry& e) const;

  ObjectTable::EncodeError encode_error_;
  ProcessId self_;
  ObjectTable table_;
  std::map<ProcessId, Peer> peers_;
  std::set<ProcessId> dead_;
  ProcessId away_ = kNoProcess;
  uint64_t last_number_ = 0;
  std::map<uint64_t, Unconfirmed> unconfirmed_;      // registrations, by number
  std::map<uint64_t, Barrier> barriers_;
  std::unordered_map<ObjectId, Foreign> foreign_;    // never idle()
  std::unordered_map<ObjectId, std::vector<Copy>> copies_;   // of objects we own; never empty
  std::unordered_map<ObjectId, Fetch> fetches_;
  std::unordered_map<ObjectId, Broadcast> broadcasts_;       // of objects we own
  uint64_t broadcast_bytes_ = UINT64_MAX;
  uint32_t broadcast_readers_ = 1;
  uint64_t chunk_bytes_ = 0;
  std::map<ProcessId, Ids> to_register_;             // by home
  std::map<ProcessId, std::vector<HoldCount>> to_drop_;
  std::vector<std::pair<ObjectId, Locator>> hints_;
  std::map<ObjectId, Replicas> replicas_;            // of objects we own
  std::set<ObjectId> to_keep_;                       // foreign: when they have come
  LineageTable lineage_;
  std::set<ObjectId> sunk_values_;                   // ours: node 1 has them, too
  Remember to_remember_;
  Forget to_forget_;
  // For the head: what concerns objects of a home that it has not heard dead yet.
  std::map<ProcessId, Deferred> deferred_;
};

}  // namespace sheaf::objstore
