// The daemon's object store: arena, extents, table, pins and spill files behind one interface for
// the control loop.
//
// Single-threaded: every method and callback runs on the loop. Callbacks are called from within
// methods and must not call the store again; queue and send. `process` is always the client a
// message came from. The loop calls poll() when `wake` asked for it and at next_wakeup(), and
// quiesce() once after every full round over all lanes.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/ids.h"
#include "core/status.h"
#include "objstore/arena.h"
#include "objstore/extent_table.h"
#include "objstore/node_objects.h"
#include "objstore/node_table.h"
#include "objstore/object_table.h"
#include "objstore/pins.h"
#include "objstore/spill.h"
#include "transport/fabric/fabric.h"

namespace sheaf::objstore {

using TimePoint = std::chrono::steady_clock::time_point;

struct StoreOptions {
  Arena* arena = nullptr;                       // outlives the store
  uint16_t node = 0;
  std::string spill_directory;  // "" = never spill. Made by the store, removed at close()
  uint64_t spill_file_bytes = 100ull << 20;
  uint64_t spill_max_bytes = 0;                 // on disk at most, 0 = no limit of ours
  // How long a subscription may wait for an object nobody knows of before it is answered with
  // kUnknown.
  std::chrono::milliseconds unknown_grace{5000};
  // How long a restore, or a slab lease, may wait for room before it fails with kStoreFull or
  // kOutOfMemory.
  std::chrono::milliseconds space_wait{30000};

  std::function<void(ProcessId process, const ObjectEvent& event)> notify;
  // The answer to an alloc_extent or lease_slab that had to wait.
  std::function<void(ProcessId process, uint64_t request, Result<Locator> answer)> space_ready;
  std::function<std::string(LossCause cause, const ObjectId& id)> encode_error;
  std::function<void()> wake;                   // the only one called from other threads

  // ---- Other nodes; see "Other nodes" in Store.
  // This daemon as other nodes see it; kNoProcess: there are none, ever.
  ProcessId daemon = kNoProcess;
  // Delivered exactly once and in order while both daemons live, before any record that is sent
  // after it. To daemons that are up only.
  std::function<void(ProcessId to, const ObjectMessage& message)> tell;
  // As Fabric::pull with region 0, the whole arena.
  std::function<Result<transport::PullId>(
      ProcessId from, const transport::RemoteRange& range, std::span<std::byte> into,
      transport::PullPriority priority, transport::Fabric::OnPulled done)> pull;
  std::function<void(transport::PullId)> cancel_pull;
  // Answers peer_down(): nothing of that peer is accepted any more, and what this node had
  // registered by then is counted. Report it to the controller.
  std::function<void(uint64_t barrier)> barrier_reached;
  // After may_forward() said no: ask again, before each record.
  std::function<void(ProcessId to)> forward_ready;
  // A process that can run a task of this job again: of this node, or of another; or the daemon of
  // another node, which may know one. kNoProcess: there is none but `tried`.
  std::function<ProcessId(JobId job, const std::set<ProcessId>& tried)> find_maker;
  // It is to run the task again; maker_gone() says when it cannot.
  std::function<void(ProcessId maker, const TaskRecord& record)> hand_task;
  // Objects from here on that many nodes want are read by so many at once from each that has them,
  // or a part of them; see NodeTable::set_broadcast.
  uint64_t broadcast_bytes = 4ull << 20;
  uint32_t broadcast_readers = 1;
  // They come in chunks of this size (0: a part of the object's), and are asked for again so long
  // after the source said that it has not got them yet itself.
  uint64_t chunk_bytes = 0;
  std::chrono::milliseconds chunk_retry{2};
};

class Store : public transport::RangeGuard {
 public:
  static Result<std::unique_ptr<Store>> create(StoreOptions options);
  ~Store() override;

