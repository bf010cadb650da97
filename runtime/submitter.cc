#include "runtime/submitter.h"

#include <algorithm>
#include <array>

#include "runtime/impl.h"

namespace sheaf::runtime {

using protocol::ErrorKind;
using protocol::ErrorRecord;
using protocol::MessageType;

namespace {

constexpr double kTaskUsMin = 0.5;   // what a worker needs for a task that does nothing
// Tiny tasks go to one worker until it has this much to do: to wake another would cost the submitter more than the tasks
// themselves, and where cores are few that one spins for its next task on the submitter's.
constexpr double kWakeUs = 150;
constexpr double kTinyUs = 1.5;

// Answers that come so often are taken in heaps, while every worker has work for longer. Who has less is awake at its end.
constexpr double kOftenUs = 25;
constexpr std::chrono::microseconds kRest{100};
constexpr double kRestBacklogUs = 200;

constexpr bool is_power_of_two(uint32_t n) { return (n & (n - 1)) == 0; }
bool is_tiny(const Template& t) { return *t.mean_us >= 0 && *t.mean_us < kTinyUs; }
float estimate(const Template& t) { return static_cast<float>(std::max(*t.mean_us, kTaskUsMin)); }

}  // namespace

TemplateId Submitter::define(TaskTemplate definition) {
  RecordedDefinition whole{std::move(definition)};
  auto [known, fresh] = template_ids_.try_emplace(wire::encode(whole), static_cast<TemplateId>(templates_.size()));
  if (!fresh) return known->second;
  Template t;
  t.sched = whole.flags & (kActorMethod | kActorCreation) ? nullptr : intern(whole.placement);
  t.mean_us = &means_.try_emplace({whole.function, whole.method}, -1.0).first->second;
  t.definition = std::move(whole);
  templates_.push_back(std::move(t));
  return known->second;
}

SchedClass* Submitter::intern(const protocol::SchedulingClass& spec) {
  auto& entry = classes_[wire::encode(spec)];
  if (!entry) {
    entry = std::make_unique<SchedClass>();
    entry->id = static_cast<uint32_t>(by_id_.size());
    entry->spec = spec;
    by_id_.push_back(entry.get());
  }
  return entry.get();
}

Task* Submitter::make_task(TemplateId id, const Arguments& args, uint64_t parent, Slot* returns) {
  Template& t = templates_[id];
  uint16_t n = std::max<uint16_t>(t.definition.n_returns, 1);
  Task* task = tasks_.create(n, args);
  task->definition = &t.definition;
  task->sched = t.sched;
  task->template_id = id;
  task->parent = parent;
  task->retries_left = t.definition.max_retries;
  for (uint16_t i = 0; i < n; ++i) {
    Slot slot = rt_.objects.create();
    rt_.objects.retain(slot);   // one for the caller, one for the task
    rt_.objects.at(slot).task = task;
    returns[i] = task->returns()[i] = slot;
  }
  task->cookie = rt_.objects.at(returns[0]).id.lo;
  if (t.definition.flags & kStreaming) {
    rt_.objects.at(returns[0]).more().stream = std::make_unique<Stream>();
  }
  for (uint32_t i = 0; i < task->n_deps; ++i) rt_.objects.retain(task->deps()[i]);
  for (uint32_t i = 0; i < task->n_nested; ++i) {
    rt_.objects.retain(task->nested()[i]);
    rt_.objects.publish(task->nested()[i]);
  }
  return task;
}

bool Submitter::await_dependencies(Task* task) {
  task->unresolved = 0;
  for (uint32_t i = 0; i < task->n_deps; ++i) {
    Slot slot = task->deps()[i];
    Entry& e = rt_.objects.at(slot);
    if (e.ready()) continue;
    ++task->unresolved;
    if (e.task) e.task->followed = true;
    rt_.objects.add_dependent(slot, task);
    rt_.objects.subscribe(slot);
  }
  if (task->unresolved == 0) return true;
  task->state = TaskState::kWaiting;
  if (!task->list) waiting_.push_back(task);
  return false;
}

bool Submitter::fail_on_dependency(Task* task) {
  for (uint32_t i = 0; i < task->n_deps; ++i) {
    Entry& e = rt_.objects.at(task->deps()[i]);
    if (e.state != ValueState::kError) continue;
    auto error = wire::decode<ErrorRecord>(e.value_or_error());
    complete_error(task, error ? *error : ErrorRecord{ErrorKind::kSystem, "unreadable error", "", {}});
    return true;
  }
  return false;
}

void Submitter::submit(TemplateId id, const Arguments& args, uint64_t parent, Slot* returns) {
  Task* task = make_task(id, args, parent, returns);
  if (task->n_deps > 0) {
    if (Peer* peer = early_peer(*task)) return push_early(task, *peer);
    if (!await_dependencies(task) || fail_on_dependency(task)) return;
  }
  SchedClass& c = *task->sched;
  rt_.progress.busy.store(true, std::memory_order_relaxed);
  // Nothing waits that the daemon or an older task must be told of first: straight out, if a worker has room.
  bool first = c.queue.size == 0 && dirty_.empty() && rt_.daemon.lane().overflow_bytes() == 0;
  if (Peer* peer = first ? choose(c, templates_[id], *task) : nullptr) {
    push(task, *peer);
    if (is_power_of_two(peer->in_flight.size)) push_class(c);   // asks for more workers
    return;
  }
  // Those before it found no room; when there is some, the class is marked.
  bool behind = c.queue.size > 0 && !c.dirty && !is_power_of_two(c.queue.size + 1);
  task->state = TaskState::kQueued;
  c.queue.push_back(task);
  if (behind) return;
  mark_dirty(c);
  push_out();
}

void Submitter::dependency_ready(Task* task) {
  if (task->state != TaskState::kWaiting) return;   // it was named twice, and has gone out meanwhile
  if (--task->unresolved > 0) {
    if (Peer* peer = early_peer(*task)) {
      push_early(task, *peer);
      push_followers();
    }
    return;
  }
  if (task->actor && !task->creation) return rt_.actors.dependencies_ready(task);   // it keeps its place
  if (task->list) task->list->remove(task);
  if (task->cancelled) return complete_error(task, {ErrorKind::kCancelled, "the task was cancelled", "", {}});
  if (task->actor) return rt_.actors.dependencies_ready(task);
  if (!fail_on_dependency(task)) enqueue(task);
}

void Submitter::enqueue(Task* task, bool front) {
  SchedClass& c = *task->sched;
  task->state = TaskState::kQueued;
  if (front) c.queue.push_front(task);
  else c.queue.push_back(task);
  mark_dirty(c);
  rt_.progress.busy.store(true, std::memory_order_relaxed);
}

void Submitter::mark_dirty(SchedClass& c) {
  if (std::exchange(c.dirty, true)) return;
  dirty_.push_back(&c);
}

// ---- Out ---------------------------------------------------------------------------------------------------------------

void Submitter::push(Task* task, Peer& peer) {
  Template& t = templates_[task->template_id];
  if (peer.templates_sent.size() <= task->template_id) peer.templates_sent.resize(task->template_id + 1);
  if (!peer.templates_sent[task->template_id]) {
    peer.templates_sent[task->template_id] = true;
    const TaskTemplate& d = t.definition;
    TemplateDef def{task->template_id, d.function, d.flags, d.n_returns, d.max_calls,
                    d.method, d.name, d.concurrency_group, d.blob, d.generator_backpressure};
    peer.lane.send(static_cast<uint16_t>(LaneType::kTemplate), wire::as_bytes(wire::encode(def)));
  }
  if (peer.lease != 0 && !peer.lease_info_sent) {
    peer.lease_info_sent = true;
    LeaseInfo info{peer.lease, peer.sched->spec.resources, peer.sched->spec.strategy, peer.grant.devices};
    peer.lane.send(static_cast<uint16_t>(LaneType::kLeaseInfo), wire::as_bytes(wire::encode(info)));
  }
  wire::Bytes payload = wire::as_bytes({task->payload(), task->payload_bytes});
  if (task->n_returns == 1 && task->n_deps + task->n_nested == 0 && !task->adopted) {   // nothing but a head and the payload
    TaskHead head = task->head();
    peer.lane.send(static_cast<uint16_t>(LaneType::kTask), std::as_bytes(std::span(&head, 1)), payload);
  } else {
    rt_.encode_task(task, &scratch_);
    peer.lane.send(static_cast<uint16_t>(LaneType::kTask), wire::as_bytes(scratch_), payload);
  }
  task->state = TaskState::kInFlight;
  task->peer = &peer;
  task->estimate_us = estimate(t);
  peer.backlog_us += task->estimate_us;
  peer.sent_us += task->estimate_us;
  if (!task->actor) task->sent_us = peer.sent_us;
  peer.in_flight.push_back(task);
  ++in_flight_;
}

// The node that has most of the arguments' bytes; 0 when it does not matter.
uint16_t Submitter::best_node(Task& task) {
  std::array<std::pair<uint16_t, uint64_t>, 4> at{};   // more nodes than that are not told apart
  for (uint32_t i = 0; i < task.n_deps; ++i) {
    const objstore::Locator* where = rt_.objects.location(task.deps()[i]);
    if (!where) continue;
    for (auto& [node, bytes] : at) {
      if (node != 0 && node != where->node) continue;
      node = where->node;
      bytes += where->length;
      break;
    }
  }
  auto most = std::max_element(at.begin(), at.end(), [](auto& a, auto& b) { return a.second < b.second; });
  return most->first;
}

Peer* Submitter::choose(SchedClass& c, const Template& t, Task& task) {
  Peer* best = nullptr;
  uint16_t wanted = c.spans_nodes && task.n_deps > 0 ? best_node(task) : uint16_t{0};
  auto better = [&](const Peer& a, const Peer& b) {
    bool free_a = a.in_flight.size < a.slots, free_b = b.in_flight.size < b.slots;
    bool near_a = node_of(a.process) == wanted, near_b = node_of(b.process) == wanted;
    if (wanted != 0 && free_a && free_b && near_a != near_b) return near_a;
    return a.in_flight.size * b.slots < b.in_flight.size * a.slots;
  };
  for (Peer* p : c.leases) {
    if (p->recalled || !p->alive || p->lane.overflow_bytes() > 0) continue;   // a full ring: its answers make room
    bool awake = p->in_flight.size > 0 && !p->gave_back && wanted == 0;
    if (awake && is_tiny(t) && p->backlog_us + estimate(t) <= kWakeUs) return p;
    if (!best || better(*p, *best)) best = p;
  }
  if (!best || best->in_flight.size < best->slots) return best;
  bool room = *t.mean_us >= 0 && best->backlog_us + *t.mean_us <= kPipelineBudgetUs &&
              best->in_flight.size < kPipelineTasksMax;
  return room ? best : nullptr;
}

void Submitter::push_class(SchedClass& c) {
  while (Task* task = c.queue.head) {
    Peer* peer = choose(c, templates_[task->template_id], *task);
    if (!peer) break;
    c.queue.remove(task);
    if (!await_dependencies(task)) continue;   // an argument was spilled meanwhile
    if (fail_on_dependency(task)) continue;
    push(task, *peer);
    if (task->followed) followed_.push_back(task);
  }
  for (Peer* p : c.leases) follow_ends(*p);
  if (!followed_.empty()) push_followers();
  // What is needed no more is withdrawn at the next tick: a stream of short tasks would ask and withdraw all the time.
  bool more = c.queue.size > 0;
  for (Peer* p : c.leases) more |= p->loose() > p->slots;
  if (more) request_leases(c);
}

void Submitter::push_out() {
  // What we told the daemon about references must not be overtaken by the references themselves.
  if (rt_.daemon.lane().overflow_bytes() > 0) return;
  while (!dirty_.empty()) {
    SchedClass* c = dirty_.back();
    dirty_.pop_back();
    c->dirty = false;
    push_class(*c);
  }
}

void Submitter::request_leases(SchedClass& c) {
  uint32_t want = c.queue.size;
  for (Peer* p : c.leases) want += p->loose() > p->slots ? p->loose() - p->slots : 0;
  bool changed = want == 0 ? c.requested != 0 : c.requested == 0 || want > 2 * c.requested;
  if (!changed) return;
  c.requested = want;
  protocol::LeaseRequest request{c.id, c.spec, want, {}};
  if (rt_.objects.knows_other_nodes()) {
    uint32_t looked_at = 0;
    for (Task* task = c.queue.head; task && looked_at < kTasksLocated; task = task->next, ++looked_at) {
      for (uint32_t i = 0; i < task->n_deps; ++i) {
        if (const objstore::Locator* where = rt_.objects.location(task->deps()[i])) {
          request.bytes_at[where->node] += where->length;
        }
      }
    }
  }
  rt_.daemon.send(MessageType::kLeaseRequest, request);
}

// ---- Leases ------------------------------------------------------------------------------------------------------------

void Submitter::lease_granted(const protocol::LeaseGrant& grant) {
  Peer* peer = rt_.peers.open(grant.worker, grant.lane);
  if (!peer || grant.class_id >= by_id_.size()) {
    rt_.daemon.send(MessageType::kLeaseReturn, protocol::LeaseReturn{grant.lease, false});
    return;
  }
  SchedClass& c = *by_id_[grant.class_id];
  c.spans_nodes = c.spans_nodes || node_of(grant.worker) != rt_.session.welcome.node;
  peer->lease = grant.lease;
  peer->sched = &c;
  peer->grant = grant;
  peer->recalled = peer->steal_sent = peer->lease_info_sent = false;
  peer->idle_since = {};
  c.leases.push_back(peer);
  leases_[grant.lease] = peer;
  ++lease_count_;
  if (c.requested > 0) --c.requested;
  c.starved = false;
  push_class(c);
  steal_back(c);
}

void Submitter::return_lease(Peer& peer, bool worker_exits) {
  std::erase(peer.sched->leases, &peer);
  leases_.erase(peer.lease);
  --lease_count_;
  rt_.daemon.send(MessageType::kLeaseReturn, protocol::LeaseReturn{peer.lease, worker_exits});
  peer.lease = 0;
  peer.sched = nullptr;
}

void Submitter::lease_recalled(uint64_t lease) {
  auto it = leases_.find(lease);
  if (it == leases_.end()) return;
  Peer& peer = *it->second;
  peer.recalled = true;
  if (peer.in_flight.size == 0) {
    SchedClass& c = *peer.sched;
    return_lease(peer, false);
    push_class(c);
    return;
  }
  uint32_t all = UINT32_MAX;
  peer.lane.send(static_cast<uint16_t>(LaneType::kSteal), std::as_bytes(std::span(&all, 1)));
}

void Submitter::lease_refused(const protocol::LeaseRefused& refusal) {
  if (refusal.class_id >= by_id_.size()) return;
  SchedClass& c = *by_id_[refusal.class_id];
  c.requested = 0;
  while (Task* task = c.queue.pop_front()) complete_error(task, refusal.error);
}

void Submitter::steal_back(SchedClass& c) {
  if (c.queue.size > 0 || c.leases.size() < 2) return;
  Peer* busiest = nullptr;
  bool idle = false;
  for (Peer* p : c.leases) {
    if (p->in_flight.size == 0 && !p->recalled) idle = true;
    if (!busiest || p->loose() > busiest->loose()) busiest = p;
  }
  if (!idle || busiest->loose() <= busiest->slots || busiest->steal_sent) return;
  busiest->steal_sent = true;
  uint32_t n = (busiest->loose() - busiest->slots + 1) / 2;
  busiest->lane.send(static_cast<uint16_t>(LaneType::kSteal), std::as_bytes(std::span(&n, 1)));
}

void Submitter::tick(Deadline now) {
  for (auto& [key, c] : classes_) {
    look_at_early(*c);
    for (size_t i = 0; i < c->leases.size();) {
      Peer& p = *c->leases[i];
      p.steal_sent = false;
      if (p.in_flight.size > 0 || c->queue.size > 0) p.idle_since = {};
      else if (p.idle_since == Deadline{}) p.idle_since = now;
      else if (now - p.idle_since > kIdleLease) {
        return_lease(p, false);
        continue;
      }
      ++i;
    }
    steal_back(*c);
    request_leases(*c);
    if (c->queue.size > 0 && !c->leases.empty()) mark_dirty(*c);   // a lane that was full may have room again
  }
}

std::chrono::microseconds Submitter::rest_time(Deadline now) {
  const double us = std::chrono::duration<double, std::micro>(now - std::exchange(answers_seen_at_, now)).count();
  const auto n = static_cast<double>(answers_ - std::exchange(answers_seen_, answers_));
  if (us > n * kOftenUs) return {};
  if (lease_count_ == 0) return {};
  for (auto& [key, c] : classes_) {
    for (Peer* p : c->leases) {
      if (p->backlog_us < kRestBacklogUs) return {};
    }
  }
  return kRest;
}

void Submitter::return_all_leases() {
  while (!leases_.empty()) return_lease(*leases_.begin()->second, false);
}

}  // namespace sheaf::runtime
