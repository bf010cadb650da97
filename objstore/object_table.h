// The node's table of objects as a pure state machine: no I/O, no clock, no memory of the arena.
//
// Methods append Actions for the store to perform. Guarantees: an object with a value stays while a
// live process holds it or an object that contains it lives; after the last of both it is freed by
// the second quiesce() that follows; the first value of an object is its value; each subscription
// is answered once, and can be made again. Hold counts are signed: messages of different processes
// may arrive in any order. An entry lives until each of its counts is back at zero. An object whose
// bytes were lost is its maker's to make again (the process its id names): others wait until it has
// sealed it once more or published an error. Objects whose ids other nodes made ("foreign") are
// entries too; see node_table.h. Owned by the daemon's control loop.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/ids.h"
#include "core/variant.h"
#include "objstore/locator.h"
#include "objstore/node_objects.h"

namespace sheaf::objstore {

// Why an object has an error for a value although nobody stored one.
enum class LossCause : uint8_t {
  kOwnerDied = 0,    // its publisher died before it had a value
  kFreed = 1,        // free() was called
  kCorrupt = 2,      // the spilled bytes failed their checksum or could not be read
  kUnknown = 3,      // nobody on this node knows of it: freed long ago, foreign, or never made
  kStoreFull = 4,    // (one answer only, the object itself is intact) no room to restore it
  kNodeDied = 5,     // the node that had the only bytes died, or the one that owned it
  kNoMaker = 6,      // its task could be run again, but no process of its job is left to do so
  kRunsUsedUp = 7,   // its task was run again as often as it may be
};

// Where spilled bytes are; see spill.h.
struct SpillPlace {
  uint64_t file = 0;      // 0 = none
  uint64_t offset = 0;    // of the record's header
  uint64_t length = 0;    // of the payload
  bool operator==(const SpillPlace&) const = default;
};

// What a subscriber is told. kInline, kError: `bytes`. kArena: `locator`. kSpilled: it asked not to
// restore. kPending: its bytes were lost and its maker knows; the answer comes later. The maker of
// a lost object is told its kError without having asked.
struct ObjectEvent {
  ObjectId id;
  ValueState state = ValueState::kPending;
  std::string bytes;
  Locator locator;
};

struct NotifyReady { ProcessId process; ObjectEvent event; };
// Once unpinned and no I/O runs on it.
struct FreeExtent { Locator locator; };
// Answered by spill_written or spill_failed.
struct StartSpill { ObjectId id; Locator locator; };
// It is on disk already. Answered by evicted, or not at all.
struct TryEvict { ObjectId id; Locator locator; };
// Answered by restored or restore_failed.
struct StartRestore { ObjectId id; SpillPlace place; };
struct DeleteSpill { SpillPlace place; };

// For NodeTable::digest(), which turns them into those below.
// A foreign object has its first hold or container here, or has lost its last.
struct HeldAbroad { ObjectId id; };
struct DroppedAbroad { ObjectId id; };
// Somebody here waits for a value that is not here.
struct FetchValue { ObjectId id; };
// A foreign object was sealed here; `holder` is of another node, or 0.
struct SealedAbroad { ObjectId id; ProcessId holder; std::vector<ObjectId> contained; };
// The value of an object of ours that other nodes have, too, is given up.
struct ValueGone { ObjectId id; };
// The bytes of a foreign object are not here any more.
struct CopyDropped { ObjectId id; bool corrupt; };
// Of objects with lineage: somebody waits for one that is lost; one that was lost has a value, or
// is given up; one is gone, with all that holds it.
struct MakeAgain { ObjectId id; };
struct MadeAgain { ObjectId id; };
struct LineageGone { ObjectId id; };

// What NodeTable asks for.
struct Tell { ProcessId to; ObjectMessage message; };
// Answered by NodeTable::pulled.
struct StartPull { ObjectId id; ProcessId from; Locator locator; };
// Call NodeTable::retry after a pause that grows with `attempt`.
struct RetryLater { ObjectId id; uint32_t attempt; };
struct BarrierReached { uint64_t barrier; };
struct ForwardReady { ProcessId to; };
// Something is to be told to a node that was never up. Call NodeTable::peer_awaited_in_vain when
// that has not changed after a while.
struct PeerAwaited { ProcessId daemon; };
// Which process is to run the task of `id` again? Answered by NodeTable::maker_found.
struct FindMaker { ObjectId id; JobId job; std::set<ProcessId> tried; };
// `maker`, or one that its daemon chooses if it is a daemon, runs the task. NodeTable::maker_gone
// follows if it cannot.
struct HandTask { ProcessId maker; TaskRecord record; };
// What became of an action that digest() has seen.
struct Digested {};

struct Action
    : std::variant<NotifyReady, FreeExtent, StartSpill, TryEvict, StartRestore, DeleteSpill,
                   HeldAbroad, DroppedAbroad, FetchValue, SealedAbroad, ValueGone, CopyDropped,
                   MakeAgain, MadeAgain, LineageGone, Tell, StartPull, RetryLater, BarrierReached,
                   ForwardReady, PeerAwaited, FindMaker, HandTask, Digested> {
  SHEAF_VARIANT(Action)
};
using Actions = std::vector<Action>;

class ObjectTable {
 public:
  // What subscribers get as `bytes` of an object lost for `cause`. Must be a pure function.
  using EncodeError = std::function<std::string(LossCause cause, const ObjectId& id)>;
  // `self`: this daemon as other nodes see it; objects of other homes are foreign. 0: none are.
  explicit ObjectTable(EncodeError encode_error, ProcessId self = kNoProcess)
      : encode_error_(std::move(encode_error)), self_(self) {}
  // For those who follow several futures of one table.
  ObjectTable(const ObjectTable& other);
  ObjectTable& operator=(const ObjectTable&) = delete;