  // ---- Processes
  // Before its first message. `pins` lies in the LaneRegion, zeroed; null: it never reads the
  // arena.
  void process_joined(ProcessId process, PinTableBlock* pins, uint32_t pin_slots);
  // Handle all its messages first. Holds and subscriptions go, what it published and never resolved
  // becomes kOwnerDied. `memory_gone`: its address space is gone too (end of file on its socket, or
  // reaped), so that its extents and pins are released; with false (death-lock) only the table
  // acts, and a second call with true must follow.
  void process_died(ProcessId process, bool memory_gone = true);

  // ---- Space
  // An engaged result is the answer; else space_ready brings it, within `wait`. kOutOfMemory says
  // what is needed, used and pinned by whom. The locator is unsealed, its header unwritten.
  std::optional<Result<Locator>> alloc_extent(ProcessId process, uint64_t request,
                                              uint64_t payload_bytes,
                                              std::chrono::milliseconds wait, TimePoint now);
  // {offset, length, generation} of a formatted slab.
  std::optional<Result<Locator>> lease_slab(ProcessId process, uint64_t request, TimePoint now);
  // Unknown extents are ignored.
  void abort_extent(ProcessId process, const Locator& locator);

  // ---- Objects; the rules are ObjectTable's. An error means a broken client: end its session.
  Status seal(ProcessId process, const ObjectId& id, const Locator& locator, ProcessId holder,
              std::span<const ObjectId> contained);
  Status publish(ProcessId process, const ObjectId& id, ValueState state, std::string bytes,
                 std::span<const ObjectId> contained);
  // `on_behalf_of` 0 = the sender itself.
  void hold(ProcessId process, ProcessId on_behalf_of, std::span<const ObjectId> add,
            std::span<const ObjectId> drop);
  // `where`: as in protocol.h ObjectSubscribe; may be shorter than `ids`.
  void subscribe(ProcessId process, std::span<const ObjectId> ids, bool restore, TimePoint now,
                 std::span<const Locator> where = {});
  void free(std::span<const ObjectId> ids);
  // A task that `process` submitted can be run again by others of its job. Precedes whatever lets a
  // reference to its returns leave the process.
  Status record_task(ProcessId process, TaskRecord record);
  // The result of a task that `process` was handed: as publish(), without a hold.
  Status made(ProcessId process, const ObjectId& id, ValueState state, std::string bytes,
              std::span<const ObjectId> contained);
  // Of another node: one that was handed a task, or a daemon that was to choose one. (For those of
  // this node process_died() does.)
  void maker_gone(ProcessId maker);
  // Of an object of this node: its bytes are kept on so many other nodes, too, as far as there are
  // nodes and room. Nodes that die are replaced.
  void replicate(const ObjectId& id, uint32_t copies);

  // ---- Other nodes, each seen as its daemon's ProcessId (scheduler::daemon id: number 1 there).
  // Processes of other nodes may be named as `holder` and `on_behalf_of` at any time.
  // That life of a node is known and may be told things. Before the first message from it.
  void peer_up(ProcessId daemon);
  // It is dead. Nothing of it may be handed to on_peer() any more. Its holds go; objects whose only
  // bytes were there are made again or become errors; what it owned belongs to node 1. While a
  // barrier is open nothing is freed here. Answered by barrier_reached, maybe within this call.
  // Barrier 0: it was dead before this node joined; not answered.
  void peer_down(ProcessId daemon, uint64_t barrier, TimePoint now);
  // Node 1's life is over, and there is no controller to say so; see NodeTable::peer_away().
  void peer_away(ProcessId daemon);
  // While others may still come back: nobody is given up for not having come yet.
  void expect_peers(bool expecting) { expecting_ = expecting; }
  // Every live node has reached it. Barriers of later lives of the controller have greater upper
  // halves; the first of them that closes also closes all of the lives before.
  void barrier_closed(uint64_t barrier);
  // kCorrupt: nonsense; its sender is broken or an attacker.
  Status on_peer(ProcessId daemon, ObjectMessage message, TimePoint now);
  // A record, or anything else that may carry a reference or answer one, goes to another node only
  // while this is true: all that this node had registered elsewhere is counted. False: keep it (and
  // what follows it to that node), and ask again when forward_ready(to) comes.
  bool may_forward(ProcessId to) { return nodes_.may_forward(to); }
  // `gate`: 0 for a fresh record; what it is set to belongs to this record, for the next question.
  bool may_forward(ProcessId to, uint64_t& gate) { return nodes_.may_forward(to, gate); }
  // The exporting side of pulls. `range` lies in the payload of one object.
  Status acquire(const transport::PeerId& reader, const transport::RemoteRange& range) override;
  void release(const transport::PeerId& reader, const transport::RemoteRange& range) override;

