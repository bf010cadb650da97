#include "runtime/actor_clients.h"

#include "runtime/impl.h"

namespace sheaf::runtime {

using protocol::ActorState;
using protocol::ErrorKind;
using protocol::ErrorRecord;
using protocol::MessageType;

namespace {

bool may_be_overtaken(const Task& task) {
  return task.actor->out_of_order || (task.definition->flags & kOutOfOrder);
}

}  // namespace

ActorClient& ActorClients::get(const ActorId& id) {
  auto& entry = actors_[id];
  if (!entry) {
    entry = std::make_unique<ActorClient>();
    entry->id = id;
    living_.insert(entry.get());
  }
  return *entry;
}

void ActorClients::retain(const ActorId& id) {
  ActorClient& a = get(id);
  ++a.handles;
  if (std::exchange(a.held, true)) return;
  rt_.daemon.send(MessageType::kActorHold, protocol::ActorHold{id, +1});
}

void ActorClients::release(const ActorId& id) {
  ActorClient& a = get(id);
  --a.handles;
  drop_hold_if_idle(a);
}

// The hold outlives the last handle until all calls made through it are answered.
void ActorClients::drop_hold_if_idle(ActorClient& a) {
  if (a.handles > 0 || a.unanswered > 0 || a.creating || !a.held) return;
  a.held = false;
  rt_.daemon.send(MessageType::kActorHold, protocol::ActorHold{a.id, -1});
}

void ActorClients::subscribe(ActorClient& a) {
  if (std::exchange(a.subscribed, true)) return;
  rt_.daemon.send(MessageType::kActorSubscribe, protocol::ActorSubscribe{a.id});
}

// ---- Creation ----------------------------------------------------------------------------------------------------------

void ActorClients::create(protocol::ActorSpec spec, TemplateId constructor, const Arguments& args,
                          std::function<void(DaemonLink::Answer&&)> then) {
  ActorClient& a = get(spec.actor);
  a.out_of_order = spec.out_of_order;
  a.creating = true;
  Slot slot = kNoSlot;
  Task* task = rt_.submitter.make_task(constructor, args, 0, &slot);
  rt_.objects.release(slot);   // nobody waits for a constructor's value
  task->actor = &a;
  task->creation = true;
  creations_[task] = {std::move(spec), std::move(then)};
  if (rt_.submitter.await_dependencies(task)) send_creation(a, task);
}

void ActorClients::send_creation(ActorClient& a, Task* task) {
  auto node = creations_.extract(task);
  Creation creation = std::move(node.mapped());
  protocol::ActorSpec& spec = creation.spec;
  const TaskTemplate& d = rt_.submitter.definition(task->template_id).definition;
  TemplateDef def{0, d.function, d.flags, d.n_returns, d.max_calls, d.method, d.name, d.concurrency_group, d.blob, 0};
  std::string record;
  rt_.encode_task(task, &record);
  record.append(task->payload(), task->payload_bytes);
  spec.creation_task = wire::encode(std::pair(wire::encode(def), record));
  for (uint32_t i = 0; i < task->n_deps; ++i) {
    Entry& e = rt_.objects.at(task->deps()[i]);
    if (e.state != ValueState::kArena) continue;
    rt_.objects.publish(task->deps()[i]);
    spec.holds.push_back(e.id);
  }
  for (uint32_t i = 0; i < task->n_nested; ++i) spec.holds.push_back(rt_.objects.at(task->nested()[i]).id);
  subscribe(a);
  rt_.daemon.request_then(MessageType::kActorCreate, wire::encode(protocol::ActorCreate{spec}),
                          [this, id = a.id, then = std::move(creation.then)](DaemonLink::Answer&& answer) mutable {
                            creation_answered(id, std::move(answer), std::move(then));
                          });
  a.creating = false;
  rt_.submitter.finish(task, false);
  drop_hold_if_idle(a);
}

void ActorClients::creation_answered(const ActorId& id, DaemonLink::Answer&& answer,
                                     std::function<void(DaemonLink::Answer&&)> then) {
  ActorClient& a = get(id);
  if (!answer.status.is_ok()) {
    a.state = ActorState::kDead;
    a.cause = {ErrorKind::kActorDied, std::string(answer.status.message()), "", id};
    fail_all(a);
  }
  if (then) then(std::move(answer));
}

// ---- Calls -------------------------------------------------------------------------------------------------------------

Status ActorClients::submit(const ActorId& id, TemplateId method, const Arguments& args, int32_t max_task_retries,
                            uint32_t max_pending, uint64_t parent, Slot* returns) {
  ActorClient& a = get(id);
  if (max_pending > 0 && a.unanswered >= max_pending) {
    return Status(StatusCode::kOverloaded, "the actor has " + std::to_string(a.unanswered) +
                                               " unanswered calls, as many as max_pending_calls allows");
  }
  Task* task = rt_.submitter.make_task(method, args, parent, returns);
  task->actor = &a;
  task->retries_left = max_task_retries;
  task->sequence = a.next_sequence++;
  ++a.unanswered;
  rt_.progress.busy.store(true, std::memory_order_relaxed);
  if (a.state == ActorState::kDead) {
    rt_.submitter.complete_error(task, a.cause);
    return Status::ok();
  }
  subscribe(a);
  ActorLine& line = line_of(a, *task);
  if (task->n_deps == 0 && (line.queue.size == 0 || may_be_overtaken(*task))) {   // straight out, as most calls go
    if (Peer* peer = reachable(a)) {
      rt_.submitter.push(task, *peer);
      return Status::ok();
    }
  }
  line.queue.push_back(task);
  if (rt_.submitter.await_dependencies(task)) task->state = TaskState::kQueued;
  if (line.queue.head == task || may_be_overtaken(*task)) send_one(line, task, a);
  return Status::ok();
}

ActorLine& ActorClients::line_of(ActorClient& a, const Task& task) {
  const std::string& group = task.definition->concurrency_group;
  if (group.empty()) return a.lines.front();
  for (ActorLine& line : a.lines) {
    if (line.group == group) return line;
  }
  a.lines.push_back({group, {}});
  return a.lines.back();
}

// Null: not now. What we told the daemon must not be overtaken.
Peer* ActorClients::reachable(const ActorClient& a) {
  if (a.state != ActorState::kAlive || rt_.daemon.lane().overflow_bytes() > 0) return nullptr;
  return rt_.peers.find(a.process);
}

bool ActorClients::send_one(ActorLine& line, Task* task, ActorClient& a) {
  Peer* peer = reachable(a);
  // A value that was at hand may have been spilled since: then the task waits again, in its place.
  if (!peer || task->state != TaskState::kQueued || !rt_.submitter.await_dependencies(task)) return false;
  if (rt_.submitter.fail_on_dependency(task)) return true;
  line.queue.remove(task);
  rt_.submitter.push(task, *peer);
  return true;
}

void ActorClients::send_line(ActorLine& line, ActorClient& a) {
  for (Task* task = line.queue.head; task;) {
    Task* next = task->next;
    if (!send_one(line, task, a) && !may_be_overtaken(*task)) return;
    task = next;
  }
}

void ActorClients::send_ready(ActorClient& a) {
  if (!reachable(a)) return;
  for (ActorLine& line : a.lines) send_line(line, a);
}

void ActorClients::send_all() {
  for (ActorClient* a : living_) {
    bool queued = false;
    for (const ActorLine& line : a->lines) queued |= line.queue.size > 0;
    if (queued) send_ready(*a);
  }
}

void ActorClients::dependencies_ready(Task* task) {
  ActorClient& a = *task->actor;
  if (task->creation) return send_creation(a, task);
  task->state = TaskState::kQueued;
  ActorLine& line = line_of(a, *task);
  if (may_be_overtaken(*task)) send_one(line, task, a);
  else if (line.queue.head == task) send_line(line, a);
}

void ActorClients::resend(Task* task) {
  ActorClient& a = *task->actor;
  task->state = TaskState::kQueued;
  if (a.state == ActorState::kDead) return rt_.submitter.complete_error(task, a.cause);
  ActorLine& line = line_of(a, *task);
  Task* after = line.queue.tail;   // it is older than what waits: back to its place
  while (after && after->sequence > task->sequence) after = after->prev;
  line.queue.insert_after(after, task);
  if (reachable(a)) send_line(line, a);
}

void ActorClients::forget(Task* task) { creations_.erase(task); }

bool ActorClients::idle() const {
  bool unanswered = !creations_.empty();
  for (auto& [id, a] : actors_) unanswered |= a->unanswered > 0;
  return !unanswered;
}

void ActorClients::completed(ActorClient& a) {
  --a.unanswered;
  drop_hold_if_idle(a);
}

// ---- Life and death ----------------------------------------------------------------------------------------------------

void ActorClients::update(const protocol::ActorUpdate& update) {
  auto it = actors_.find(update.actor);
  if (it == actors_.end()) return;
  ActorClient& a = *it->second;
  if (update.incarnation < a.incarnation || a.state == ActorState::kDead) return;   // fenced
  a.incarnation = update.incarnation;
  a.state = update.state;
  rt_.progress.note_ready();
  switch (update.state) {
    case ActorState::kPending: return;
    case ActorState::kAlive:
      a.process = update.process;
      if (!rt_.peers.open(update.process, update.lane)) return;
      // Calls that were under way when the last incarnation died come first.
      while (Task* task = a.limbo.tail) {
        a.limbo.remove(task);
        task->state = TaskState::kQueued;
        line_of(a, *task).queue.push_front(task);
      }
      return send_ready(a);
    case ActorState::kRestarting: {
      ErrorRecord error{ErrorKind::kActorUnavailable,
                        "the actor is being restarted; this call may or may not have been executed: " +
                            update.cause.message, "", a.id};
      for (Task* task = a.limbo.head; task;) {
        Task* next = task->next;
        if (task->retries_left == 0) {
          a.limbo.remove(task);
          rt_.submitter.complete_error(task, error);
        } else {
          if (task->retries_left > 0) --task->retries_left;
          ++task->attempt;
        }
        task = next;
      }
      return;
    }
    case ActorState::kDead:
      a.cause = update.cause;
      if (a.cause.kind == ErrorKind::kNone) a.cause.kind = ErrorKind::kActorDied;
      a.cause.actor = a.id;
      return fail_all(a);
  }
}

void ActorClients::peer_down(Peer& peer) {
  while (Task* task = peer.in_flight.head) {
    ActorClient& a = *task->actor;
    rt_.submitter.take_off(task);
    if (a.state == ActorState::kDead) {
      rt_.submitter.complete_error(task, a.cause);
    } else {
      task->state = TaskState::kQueued;
      a.limbo.push_back(task);
      if (a.state == ActorState::kRestarting) {   // the news came the other way round
        protocol::ActorUpdate again;
        again.actor = a.id;
        again.state = a.state;
        again.incarnation = a.incarnation;
        if (peer.in_flight.size == 0) update(again);
      }
    }
  }
}

void ActorClients::fail_all(ActorClient& a) {
  living_.erase(&a);
  auto fail = [&](TaskList& list) {
    while (Task* task = list.head) {
      list.remove(task);
      rt_.submitter.detach_dependencies(task);
      rt_.submitter.complete_error(task, a.cause);
    }
  };
  fail(a.limbo);
  for (ActorLine& line : a.lines) fail(line.queue);
  // What is in flight at a process that still lives (it is about to exit) is answered by peer_down().
}

}  // namespace sheaf::runtime
