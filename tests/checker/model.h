// One small cluster as a state to be copied, hashed and stepped: the real controller and agent, a
// journal, and processes that do what a bounded plan allows, in every order.
//
// Whatever sheafd does in one turn of its loop is one step: the machines' queues are drained in it.
// Everything else is a choice: which message arrives next, who dies when, how much of the journal a
// crash leaves. Time all but stands still; the waits under check are those for facts.
#pragma once

#include <array>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "scheduler/agent.h"
#include "scheduler/controller.h"
#include "tests/checker/explore.h"

namespace sheaf::checker {

using namespace sheaf::scheduler;   // NOLINT: the checker speaks the machines' language

struct ActorPlan {
  bool detached = false;
  int32_t max_restarts = 0;
  std::string name;
};

// How often each may happen along one path.
enum Budget : size_t {
  kDrivers, kDriverDeaths, kCrashes, kSpawnFailures, kBrokenConstructors, kExits, kDrops, kKills,
  kSoftKills, kLookups, kPuts, kGets, kFunctions, kFullDisks, kRestarts, kBudgets
};

struct Config {
  std::string name;
  std::vector<ActorPlan> actors;
  std::array<uint8_t, kBudgets> budget{};
  bool with_node = true;
  uint64_t limit = UINT64_MAX;   // of states
};

enum class Act : uint8_t {
  // What is bound to happen; a state where none of these can is at rest.
  kSpawn, kConstruct, kObey, kMessage, kSync, kFreeDisk,
  // What may happen.
  kSpawnFails, kBreak, kCrash, kExit, kFillDisk, kRestart, kJoin, kDriverDies, kCreate, kDrop,
  kKill, kSoftKill, kLookUp, kPut, kGet, kFunction
};
inline constexpr Act kLastBound = Act::kFreeDisk;
struct Step {
  Act act = Act::kSync;
  uint64_t a = 0;   // a process, or a number
  uint32_t b = 0;
};
std::string to_text(const Step& step);

class Model {
 public:
  explicit Model(const Config& config);

  std::vector<Step> steps() const;
  // Empty, or the invariant that no longer holds and why.
  const std::string& violation() const { return violation_; }
  void apply(const Step& step);
  Hash hash() const;

 private:
  bool let_happen(const Step& step);
  void ask(const Step& step);
  struct Death {};
  using Message = std::variant<ControllerEvent, Death>;
  struct View {            // of an actor, by a driver
    protocol::ActorState state = protocol::ActorState::kPending;
    uint32_t incarnation = 0;
    ProcessId process = 0;
    bool held = false;
    bool operator==(const View&) const = default;
  };
  struct Wait {
    Act what = Act::kPut;
    uint32_t number = 0;
    ActorId actor;
  };
  struct Process {
    bool driver = false, alive = true, told_to_go = false, constructed = false, exiting = false;
    JobId job = 0;
    ActorId actor;
    uint32_t incarnation = 0;
    uint64_t requests = 0;
    std::deque<Message> sent;            // not read by the daemon yet
    std::map<ActorId, View> views;
    std::map<uint64_t, Wait> waits;
  };
  struct Batch {
    uint64_t sequence = 0;
    std::vector<JournalRecord> records;
  };
  struct Acked {
    JobId job = 0;
    bool restartable = false;
  };

  void fail(const char* invariant, const std::string& what);
  bool spend(Budget budget);
  void start();
  void restart(uint32_t kept);
  void enqueue(AgentEvent event) { agent_queue_.push_back(std::move(event)); }
  void enqueue(ControllerEvent event) { controller_queue_.push_back(std::move(event)); }
  void drain();
  void read_message(ProcessId id, bool agent_first);
  bool apply_batch(const Batch& batch);
  void sync();
  template <class M>
  void send(ProcessId from, M message, std::optional<Wait> wait = std::nullopt);
  void answered(Process& process, const Wait& wait, const Reply& reply);
  void create(ProcessId driver, uint32_t index);
  void join();
  void kill(ProcessId id);
  ActorId held_actor(uint32_t index) const;

  void perform(const SpawnWorker& a) { spawns_[a.token] = a.key; }
  void perform(const StartActor& a);
  void perform(const KillWorker& a);
  void perform(const ExitWorker& a);
  void perform(const ToController& a) { enqueue(ControllerEvent(FromNode{kNode, a.report})); }
  void perform(const AppendJournal& a) { journal_.push_back({a.sequence, a.records}); }
  void perform(const Reply& a);
  void perform(const ToNode& a) { enqueue(AgentEvent(FromController{a.message})); }
  void perform(const PushActorUpdate& a);
  template <class Other>
  void perform(const Other&) {}

  void check();
  void check_authority();
  void check_restored();
  void check_rest();
  void check_disk();
  bool at_rest() const;

  static constexpr NodeId kNode{7, 7};

  const Config* config_;
  Controller controller_;
  Agent agent_;
  std::deque<AgentEvent> agent_queue_;
  std::deque<ControllerEvent> controller_queue_;
  std::map<std::pair<RecordKind, std::string>, std::string> disk_;
  std::deque<Batch> journal_;            // appended, not durable
  bool full_ = false;
  Time now_{std::chrono::seconds(1)};    // moves by the controller's shortest waits alone
  std::map<uint64_t, PoolKey> spawns_;
  std::map<ProcessId, Process> processes_;
  ProcessId next_process_ = 2;
  std::array<uint8_t, kBudgets> budget_;
  uint32_t created_ = 0;                 // bits: actors of the plan

  std::map<ActorId, uint32_t> started_;  // highest incarnation that a worker was given
  std::map<ActorId, Acked> acked_;       // detached actors that somebody may count on
  uint32_t issued_ = 0, known_ = 0;      // writes of the one key
  JobId newest_job_ = 0;
  std::string violation_;
};

}  // namespace sheaf::checker