  // ---- The loop
  // True: drain all lanes and call again before sleeping.
  bool quiesce();
  // I/O completions, waiting allocations, released pins, expired waits.
  void poll(TimePoint now);
  // When poll() is due at the latest; nothing when only an event can bring work.
  std::optional<TimePoint> next_wakeup(TimePoint now) const;
  // Stops the I/O threads, deletes the spill files. Waiting requests are answered kCancelled.
  Status close();

  // ---- Observation
  struct ObjectInfo {
    ObjectId id;
    ValueState state = ValueState::kPending;
    uint64_t size = 0;                          // payload bytes
    bool pinned = false;
    bool on_disk = false;
    uint32_t containers = 0;
    std::vector<std::pair<ProcessId, int32_t>> holders;
  };
  std::vector<ObjectInfo> list_objects(size_t limit) const;
  struct PinInfo { ProcessId process; uint64_t objects; uint64_t bytes; };
  std::vector<PinInfo> list_pins() const;
  struct Metrics {
    uint64_t arena_bytes = 0, used_bytes = 0, committed_bytes = 0, largest_free_bytes = 0;
    uint64_t objects = 0, objects_in_arena = 0, objects_spilled = 0, slabs = 0;
    uint64_t waiting_allocations = 0, awaiting_unpin = 0;
    uint64_t spilled_bytes_total = 0, restored_bytes_total = 0, spill_failures_total = 0;
    uint64_t spill_files = 0, disk_bytes = 0;
    uint64_t pulls_total = 0, pulled_bytes_total = 0, pull_failures_total = 0;
    uint64_t copies = 0;                        // bytes of other nodes' objects, by object
    uint64_t lineage_records = 0;               // tasks that can be run again for this node
    uint64_t lineage_values = 0;                // small values that node 1 has, too
    uint64_t lineage_kept = 0;                  // both, here, for other nodes
  };
  Metrics metrics() const;
  const NodeTable& nodes() const { return nodes_; }
  // "need 4.0 MiB, used 60.0 MiB of 64.0 MiB; pinned: process 7 (3 objects, 48.0 MiB)"
  std::string describe_usage(uint64_t needed_bytes) const;

 private:
  enum class WaitKind : uint8_t { kExtent, kSlab, kRestore, kPull };
  struct Waiting {
    WaitKind kind;
    ProcessId process;
    uint64_t request;
    uint64_t payload_bytes;
    TimePoint deadline;
    ObjectId id{};          // kRestore, kPull
    SpillPlace place{};     // kRestore
    ProcessId from = 0;     // kPull
    Locator remote{};       // kPull
    uint64_t bytes() const {
      return kind == WaitKind::kSlab ? kSlabBytes : kHeaderBytes + payload_bytes;
    }
  };
  explicit Store(StoreOptions options);

