// Two nodes and the head as a state to be copied, hashed and stepped: the real controller with its
// journal and the real leases; an actor that has to be somewhere; every delay, pause and death.
//
// Time moves in steps of a heartbeat; a lease is five of them. One node's clock is slow. What one
// side has sent arrives in bursts, in order, whenever the checker chooses. Whoever stands still
// neither reads nor sends, and looks at its lease first when it wakes. A head that dies leaves any
// part of what it appended to its journal; nodes that live register again with the next one.
#pragma once

#include <array>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/controller.h"
#include "scheduler/node_lease.h"
#include "tests/checker/explore.h"

namespace sheaf::checker {

using namespace sheaf::scheduler;   // NOLINT: the checker speaks the machines' language

struct LeasePlan {
  std::string name;
  size_t nodes = 2;
  int steps = 0, pauses = 0, head_pauses = 0, kills = 0, crashes = 0, lives = 0;
  bool joined = true;       // they begin as members
  bool slow_disk = false;   // the journal is synced when the checker chooses; else at once
  uint64_t limit = UINT64_MAX;
};

enum class LeaseAct : uint8_t {
  kTime, kUp, kDown, kPause, kWake, kKill, kNotice, kComeBack, kSync, kHeadPause, kHeadWake,
  kHeadCrash
};
struct LeaseStep {
  LeaseAct act = LeaseAct::kTime;
  size_t which = 0;         // node; batches that a crash leaves
};
std::string to_text(const LeaseStep& step);

class LeaseModel {
 public:
  static constexpr size_t kNodes = 2;

  explicit LeaseModel(const LeasePlan& plan);
  std::vector<LeaseStep> steps() const;
  void apply(const LeaseStep& step);
  const std::string& violation() const { return violation_; }
  Hash hash() const;
  // Heals everything and lets all that is bound to happen happen, in turns: then the cluster has to
  // be whole again.
  std::string check_liveness() const;

 private:
  struct Up {
    enum class What : uint8_t { kAskNumber, kJoin, kHeartbeat, kStarted, kLost, kReached } what;
    Time sent{0};
    uint64_t number = 0;    // incarnation, barrier
    std::optional<uint32_t> acts = {};
  };
  struct Node {
    uint64_t life = 1;
    uint16_t number = 0, incarnation = 0;
    bool up = true, paused = false, asked = false;
    Time asked_at{0};
    std::optional<NodeLease> lease;
    std::optional<uint32_t> acts;   // as the actor, of this incarnation
    std::deque<Up> sent;
    std::deque<ControllerAction> coming;
    std::set<uint64_t> reached;
  };
  struct Batch {
    uint64_t sequence = 0;
    std::vector<JournalRecord> records;
  };
  struct Opened {
    std::set<std::pair<size_t, uint64_t>> told;   // node, life
  };

  NodeId id_of(size_t i) const { return {2 + i, nodes_[i].life}; }
  Time clock(size_t i) const { return i == 0 ? now_ * 17 / 20 : now_; }
  bool stopped(size_t i) const;
  std::optional<size_t> with_number(uint16_t number) const;
  void fail(const char* invariant, const std::string& what);
  void start_head(const std::vector<JournalRecord>& records);
  void create_actor();
  void crash_head(size_t kept);
  void apply_batch(const Batch& batch);
  void sync();
  void pass_time();
  void tick();
  void contact(size_t i);
  bool look(size_t i);
  void send(size_t i, Up up);
  void read(size_t i);
  void hear(size_t i, const Up& up);
  void receive(size_t i);
  void take(size_t i, const ControllerAction& action);
  void come_back(size_t i);
  void tell(const ControllerEvent& event) { later_.push_back(event); }
  void settle();
  void perform(const ControllerAction& action);
  void pass_on(const ToNode& message, const ControllerAction& action);
  void declared(const FenceNode& fence);
  void closes(const BarrierClosed& closed);
  void check_authority();
  std::string missing() const;

  const LeasePlan* plan_;
  Controller controller_;
  std::map<std::pair<RecordKind, std::string>, std::string> disk_;
  std::deque<Batch> journal_;
  std::array<Node, kNodes> nodes_;
  std::deque<ControllerEvent> later_;
  std::map<uint16_t, NodeId> given_;      // numbers, ever
  std::map<uint64_t, Opened> opened_;     // barriers
  bool head_paused_ = false;
  Time now_{std::chrono::seconds(100)};
  int steps_, pauses_, head_pauses_, kills_, crashes_, lives_;
  std::string violation_;
};

}  // namespace sheaf::checker
