// The caller's side of actors: handles, ordered calls, and what becomes of calls when the actor dies or moves.
//
// Calls of this process to one concurrency group of an actor leave in the order they were made: one whose arguments are
// not ready holds back those behind it, unless its template says that it may be overtaken. Calls in flight when the
// actor's process dies wait in `limbo` until the controller says what comes next: a restart (those with retries left
// are sent again, first and in order) or the end. Needs the runtime's lock.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "runtime/daemon_link.h"
#include "runtime/task.h"

namespace sheaf::runtime {

// The calls to one concurrency group that were not sent yet, in call order; some may lack dependencies.
struct ActorLine {
  std::string group;
  TaskList queue;
};

struct ActorClient {
  ActorId id;
  protocol::ActorState state = protocol::ActorState::kPending;
  uint32_t incarnation = 0;
  ProcessId process = 0;
  int32_t handles = 0;
  bool held = false;              // the daemon counts us as a holder
  bool subscribed = false;
  bool out_of_order = false;      // of all its methods; else their templates say
  bool creating = false;          // ours, and its constructor call has not been handed over yet
  std::deque<ActorLine> lines = std::deque<ActorLine>(1);   // the default group's is the first
  TaskList limbo;                 // were in flight when the process died
  uint64_t next_sequence = 0;
  uint32_t unanswered = 0;        // lines + in flight + limbo
  protocol::ErrorRecord cause;    // kDead
};

class ActorClients {
 public:
  explicit ActorClients(Runtime::Impl& rt) : rt_(rt) {}

  // Registers the actor and sends its constructor call once the arguments have values.
  void create(protocol::ActorSpec spec, TemplateId constructor, const Arguments& args,
              std::function<void(DaemonLink::Answer&&)> then);
  Status submit(const ActorId& actor, TemplateId method, const Arguments& args, int32_t max_task_retries,
                uint32_t max_pending, uint64_t parent, Slot* returns);
  void retain(const ActorId& actor);
  void release(const ActorId& actor);

  void update(const protocol::ActorUpdate& update);
  void peer_down(Peer& peer);
  void dependencies_ready(Task* task);
  // Sends what had to wait for room in the daemon's lane.
  void send_all();
  // A call that the actor's process gave back, or that failed in a way that allows another attempt.
  void resend(Task* task);
  // Not to be sent any more (cancelled before it left).
  void forget(Task* task);
  // Every call is answered, every constructor handed over.
  bool idle() const;
  // A call of this actor is over.
  void completed(ActorClient& actor);

 private:
  struct Creation {
    protocol::ActorSpec spec;
    std::function<void(DaemonLink::Answer&&)> then;
  };
  ActorClient& get(const ActorId& id);
  void subscribe(ActorClient& a);
  ActorLine& line_of(ActorClient& a, const Task& task);
  void send_line(ActorLine& line, ActorClient& a);
  // Sends one call that has what it needs. False: it waits.
  bool send_one(ActorLine& line, Task* task, ActorClient& a);
  Peer* reachable(const ActorClient& a);
  void send_ready(ActorClient& a);
  void send_creation(ActorClient& a, Task* task);
  void creation_answered(const ActorId& id, DaemonLink::Answer&& answer,
                         std::function<void(DaemonLink::Answer&&)> then);
  void fail_all(ActorClient& a);
  void drop_hold_if_idle(ActorClient& a);

  Runtime::Impl& rt_;
  std::map<ActorId, std::unique_ptr<ActorClient>> actors_;
  std::set<ActorClient*> living_;   // of them, who are not known to be dead: only they may have calls to send
  std::map<Task*, Creation> creations_;
};

}  // namespace sheaf::runtime
