// The second half of Submitter: what comes back from workers, and what to do when nothing will.
#include <algorithm>

#include "runtime/impl.h"

namespace sheaf::runtime {

using protocol::ErrorKind;
using protocol::ErrorRecord;
using protocol::MessageType;

namespace {

constexpr double kMeanWeight = 0.2;

struct WireValue {
  ValueState state = ValueState::kPending;
  std::vector<ObjectId> contained;
  wire::Bytes bytes;
  objstore::Locator locator;
};

bool was_run(ReplyStatus status) {
  return status != ReplyStatus::kNotRun && status != ReplyStatus::kArgumentLost &&
         status != ReplyStatus::kArgumentMissing;
}

bool read_value(wire::Reader& in, WireValue* out) {
  uint32_t n_contained = 0, length = 0;
  in(out->state, n_contained);
  if (out->state == ValueState::kArena) {
    in(out->locator);
  } else {
    in(length);
    out->bytes = in.take(length);
  }
  out->contained.clear();
  for (uint32_t i = 0; in.ok() && i < n_contained; ++i) in(out->contained.emplace_back());
  return in.ok();
}

}  // namespace

void Submitter::take_off(Task* task) {
  task->peer->in_flight.remove(task);
  task->peer->backlog_us = task->peer->in_flight.size == 0 ? 0 : task->peer->backlog_us - task->estimate_us;
  if (task->early) {
    task->early = false;
    --task->peer->early;
    task->peer->early_ready = std::min(task->peer->early_ready, task->peer->early);
  }
  task->kill_late = false;
  task->peer = nullptr;
  --in_flight_;
}

void Submitter::release_arguments(Task* task) {
  for (uint32_t i = 0; i < task->n_deps; ++i) rt_.objects.release(task->deps()[i]);
  for (uint32_t i = 0; i < task->n_nested; ++i) rt_.objects.release(task->nested()[i]);
  tasks_.destroy(task);
}

void Submitter::finish(Task* task, bool keep_lineage) {
  task->state = TaskState::kDone;
  bool watched = task->watched;
  task->watched = false;
  if (task->actor && !task->creation) rt_.actors.completed(*task->actor);
  task->lineage = 0;
  if (keep_lineage && task->retries_left != 0 && !task->actor && !task->adopted) {
    for (uint16_t i = 0; i < task->n_returns; ++i) {
      task->lineage += rt_.objects.at(task->returns()[i]).state == ValueState::kArena;
    }
  }
  // The last release below may free the task through lineage_released(): count ourselves in until the end.
  ++task->lineage;
  for (uint16_t i = 0; i < task->n_returns; ++i) {
    Slot slot = task->returns()[i];
    Entry& e = rt_.objects.at(slot);
    if (task->lineage == 1 || e.state != ValueState::kArena) e.task = nullptr;
    rt_.objects.release(slot);
  }
  lineage_released(task);
  if (watched) adoption_ended(task);
}

void Submitter::lineage_released(Task* task) {
  if (--task->lineage == 0) release_arguments(task);
}

void Submitter::complete_error(Task* task, const ErrorRecord& error) {
  if (task->list) task->list->remove(task);
  if (task->definition->flags & kStreaming) {
    end_stream(task, &error);
  } else {
    for (uint16_t i = 0; i < task->n_returns; ++i) rt_.objects.set_error(task->returns()[i], error);
  }
  finish(task, false);
}

void Submitter::end_stream(Task* task, const ErrorRecord* error) {
  Slot slot = task->returns()[0];
  Stream* stream = rt_.objects.at(slot).more().stream.get();
  if (error && stream) {
    Slot item = rt_.objects.create();
    rt_.objects.set_error(item, *error);
    stream->items.push_back(item);
  }
  if (stream) stream->ended = true;
  if (error) rt_.objects.set_error(slot, *error);
  else rt_.objects.set_bytes(slot, ValueState::kInline, wire::as_bytes(std::string_view("\0", 1)));
}

// The one value, inline and without references, that most replies consist of. False: it is something else.
bool Submitter::store_plain(Task* task, wire::Bytes bytes) {
  struct Head {
    ValueState state;
    uint32_t n_contained, length;
  } __attribute__((packed)) head;
  if (bytes.size() < sizeof head) return false;
  std::memcpy(&head, bytes.data(), sizeof head);
  bool plain = head.state == ValueState::kInline && head.n_contained == 0;
  if (!plain || head.length > bytes.size() - sizeof head) return false;
  rt_.objects.set_bytes(task->returns()[0], ValueState::kInline, bytes.subspan(sizeof head, head.length));
  return true;
}

void Submitter::store_values(Task* task, wire::Reader& in, uint16_t n_values) {
  WireValue value;
  for (uint16_t i = 0; i < n_values && read_value(in, &value); ++i) {
    if (i >= task->n_returns) return;
    Slot slot = task->returns()[i];
    if (value.state == ValueState::kArena) rt_.objects.set_arena(slot, value.locator, value.contained);
    else rt_.objects.set_bytes(slot, value.state, value.bytes, value.contained);
  }
}

// The task is over; a worker may have sent too few values.
void Submitter::complete_rest(Task* task) {
  for (uint16_t i = 0; i < task->n_returns; ++i) {
    if (rt_.objects.at(task->returns()[i]).ready()) continue;
    rt_.objects.set_error(task->returns()[i], {ErrorKind::kSystem, "the worker sent no value", "", {}});
  }
  finish(task, true);
}

void Submitter::handle_reply(Peer& peer, wire::Bytes payload) {
  if (payload.size() < sizeof(TaskReplyHead)) return;
  TaskReplyHead head;
  std::memcpy(&head, payload.data(), sizeof head);
  if (static_cast<uint16_t>(head.status) & kReplyLeaving) {
    head.status = static_cast<ReplyStatus>(static_cast<uint16_t>(head.status) & ~kReplyLeaving);
    peer.leaving = peer.recalled = true;
    if (head.status != ReplyStatus::kNotRun && peer.slots > 0) --peer.slots;
  }
  Slot slot = rt_.objects.table().find_own(head.cookie);
  Task* task = slot == kNoSlot ? nullptr : rt_.objects.at(slot).task;
  if (!task || task->cookie != head.cookie || task->peer != &peer) return;   // completed otherwise
  const bool early = task->early;
  ++answers_;
  take_off(task);
  SchedClass* sched = peer.sched;
  if (sched) mark_dirty(*sched);
  peer.gave_back = head.status == ReplyStatus::kNotRun;
  if (was_run(head.status)) {
    double& mean = *templates_[task->template_id].mean_us;
    mean = mean < 0 ? head.exec_us : mean + kMeanWeight * (head.exec_us - mean);
  }
  bool streaming = task->definition->flags & kStreaming;
  wire::Reader in(payload.subspan(sizeof head));
  switch (head.status) {
    case ReplyStatus::kArgumentMissing:
    case ReplyStatus::kNotRun:
      if (early || head.status == ReplyStatus::kNotRun) requeue(task);
      else complete_error(task, {ErrorKind::kSystem, "the worker misses an argument that it was sent", "", {}});
      break;
    case ReplyStatus::kArgumentLost:
      if (task->rebuilds++ < kRebuildsMax) argument_lost(task);
      else complete_error(task, {ErrorKind::kObjectLost, "arguments of the task were lost again and again", "", {}});
      break;
    case ReplyStatus::kCancelled:
      complete_error(task, {ErrorKind::kCancelled, "the task was cancelled", "", {}});
      break;
    case ReplyStatus::kRetryableError:
      if (task->retries_left != 0 && !task->cancelled) {
        retry(task, false);
        break;
      }
      [[fallthrough]];
    case ReplyStatus::kError: {
      WireValue value;
      if (wire::Reader first = in; head.n_values > 1 || (read_value(first, &value) && value.state != ValueState::kError)) {
        store_values(task, in, head.n_values);
        complete_rest(task);
        break;
      }
      if (!read_value(in, &value)) value.bytes = {};
      auto error = wire::decode<ErrorRecord>(value.bytes);
      complete_error(task, error ? *error : ErrorRecord{ErrorKind::kSystem, "unreadable error", "", {}});
      break;
    }
    case ReplyStatus::kOk:
      if (streaming) {
        end_stream(task, nullptr);
        finish(task, true);
        break;
      }
      if (head.n_values != 1 || !store_plain(task, payload.subspan(sizeof head))) store_values(task, in, head.n_values);
      complete_rest(task);
      break;
  }
  if (sched && peer.recalled && peer.in_flight.size == 0 && peer.lease != 0) return_lease(peer, peer.leaving);
}

void Submitter::slots_known(Peer& peer, uint32_t n) {
  peer.slots = n;
  if (peer.sched) mark_dirty(*peer.sched);
}

void Submitter::retry(Task* task, bool front) {
  if (task->retries_left > 0) --task->retries_left;
  ++task->attempt;
  if (task->actor) rt_.actors.resend(task);
  else enqueue(task, front);
}

void Submitter::handle_item(Peer& peer, wire::Bytes payload) {
  if (payload.size() < sizeof(ItemHead)) return;
  ItemHead head;
  std::memcpy(&head, payload.data(), sizeof head);
  wire::Reader in(payload.subspan(sizeof head));
  ObjectId id;
  WireValue value;
  in(id);
  if (!read_value(in, &value)) return;
  Slot generator = rt_.objects.table().find_own(head.cookie);
  if (generator == kNoSlot) return;
  Entry& e = rt_.objects.at(generator);
  if (!e.task || e.task->peer != &peer || !e.extra || !e.extra->stream) return;
  Stream& stream = *e.extra->stream;
  if (head.index < stream.received) return;   // a retried generator repeats what we have
  stream.received = head.index + 1;
  Slot item;
  if (value.state == ValueState::kArena) {
    item = rt_.objects.import(id, 1);
    rt_.objects.set_arena(item, value.locator, value.contained);
  } else {
    item = rt_.objects.create();
    rt_.objects.set_bytes(item, value.state, value.bytes, value.contained);
  }
  rt_.objects.at(generator).extra->stream->items.push_back(item);
  rt_.progress.note_ready();
  rt_.objects.signal_stream(generator);
}

void Submitter::peer_down(Peer& peer, const ErrorRecord& cause) {
  if (peer.lease != 0) {
    std::erase(peer.sched->leases, &peer);
    leases_.erase(peer.lease);
    --lease_count_;
    mark_dirty(*peer.sched);
    peer.lease = 0;
    peer.sched = nullptr;
  }
  // Workers start tasks in order, so the oldest unanswered ones ran; those behind them had not started.
  std::vector<Task*> tasks;
  for (Task* t = peer.in_flight.head; t; t = t->next) tasks.push_back(t);
  std::vector<Task*> again;
  uint32_t running = peer.slots;
  for (Task* task : tasks) {
    if (task->actor) continue;   // ActorClients decides
    take_off(task);
    bool started = running > 0;
    if (started) --running;
    if (task->cancelled) complete_error(task, {ErrorKind::kCancelled, "the task was cancelled", "", {}});
    else if (started && task->retries_left == 0) complete_error(task, cause);
    else {
      if (started && task->retries_left > 0) --task->retries_left;
      if (started) ++task->attempt;
      again.push_back(task);
    }
  }
  for (auto it = again.rbegin(); it != again.rend(); ++it) requeue(*it);
  rt_.actors.peer_down(peer);
}

void Submitter::detach_dependencies(Task* task) {
  if (task->unresolved == 0) return;
  for (uint32_t i = 0; i < task->n_deps; ++i) {
    Entry& dep = rt_.objects.at(task->deps()[i]);
    if (dep.extra) std::erase(dep.extra->dependents, task);
  }
  task->unresolved = 0;
}

bool Submitter::cancel(Slot slot, bool force, bool recursive) {
  Entry& e = rt_.objects.at(slot);
  Task* task = e.task;
  if (!task || task->state == TaskState::kDone) return false;
  task->cancelled = true;
  if (task->state == TaskState::kInFlight) {
    task->kill_late = force && task->early && task != task->peer->in_flight.head;   // it may not have started
    bool kill = force && !task->kill_late && !task->actor;
    CancelHead head{task->cookie, (force && !task->kill_late ? 1u : 0u) | (recursive ? 2u : 0u), 0};
    task->peer->lane.send(static_cast<uint16_t>(LaneType::kCancel), std::as_bytes(std::span(&head, 1)));
    if (kill) kill_worker(*task->peer);
    return true;
  }
  detach_dependencies(task);
  if (task->actor) rt_.actors.forget(task);
  complete_error(task, {ErrorKind::kCancelled, "the task was cancelled", "", {}});
  return true;
}

void Submitter::kill_worker(const Peer& peer) {
  protocol::KillProcess kill{peer.process};
  rt_.daemon.request_then(MessageType::kKillProcess, wire::encode(kill), [](auto&&) {});
}

void Submitter::cancel_children(uint64_t parent, bool force) {
  std::vector<Slot> children;
  auto collect = [&](TaskList& list) {
    for (Task* t = list.head; t; t = t->next) {
      if (t->parent == parent) children.push_back(t->returns()[0]);
    }
  };
  collect(waiting_);
  for (auto& [key, c] : classes_) collect(c->queue);
  rt_.peers.for_each([&](Peer& p) { collect(p.in_flight); });
  for (Slot slot : children) cancel(slot, force, true);
}

bool Submitter::idle() const {
  bool queued = false;
  for (auto& [key, c] : classes_) queued |= c->queue.size > 0;
  return in_flight_ == 0 && waiting_.size == 0 && !queued;
}

void Submitter::pending_events(std::vector<protocol::TaskEvent>* out) {
  auto add = [&](TaskList& list) {
    for (Task* t = list.head; t && out->size() < kPendingEventsMax; t = t->next) {
      protocol::TaskEvent event;
      ObjectId id = rt_.objects.at(t->returns()[0]).id;
      event.task = {id.hi, id.lo};
      event.attempt = t->attempt;
      event.name = t->definition->name;
      event.kind = t->definition->flags & kActorMethod ? 2 : t->definition->flags & kActorCreation ? 1 : 0;
      out->push_back(std::move(event));
    }
  };
  add(waiting_);
  for (auto& [key, c] : classes_) add(c->queue);
  rt_.peers.for_each([&](Peer& p) { add(p.in_flight); });
}

}  // namespace sheaf::runtime