  // ---- Processes. kDaemonProcess is always there. Holds on behalf of one that is not are ignored.
  void process_joined(ProcessId process) { processes_[process]; }
  bool is_live(ProcessId process) const { return processes_.contains(process); }
  // Drops its holds and subscriptions. What it published and never resolved becomes kOwnerDied. Its
  // messages must have been handled before.
  void process_died(ProcessId process, Actions& out);

  // ---- Values. The first value wins: a later one is discarded (its extent freed).
  // +1 hold for `holder` (0 = the sender), every time.
  void seal(ProcessId sender, const ObjectId& id, const Locator& locator, ProcessId holder,
            std::span<const ObjectId> contained, Actions& out);
  // kPending, kInline or kError. +1 hold for the sender at its first publish of this object, none
  // later. Who published kPending keeps its hold until it has published the value.
  void publish(ProcessId sender, const ObjectId& id, ValueState state, std::string bytes,
               std::span<const ObjectId> contained, Actions& out);
  // The value is gone for everybody; holders find an error.
  void free(std::span<const ObjectId> ids, Actions& out);

  // ---- References
  void hold(ProcessId process, std::span<const ObjectId> add, std::span<const ObjectId> drop,
            Actions& out);
  void subscribe(ProcessId process, std::span<const ObjectId> ids, bool restore, Actions& out);
  // A subscriber waits for an object that nothing is known of.
  bool is_unknown(const ObjectId& id) const;
  // Answers its subscribers with an error. No effect when something is known by now.
  void fail_unknown(const ObjectId& id, LossCause cause, Actions& out);
  // Every lane was drained once since the last call. Frees what nobody held then and now. True:
  // there are further candidates, so drain and call again before sleeping.
  bool quiesce(Actions& out);
  // The next calls of quiesce() may free something.
  bool has_candidates() const { return !fresh_.empty() || !aged_.empty(); }

