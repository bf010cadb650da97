// The part of Submitter that sends tasks before their arguments are made.
//
// When all missing arguments of a task are made by tasks that are in flight at one worker, it follows them there: a lane is
// read in order, and the worker keeps what it has made lately (made_values.h). What it has not kept, or never made as the
// maker failed or was called back, it answers by kArgumentMissing; what became of the maker arrived here before that. So a
// chain of tasks, or a row of them after the other, needs no round trip a step.
// Nothing is sent early that could start sooner elsewhere; what turns out to be able to is counted once a tick.
#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "runtime/impl.h"

namespace sheaf::runtime {

using protocol::StrategyKind;

namespace {

constexpr uint32_t kEarlyDepsMax = 16;       // of a task that is looked at again at each argument
constexpr size_t kFollowersMax = 16;         // looked at of one result
constexpr size_t kEndsMax = 128;             // looked at of what a worker has
constexpr double kRoundTripUs = 50;          // from a worker's result to the start of what waits for it, over here
constexpr uint32_t kOwnReturns = kStreaming | kDynamicReturns;   // flags of tasks that do not return plain values

}  // namespace

Peer* Submitter::early_peer(Task& task) {
  SchedClass* c = task.sched;
  const Template& t = templates_[task.template_id];
  if (task.n_deps > kEarlyDepsMax || !c || task.actor || task.adopted || task.cancelled) return nullptr;
  Peer* peer = nullptr;
  double made_us = 0;
  for (uint32_t i = 0; i < task.n_deps; ++i) {
    const Entry& e = rt_.objects.at(task.deps()[i]);
    if (e.state == ValueState::kInline || (e.state == ValueState::kArena && rt_.objects.is_here(e.locator))) continue;
    const Task* maker = e.task;
    if (e.ready() || !e.has(kOwn) || !maker || maker->state != TaskState::kInFlight || maker->sched != c) return nullptr;
    if (!maker->peer || (peer && maker->peer != peer) || maker->adopted || maker->cancelled) return nullptr;
    if (maker->definition->flags & kOwnReturns) return nullptr;
    peer = maker->peer;
    made_us = std::max(made_us, maker->sent_us);
  }
  if (!peer || peer->sched != c || !peer->alive || peer->recalled || peer->slots != 1) return nullptr;
  if (node_of(peer->process) != rt_.session.welcome.node) return nullptr;
  if (t.definition.flags & kOwnReturns || c->spec.strategy.kind == StrategyKind::kSpread) return nullptr;
  if (c->queue.size > 0 || rt_.daemon.lane().overflow_bytes() > 0) return nullptr;
  bool room = *t.mean_us >= 0 && peer->backlog_us + *t.mean_us <= kPipelineBudgetUs &&
              peer->in_flight.size < kPipelineTasksMax && peer->lane.overflow_bytes() == 0;
  // Chains only: behind what several makers share, the tasks that go by way of the driver would stand longer.
  if (!room && task.n_deps == 1) peer->refill_at = std::max(peer->refill_at, peer->in_flight.size / 2);
  return room && is_best_place(*c, *peer, made_us) ? peer : nullptr;
}

// Its arguments are there when all is done that the worker had been sent up to `made_us`. Behind them lies the work of
// others: elsewhere it could start at that time, a round trip later, or when the least busy worker is done.
bool Submitter::is_best_place(const SchedClass& c, const Peer& peer, double made_us) const {
  if (peer.sent_us - made_us <= kRoundTripUs) return true;
  double elsewhere = c.starved ? std::numeric_limits<double>::infinity() : 0;   // 0: a new worker, if we asked for one
  for (const Peer* p : c.leases) {
    if (p != &peer && p->alive && !p->recalled) elsewhere = std::min(elsewhere, p->backlog_us);
  }
  return peer.backlog_us <= elsewhere + kRoundTripUs;
}

void Submitter::push_early(Task* task, Peer& peer) {
  if (task->list) task->list->remove(task);
  detach_dependencies(task);
  task->early = true;
  ++peer.early;
  rt_.progress.busy.store(true, std::memory_order_relaxed);
  push(task, peer);
  if (task->followed) followed_.push_back(task);
}

// In the order of the makers, so that one long chain does not take all the room.
void Submitter::push_followers() {
  for (size_t i = 0; i < followed_.size(); ++i) {
    Task* maker = followed_[i];
    maker->followed = false;
    for (uint16_t r = 0; r < maker->n_returns; ++r) {
      const Entry& e = rt_.objects.at(maker->returns()[r]);
      if (!e.extra) continue;
      std::array<Task*, kFollowersMax> waiting{};
      const std::vector<Task*>& all = e.extra->dependents;
      maker->followed = maker->followed || all.size() > waiting.size();
      std::copy_n(all.begin(), std::min(all.size(), waiting.size()), waiting.begin());
      for (Task* task : waiting) {
        if (!task || task->state != TaskState::kWaiting) continue;
        if (Peer* peer = early_peer(*task)) push_early(task, *peer);
        else maker->followed = true;
      }
    }
  }
  followed_.clear();
}

// When the worker is half way through: at the end of its tasks it would have nothing until their results are here.
void Submitter::follow_ends(Peer& peer) {
  if (peer.refill_at == 0 || peer.in_flight.size > peer.refill_at) return;
  peer.refill_at = 0;
  Task* task = peer.in_flight.tail;
  for (size_t n = 1; task && task->prev && n < kEndsMax; ++n) task = task->prev;
  for (; task; task = task->next) {
    if (task->followed) followed_.push_back(task);
  }
}

void Submitter::look_at_early(SchedClass& c) {
  c.starved = !c.leases.empty() && (c.starved || (c.asked && c.requested > 0));
  c.asked = c.requested > 0;
  for (Peer* p : c.leases) {
    p->early_ready = 0;
    Task* oldest = p->in_flight.head;
    if (oldest && oldest->kill_late && oldest->cookie == p->oldest_seen) {   // it has started, and goes on
      oldest->kill_late = false;
      kill_worker(*p);
    }
    p->oldest_seen = oldest ? oldest->cookie : 0;
    if (p->early == 0) continue;
    for (Task* t = oldest; t; t = t->next) {
      if (!t->early) continue;
      bool ready = true;
      for (uint32_t i = 0; ready && i < t->n_deps; ++i) ready = rt_.objects.at(t->deps()[i]).ready();
      p->early_ready += ready;
    }
  }
}

void Submitter::requeue(Task* task) {
  if (task->cancelled) return complete_error(task, {protocol::ErrorKind::kCancelled, "the task was cancelled", "", {}});
  if (task->actor) return rt_.actors.resend(task);
  if (await_dependencies(task) && !fail_on_dependency(task)) enqueue(task, true);
}

}  // namespace sheaf::runtime
