// One agent or controller under a test's hand: events in, actions kept until asked for.
#pragma once

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/wire.h"
#include "scheduler/agent.h"
#include "scheduler/controller.h"

namespace sheaf::scheduler::testing {

using namespace std::chrono_literals;

inline const NodeId kNode{7, 7};

template <class Machine, class Event, class Action>
class Bench {
 public:
  template <class... Args>
  explicit Bench(Args&&... args) : machine(std::forward<Args>(args)...) {}

  void send(Event event) { keep(machine.handle(event, now)); }
  void keep(std::vector<Action> actions) {
    for (Action& action : actions) log.push_back(std::move(action));
  }
  // All actions of a kind since the last call, taken out.
  template <class T>
  std::vector<T> take() {
    std::vector<T> out;
    std::erase_if(log, [&](Action& action) {
      if (!std::holds_alternative<T>(action)) return false;
      out.push_back(std::get<T>(std::move(action)));
      return true;
    });
    return out;
  }
  template <class Tick>
  void advance(Time by, Tick) {
    const Time end = now + by;
    while (auto next = machine.next_tick()) {
      if (*next > end) break;
      now = std::max(now, *next);
      send(Tick{});
    }
    now = end;
  }

  Machine machine;
  Time now{1s};
  std::vector<Action> log;
};

class AgentBench : public Bench<Agent, AgentEvent, AgentAction> {
 public:
  explicit AgentBench(ResourceMap total, AgentConfig config = {})
      : Bench(with(std::move(total), std::move(config))) {}

  void advance_by(Time by) { advance(by, Tick{}); }
  void request(ProcessId client, uint32_t class_id, ResourceMap resources, uint32_t backlog,
               JobId job = 1) {
    protocol::SchedulingClass spec;
    spec.resources = std::move(resources);
    send(LeaseRequested{client, job, class_id, spec, backlog});
  }
  // Registers a process for every spawn asked for, and for those that follow.
  std::vector<ProcessId> register_spawned() {
    std::vector<ProcessId> made;
    for (auto spawns = take<SpawnWorker>(); !spawns.empty(); spawns = take<SpawnWorker>()) {
      for (const SpawnWorker& spawn : spawns) {
        made.push_back(next_process);
        send(WorkerRegistered{spawn.token, next_process++});
      }
    }
    return made;
  }
  std::vector<GrantLease> grants() {
    register_spawned();
    return take<GrantLease>();
  }
  template <class T>
  std::vector<T> reports() {
    std::vector<T> out;
    for (ToController& action : take<ToController>()) {
      if (auto* report = std::get_if<T>(&action.report)) out.push_back(std::move(*report));
    }
    return out;
  }
  ResourceAmount free(std::string_view name) const {
    return amount_of(machine.resources().available(), name);
  }

  ProcessId next_process = 100;

 private:
  static AgentConfig with(ResourceMap total, AgentConfig config) {
    config.node = kNode;
    config.total = std::move(total);
    return config;
  }
};

class ControllerBench : public Bench<Controller, ControllerEvent, ControllerAction> {
 public:
  explicit ControllerBench(ControllerConfig config = {}) : Bench(config) {
    keep(machine.start(now));
    sync();
  }
  // The life after `before`, with what its disk holds.
  explicit ControllerBench(const ControllerBench& before, bool sync_boot = true)
      : Bench(ControllerConfig{}) {
    disk = before.disk;
    strange = machine.restore(before.disk_records());
    keep(machine.start(now));
    if (sync_boot) sync();
  }
  void advance_by(Time by) { advance(by, ControllerTick{}); }