  // ---- Spilling
  // `may_spill`: asked for each object in the arena, least recently used first, until
  // `bytes_needed` are on their way. Returns the bytes chosen now (StartSpill or TryEvict for
  // each).
  using MaySpill = std::function<bool(const ObjectId& id, const Locator& locator)>;
  // Foreign copies that nobody asked this node to keep are not spilled, but evicted; with
  // `only_copies` nothing else is chosen.
  uint64_t on_pressure(uint64_t bytes_needed, const MaySpill& may_spill, bool only_copies,
                       Actions& out);
  // The bytes are on disk as well. True: try to evict it now. False: it is gone, or was asked for
  // in the meantime.
  bool spill_written(const ObjectId& id, const Locator& locator, const SpillPlace& place,
                     Actions& out);
  void spill_failed(const ObjectId& id, const Locator& locator);
  // Nobody reads it any more: only the disk has it from now on. The header was made invalid before.
  void evicted(const ObjectId& id, Actions& out);
  void restored(const ObjectId& id, const SpillPlace& from, const Locator& to, Actions& out);
  // kCorrupt: the object is lost. kStoreFull: its subscribers are told, and may ask again.
  void restore_failed(const ObjectId& id, const SpillPlace& from, LossCause cause, Actions& out);

  // ---- Other nodes; called by NodeTable
  bool is_foreign(const ObjectId& id) const {
    return self_ != kNoProcess && id.hi >> 32 != self_ >> 32 && !adopted_.contains(id.hi >> 32);
  }
  // While frozen nothing of ours is freed.
  void freeze() { frozen_ = true; }
  void thaw();
  // The owner has counted this node for a reference to a foreign object that is on its way here.
  void counted(const ObjectId& id);
  // The counts that `process` sent by number.
  void drop_holds(ProcessId process, const ObjectId& id, uint32_t count, Actions& out);
  // Ours: another node has sealed it. False: it has a value already.
  bool sealed_elsewhere(const ObjectId& id, const Locator& locator,
                        std::span<const ObjectId> contained, Actions& out);
  // Ours, and its bytes are elsewhere: at another place now, or nowhere any more.
  void moved_elsewhere(const ObjectId& id, const Locator& locator, Actions& out);
  void lost_elsewhere(const ObjectId& id, LossCause cause, Actions& out);
  void mark_copies(const ObjectId& id, bool any);
  // The bytes have been fetched to `to`. False: nobody waits for them any more, or they are here.
  bool fetched(const ObjectId& id, const Locator& to, Actions& out);
  void fetched_inline(const ObjectId& id, std::string bytes, Actions& out);
  // What everybody who waits for a value that is not here is told. kPending: and goes on waiting.
  void answer_waiting(const ObjectId& id, const ObjectEvent& event, Actions& out);
  // Foreign. The owner wants `delta` more (fewer) copies kept here. False: the bytes are not here.
  bool keep(const ObjectId& id, int delta);
  // Foreign: the owner says that its value is gone.
  void forget_copy(const ObjectId& id, Actions& out);
  // Ours: references inside its value that this node did not know of.
  void contains_too(const ObjectId& id, std::span<const ObjectId> contained, Actions& out);
  // All objects of that home are ours from now on.
  void adopt(ProcessId home);
  bool is_adopted(const ObjectId& id) const { return adopted_.contains(id.hi >> 32); }
  // Adopted objects that nobody has a value of.
  void lose_adopted(ProcessId home, Actions& out);

  // ---- Objects with lineage; called by NodeTable
  // Ours; a task can make it again. `known`: its former owner's word.
  void set_lineage(const ObjectId& id, bool any, bool known = false);
  // Other nodes may have references to it from now on. False: they might already, or it is not
  // ours.
  bool expose(const ObjectId& id);
  // It has a value that travels in messages.
  bool has_kept_value(const ObjectId& id) const;
  // Nobody makes it again now: whoever still waits makes somebody else do so.
  void not_made(const ObjectId& id, Actions& out);
  // Nor will anybody ever.
  void cannot_be_made(const ObjectId& id, LossCause cause, Actions& out);

