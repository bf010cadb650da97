// A cluster of three or four nodes and at most two objects, small enough to see every state that
// it can reach. The tables are the real ones; wires, processes, arenas and the controller's part in
// a death are modelled. When node 1 dies, its next life is one node more, with the same number. A
// state is a value: a step makes a new one.
//
// NoDangling: while a process of a live node has a reference, or one is on its way to it, the
// object's value is somewhere, unless a death took the last of it. OneOwner: no two live nodes own
// one object. NoLeak: when nobody has a reference and nothing moves, no table has anything left.
// NoHang: when nothing moves, nobody waits.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "objstore/node_table.h"
#include "tests/checker/explore.h"

namespace sheaf::objstore::checker {

using sheaf::checker::Hash;

inline constexpr int kNodesMax = 4;   // numbers 1 and up; 1 is the head, the last its next life
inline constexpr int kObjects = 2;
template <class T>
using ByNode = std::array<T, kNodesMax + 1>;
template <class T>
using ByObject = std::array<T, kObjects>;

enum StepKind : uint8_t {
  kDeliver, kEndPull, kRetry, kDeclare, kLoseHead, kNextHead, kRejoin, kAllBack,   // bound to be
  kDrop, kSend, kCall, kKeep, kFinish, kGet, kDecode, kEvict, kCrash  // what may happen
};
struct Step {
  StepKind kind = kDeliver;
  uint8_t a = 0, b = 0, object = 0;
};
std::string to_text(const Step& step);

struct Config {
  std::string name;
  int nodes = 3;
  int home = 2;             // of object 0
  int maker = 0;            // of object 0's bytes; 0 = it is a small value at home
  int inner_home = 0;       // object 1, a small value, is inside object 0; 0 = there is none
  bool broadcast = false;   // one reader at a time from each node that has it, or a part of it
  int sends = 0, calls = 0, keeps = 0, gets = 0, decodes = 0, evictions = 0, crashes = 0;
  int heads = 0;            // that die: at most one, of at most three nodes
  uint64_t limit = UINT64_MAX;   // of states
};

class Model {
 public:
  explicit Model(const Config& config);

  std::vector<Step> steps() const;
  void apply(const Step& step);
  // Empty, or the invariant that no longer holds and why.
  const std::string& violation() const { return violation_; }
  Hash hash() const;

 private:
  // From kReached on: between the controller and a node; `object` is the dead one. kView: the next
  // life of the head to those who have registered again.
  enum class RecordKind : uint8_t {
    kNone, kGive, kArgument, kReply, kReached, kGone, kClosed, kView
  };
  struct Message {
    ObjectMessage message;
    Hash hash;            // but for registrations, whose numbers are relative
  };
  struct Item {
    std::shared_ptr<const Message> message;   // or
    RecordKind record = RecordKind::kNone;
    uint8_t object = 0;
  };
  using Wire = std::vector<Item>;
  struct Task {
    uint8_t from, object;
  };
  struct Process {
    ByObject<uint8_t> refs{};
    ByObject<bool> waits{};
    ByObject<ByNode<uint8_t>> calls{};   // under way, by node
    std::vector<Task> tasks;
  };
  struct Extent {
    uint32_t generation = 0;
    bool whole = true;        // else a pull writes there, or waits for another source
    uint8_t object = 0;
  };
  struct Pull {
    uint8_t from, to, object;
    Locator remote;
    uint32_t local = 0;       // generation
  };
  struct Left {
    int8_t sends, calls, keeps, gets, decodes, evictions, crashes, heads;
  };
  // Shared between states until one of them changes it.
  struct Node {
    NodeTable table;
    std::vector<Extent> arena;
    uint32_t last_generation = 0;
    mutable std::optional<Hash> hash;
  };

  ProcessId process_of(int n, uint32_t which) const {
    bool next = n > members_;
    return make_process(static_cast<uint16_t>(next ? 1 : n), next ? 2 : 1, which);
  }
  ProcessId daemon(int n) const { return process_of(n, 1); }
  ProcessId process(int n) const { return process_of(n, 100); }
  int index_of(ProcessId daemon) const {
    return incarnation_of(daemon) == 2 ? members_ + 1 : node_of(daemon);
  }
  // How a barrier is called by the controller beside head `by`.
  static uint64_t barrier_of(int dead, int by) {
    return (by == 1 ? uint64_t{1} : uint64_t{2}) << 32 | static_cast<uint64_t>(dead);
  }
  // Whether a process of n can have found one of m.
  bool can_reach(int n, int m) const;
  bool has_controller() const { return alive(head_) && (head_ == 1 || restored_); }
  bool alive(int n) const { return !dead_[n]; }
  const NodeTable& table(int n) const { return nodes_[n]->table; }
  Node& change(int n);
  int index_of(const ObjectId& id) const { return id == ids_[0] ? 0 : 1; }
  void fail(const char* invariant, std::string why);

  // Steps
  void begin(const Config& config);
  void deliver_all();
  bool may_end(const Pull& pull) const;
  int calls_under_way(int n, int object) const;
  void add_choices(int n, std::vector<Step>& out) const;
  void act(const Step& step);
  void deliver(int from, int to);
  void end_pull(size_t i);
  void evict(int n);
  void crash(int n);
  void declare(int dead);
  void hear_of(int n, int dead, int from);
  void forget_processes_of(int n, int dead);
  void add_head_steps(std::vector<Step>& out) const;
  void lose_head(int n);
  void begin_next_head();
  void rejoin(int n);
  void end_restoring();
  void lose(Wire& wire);
  void close(int n, int dead, int from);
  void close_what_all_reached();

  // What a daemon's service does
  void perform(int n, Actions& actions);
  void perform_one(int n, Action& action, std::vector<ObjectId>& lost, bool& ready);
  void start_pull(int n, const StartPull& pull, Actions& actions);
  void drop_abandoned(int n);
  void give_up(int n, const ObjectId& id, Actions& actions);
  void answer(int n, const NotifyReady& ready);
  void send(int from, int to, ObjectMessage message);
  void record(int from, int to, RecordKind kind, int object);
  void release_records(int from);
  static const Extent* find(const Node& node, uint32_t generation);

  // Invariants
  bool reachable(int object) const;
  bool has_value(int n, int object) const;
  bool available(int object) const;
  bool at_rest() const;
  void check();
  void check_owners();
  void check_rest();
  bool check_waits();
  void check_leaks();
  void end_processes();

  Hash hash_of(int n) const;

  ByObject<ObjectId> ids_;
  ByObject<int> homes_{};
  int members_, count_, objects_ = 1;   // nodes at first, with the next life of 1; objects
  int head_ = 1;
  bool broadcast_ = false;
  ByNode<std::shared_ptr<Node>> nodes_;
  ByNode<Process> processes_;
  ByNode<ByNode<Wire>> wires_, held_back_;
  std::vector<Pull> pulls_;
  ByNode<ByObject<bool>> retries_{};
  ByNode<bool> dead_{}, declared_{}, closing_{};
  ByNode<ByNode<bool>> heard_{}, reached_{};   // [dead][node]
  ByNode<bool> lost_{}, rejoined_{};           // know that node 1 is gone; are with its next life
  bool restored_ = false;                      // and so are all that live
  bool lost_records_ = false;   // with references, whose receivers hold them until they end
  ByObject<bool> wounded_{}, excused_{};   // a death took some of it; or the last, maybe
  Left left_{};
  std::string violation_;
};

}  // namespace sheaf::objstore::checker