  // `change(actions)` appends what follows from a change.
  template <class F>
  void apply(F change) {
    Actions actions;
    change(actions);
    perform(actions);
  }
  void perform(Actions& actions);
  void note_unknown(const ObjectId& id);
  void poll_nodes();
  bool try_release(const Locator& locator);
  void start_spill(const StartSpill& action);
  void spill_done(const ObjectId& id, const Locator& locator, const Result<SpillPlace>& place);
  void try_evict(const ObjectId& id, const Locator& locator);
  void start_restore(const StartRestore& action);
  void read_back(const Waiting& w, const Locator& locator);
  void start_pull(const StartPull& action);
  // An object on its way here, in chunks. Others may read those at its front that have come. When
  // its source fails it keeps what it has, until nodes_ names another or gives it up.
  struct Incoming {
    enum class Chunk : uint8_t { kMissing, kAsked, kHere };
    ObjectId id;
    Locator local, remote;
    ProcessId from = 0;
    uint64_t chunk_bytes = 0;
    std::vector<Chunk> chunks;
    size_t front = 0;            // so many are here without a gap
    uint32_t under_way = 0;
    std::optional<TimePoint> again_at;   // the source had no more yet: nothing is asked till then
    bool has_source = false;
    bool announced = false;      // the owner may send others here
    bool given_up = false;       // only those who read it keep it
    Status failed;
    uint64_t here_bytes() const { return std::min(front * chunk_bytes, local.length); }
  };
  void pull_into(const Waiting& w, const Locator& locator);
  void read_from(Incoming& in, const Waiting& w);
  void ask_for_chunks(Incoming& in);
  void chunk_done(uint64_t offset, size_t chunk, const Status& status);
  void end_reading(Incoming& in);
  void forget_incoming(uint64_t offset);
  void poll_pulls();
  Incoming* incoming_at(const transport::RemoteRange& range);
  void perform_remote(Action& action);
  void perform_lineage(Action& action);
  void find_makers();
  // Somebody reads or writes there: another node, or an I/O thread.
  bool is_busy(uint64_t offset) const {
    return io_offsets_.contains(offset) || readers_.contains(offset);
  }
  void fail_waiting(const Waiting& w, StatusCode code, const std::string& why);

  std::optional<Locator> try_place(const Waiting& w);
  // Engaged: the answer. Else `w` is queued.
  std::optional<Result<Locator>> place_or_wait(const Waiting& w);
  void make_space(uint64_t bytes_needed);
  void serve_waiting();
  void expire_unknown();
  bool sweep();
  std::unordered_set<uint64_t> pinned_offsets() const;

  StoreOptions options_;
  std::byte* base_;
  ExtentTable extents_;
  NodeTable nodes_;
  ObjectTable& table_;                                           // of nodes_
  PinRegistry pins_;
  std::unique_ptr<SpillFiles> spill_;
  std::deque<Waiting> waiting_;                                  // first come, first served
  std::vector<Locator> doomed_;  // freed, but still pinned or under I/O
  std::unordered_set<uint64_t> io_offsets_;  // objects that I/O threads or pulls read or write
  std::unordered_map<uint64_t, uint32_t> readers_;   // objects that other nodes read, and how many
  std::map<uint64_t, Incoming> incoming_;            // by offset in the arena
  std::map<uint64_t, transport::PullId> pulls_;      // of chunks, by ticket
  uint64_t last_ticket_ = 0;
  std::multimap<TimePoint, ObjectId> retries_;       // of fetches
  std::multimap<TimePoint, ProcessId> awaited_;      // peers that were never up
  std::vector<FindMaker> finds_;                     // of the actions that are being performed
  std::multimap<TimePoint, ObjectId> unknown_;  // subscriptions to objects nobody knows of
  TimePoint now_{};                                              // of the latest call that had one
  bool expecting_ = false;
  bool poll_soon_ = false;  // room was made, and somebody waits for it
  bool settling_ = false;   // somebody waits for what is about to be freed
  TimePoint spill_retry_at_{};                                   // after a failed spill
  std::string trouble_;  // why the last spill or growth failed
  uint64_t spilling_bytes_ = 0;
  uint64_t spilled_bytes_total_ = 0, restored_bytes_total_ = 0, spill_failures_total_ = 0;
  uint64_t pulls_total_ = 0, pulled_bytes_total_ = 0, pull_failures_total_ = 0;
};

}  // namespace sheaf::objstore