  // ---- Questions
  struct Entry {
    ValueState state = ValueState::kPending;
    bool known = false;          // published or sealed by somebody
    bool candidate = false;      // queued for quiesce()
    bool spilling = false;
    bool wanted = false;         // asked for while it was being spilled
    bool restoring = false;
    bool replaceable = false;    // lost to corruption: a new value is welcome
    bool maker_told = false;     // while replaceable: its maker is asked to make it again
    bool has_lineage = false;    // ours: NodeTable knows how it can be made again
    bool exposed = false;        // ours: other nodes may know it
    bool foreign = false;        // another node owns it
    bool told_held = false;      // foreign: HeldAbroad went out and DroppedAbroad did not
    bool elsewhere = false;      // ours, kArena: `locator` is on another node
    bool has_copies = false;     // ours: NodeTable knows of bytes on other nodes
    uint32_t kept = 0;           // foreign: the owner counts on the bytes here
    uint32_t containers = 0;     // live objects that contain this one
    uint64_t size = 0;
    std::string bytes;
    Locator locator;             // kArena
    SpillPlace spill;            // file 0 = no copy on disk
    std::vector<ObjectId> contained;
    std::vector<std::pair<ProcessId, int32_t>> holds;    // never 0
    std::vector<ProcessId> publishers;
    struct Subscriber { ProcessId process; bool restore; };
    std::vector<Subscriber> subscribers;
    std::list<ObjectId>::iterator lru;      // valid while state == kArena and not elsewhere
    bool in_arena() const { return state == ValueState::kArena && !elsewhere; }
  };
  // Nothing when unknown. Valid until the next call.
  const Entry* find(const ObjectId& id) const;
  const std::unordered_map<ObjectId, Entry>& entries() const { return entries_; }
  size_t process_count() const { return processes_.size(); }

 private:
  struct ProcessRow {
    std::unordered_set<ObjectId> holds;         // entries with a count of this process
    std::unordered_set<ObjectId> interests;     // entries it published or subscribed to
  };
  ProcessRow* row(ProcessId process);
  Entry* find_mutable(const ObjectId& id);
  Entry& entry(const ObjectId& id) {
    auto [it, fresh] = entries_.try_emplace(id);
    if (fresh && self_ != kNoProcess) it->second.foreign = is_foreign(id);
    return it->second;
  }
  void add_hold(const ObjectId& id, Entry& e, ProcessId process, int32_t delta, Actions& out);
  static void note_held(const ObjectId& id, Entry& e, Actions& out);
  void contain(Entry& e, const ObjectId& id, std::span<const ObjectId> contained, Actions& out);
  void collect_foreign(const ObjectId& id, Entry& e, Actions& out);
  void lose_copy(const ObjectId& id, Entry& e, bool corrupt, Actions& out);
  void erase_if_idle(const ObjectId& id, Entry& e);
  static bool is_dead(const Entry& e);
  void consider(const ObjectId& id, Entry& e);
  bool take_value(const ObjectId& id, Entry& e, std::span<const ObjectId> contained, Actions& out);
  // True: the subscriber has its answer. False: it must wait.
  bool try_answer(const ObjectId& id, Entry& e, Entry::Subscriber to, Actions& out);
  void resolve(const ObjectId& id, Entry& e, Actions& out);
  void tell_maker(const ObjectId& id, Entry& e, Actions& out);
  void answer_error(const ObjectId& id, Entry& e, LossCause cause, Actions& out);
  void lose(const ObjectId& id, Entry& e, LossCause cause, Actions& out);
  void drop_value(const ObjectId& id, Entry& e, Actions& out);
  void collect(const ObjectId& id, Actions& out);

  EncodeError encode_error_;
  ProcessId self_;
  bool frozen_ = false;
  std::unordered_set<uint64_t> adopted_;        // homes of the dead, as id.hi >> 32
  std::unordered_map<ObjectId, Entry> entries_;
  std::unordered_map<ProcessId, ProcessRow> processes_{{kDaemonProcess, {}}};
  std::list<ObjectId> lru_;                     // objects in the arena, least recently used first
  std::vector<ObjectId> fresh_, aged_;  // candidates of this drain round and of the one before
  std::vector<ObjectId> frozen_candidates_;     // seen while frozen
};

}  // namespace sheaf::objstore