  void add_node(ResourceMap total = {{"CPU", 4 * kResourceUnit}}, NodeId node = kNode) {
    const auto number = static_cast<uint16_t>(machine.nodes().size() + 1);
    send(NodeJoined{node, std::move(total), {}, "host", "", number, 0});
  }
  // Through the whole handshake; returns its number.
  uint16_t join(NodeId node, ResourceMap total, Labels labels = {}) {
    NodeJoin ask;
    ask.node = node;
    ask.hostname = "host";
    send(NodeAsks{ask});
    sync();
    const std::vector<NodeAccepted> accepted = take<NodeAccepted>();
    SHEAF_CHECK(accepted.size() == 1 && !accepted[0].member);
    ask.number = accepted[0].number;
    ask.incarnation = accepted[0].incarnation;
    ask.address = "host:2";
    ask.total = std::move(total);
    ask.labels = std::move(labels);
    send(NodeAsks{ask});
    take<NodeAccepted>();
    return ask.number;
  }
  // Messages of a kind to one node since the last call; those to others are dropped.
  template <class T>
  std::vector<T> told(NodeId node) {
    std::vector<T> out;
    std::erase_if(log, [&](ControllerAction& action) {
      auto* message = std::get_if<ToNode>(&action);
      if (!message || !std::holds_alternative<T>(message->message)) return false;
      if (message->node == node) out.push_back(std::get<T>(message->message));
      return true;
    });
    return out;
  }
  JobId add_driver(ProcessId process, const std::string& name_space = "") {
    send(ClientJoined{process, protocol::ClientKind::kDriver, 0});
    protocol::RegisterJob job;
    job.name_space = name_space;
    ask(process, job);
    return machine.job_of(process);
  }
  // Sends a request and returns its number.
  template <class Message>
  uint64_t ask(ProcessId process, Message message) {
    const uint64_t request = next_request++;
    send(From<Message>{process, request, std::move(message)});
    return request;
  }
  template <class Message>
  void post(ProcessId process, Message message) {
    send(From<Message>{process, 0, std::move(message)});
  }
  // The answer to a request, if it has been given.
  std::optional<Reply> answer(uint64_t request) {
    for (Reply& reply : take<Reply>()) replies[reply.request] = std::move(reply);
    auto it = replies.find(request);
    if (it == replies.end()) return std::nullopt;
    return it->second;
  }
  template <class T>
  T payload(uint64_t request) {
    auto reply = answer(request);
    SHEAF_CHECK(reply && reply->code == StatusCode::kOk);
    return *wire::decode<T>(reply->payload);
  }
  // Everything appended so far becomes durable, and what that causes too.
  void sync() {
    for (auto appends = take<AppendJournal>(); !appends.empty(); appends = take<AppendJournal>()) {
      for (const AppendJournal& append : appends) apply(append);
      send(JournalSynced{{appends.back().sequence, {}}});
    }
  }
  // As on a full disk: what creates fails, what only erases is done.
  void sync_on_full_disk() {
    JournalCompletion completion;
    for (const AppendJournal& append : take<AppendJournal>()) {
      completion.durable = append.sequence;
      const bool creates = std::any_of(append.records.begin(), append.records.end(),
                                       [](const JournalRecord& r) { return r.value.has_value(); });
      if (!creates) apply(append);
      else completion.failed.emplace_back(append.sequence,
                                          Status(StatusCode::kOutOfMemory, "disk full"));
    }
    send(JournalSynced{completion});
  }
  void fail_journal(StatusCode code = StatusCode::kOutOfMemory) {
    JournalCompletion completion;
    for (const AppendJournal& append : take<AppendJournal>()) {
      completion.durable = append.sequence;
      completion.failed.emplace_back(append.sequence, Status(code, "disk full"));
    }
    send(JournalSynced{completion});
  }
  void apply(const AppendJournal& append) {
    for (const JournalRecord& record : append.records) {
      if (record.value) disk[{record.kind, record.key}] = *record.value;
      else disk.erase({record.kind, record.key});
    }
  }
  std::vector<JournalRecord> disk_records() const {
    std::vector<JournalRecord> out;
    for (const auto& [key, value] : disk) out.push_back({key.first, key.second, value});
    return out;
  }
  template <class T>
  std::vector<T> to_node() {
    std::vector<T> out;
    std::erase_if(log, [&](ControllerAction& action) {
      auto* message = std::get_if<ToNode>(&action);
      if (!message || !std::holds_alternative<T>(message->message)) return false;
      out.push_back(std::get<T>(message->message));
      return true;
    });
    return out;
  }
  void report(AgentReport report_, NodeId node = kNode) { send(FromNode{node,
                                                               std::move(report_)}); }

  std::vector<std::string> strange;
  uint64_t next_request = 1;
  std::map<uint64_t, Reply> replies;
  std::map<std::pair<RecordKind, std::string>, std::string> disk;
};

inline ResourceMap cpus(double n) {
  return {{"CPU", static_cast<ResourceAmount>(n * kResourceUnit)}};
}
inline ResourceMap gpus(double n) {
  return {{"GPU", static_cast<ResourceAmount>(n * kResourceUnit)}};
}

}  // namespace sheaf::scheduler::testing
