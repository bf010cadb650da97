#include "runtime/impl.h"

#include <unistd.h>

#include <cstdio>

namespace sheaf::runtime {

namespace {

constexpr std::chrono::microseconds kBeforeBlocking{50};   // shorter waits are not worth telling the daemon
constexpr uint32_t kStoreWaitMs = 10000;                   // for space in a full store

thread_local bool t_blocked = false;

}  // namespace

Runtime::Impl::Impl(Session s, ConnectOptions options, transport::Lane daemon_lane)
    : session(std::move(s)),
      hooks(std::move(options.hooks)),
      kind(options.kind),
      daemon(*this, std::move(daemon_lane)),
      objects(*this),
      peers(*this),
      submitter(*this),
      actors(*this),
      executor(*this, options.slots),
      pins(session.region.at<objstore::PinTableBlock>(session.welcome.pin_table), session.welcome.pin_slots,
           session.arena.read_base(), session.arena.bytes()),
      slabs(session.arena.write_base(), session.welcome.node),
      progress(*this) {}

bool Runtime::Impl::drain_lane(uint32_t lane) {
  // Lane 0 first: what the daemon says about a lane precedes what comes on it.
  while (auto message = daemon.lane().peek()) {
    daemon.handle(*message);
    daemon.lane().pop();
  }
  return lane == 0 ? true : peers.drain_lane(lane);
}

void Runtime::Impl::push_out() {
  if (daemon.lane().overflow_bytes() > 0) daemon.lane().flush();
  submitter.push_out();
  executor.flush_deferred();
}

void Runtime::Impl::tick(Deadline now) {
  submitter.tick(now);
  actors.send_all();
  peers.flush();
  objects.flush(true);
  if (kind == protocol::ClientKind::kWorker) title.show("ray::" + std::string(executor.title()));
  bool active = submitter.busy() || peers.has_overflow() || daemon.lane().overflow_bytes() > 0 ||
                executor.running() > 0;
  progress.busy.store(active, std::memory_order_relaxed);
}

ObjectId Runtime::Impl::own_id(uint64_t lo, ProcessId process) const {
  return ObjectId::make(process, lo);
}

Result<size_t> Runtime::Impl::pin(const Entry& e) {
  if (!objects.is_here(e.locator)) return Status(StatusCode::kNotFound, "the bytes are on another node");
  return pins.pin(e.locator, e.id);
}

void Runtime::Impl::encode_task(Task* task, std::string* out) {
  out->clear();
  TaskHead head = task->head();
  wire::Writer w(*out);
  w.raw(&head, sizeof head);
  for (uint16_t i = task->adopted ? 0 : 1; i < task->n_returns; ++i) {
    const ObjectId& id = objects.at(task->returns()[i]).id;
    if (task->adopted) w(id);
    else w(id.lo);
  }
  for (uint32_t i = 0; i < task->n_deps; ++i) {
    const Entry& e = objects.at(task->deps()[i]);
    w(e.state, e.id);
    if (e.state == ValueState::kArena) w(e.locator);
    else if (e.ready()) w(wire::as_text(e.value_or_error()));   // else the receiver makes it
  }
  for (uint32_t i = 0; i < task->n_nested; ++i) w(objects.at(task->nested()[i]).id);
}

void Runtime::Impl::flush_events() {
  protocol::TaskEvents events;
  executor.take_events(&events);
  submitter.pending_events(&events.events);
  if (!events.events.empty()) daemon.send(protocol::MessageType::kTaskEvents, events);
}

void Runtime::Impl::show_log(const protocol::LogLines& lines) {
  if (hooks.log_lines) return hooks.log_lines(lines);
  for (const auto& line : lines.lines) {
    std::fprintf(line.is_stderr ? stderr : stdout, "(%s pid=%d) %s\n", line.name.c_str(), line.pid, line.text.c_str());
  }
  std::fflush(stdout);
}

void Runtime::Impl::show_warning(const std::string& text) {
  if (hooks.warning) return hooks.warning(text);
  std::fprintf(stderr, "sheaf: %s\n", text.c_str());
}

// ---- Waiting -------------------------------------------------------------------------------------------------------------

bool Runtime::Impl::enough_ready(std::span<const Slot> slots, size_t needed, size_t* first_pending) {
  if (needed == slots.size()) {
    while (*first_pending < slots.size() && objects.at(slots[*first_pending]).ready()) ++*first_pending;
    return *first_pending == slots.size();
  }
  size_t ready = 0;
  for (Slot s : slots) {
    if (objects.at(s).ready() && ++ready >= needed) return true;
  }
  return needed == 0;
}

void Runtime::Impl::enter_blocked() {
  if (std::exchange(t_blocked, true)) return;
  lock.lock();
  if (blocked_threads++ == 0) {
    executor.give_back_all();
    daemon.send(protocol::MessageType::kBlocked, protocol::Blocked{});
  }
  lock.unlock();
}

void Runtime::Impl::leave_blocked() {
  if (!std::exchange(t_blocked, false)) return;
  lock.lock();
  if (--blocked_threads == 0) daemon.send(protocol::MessageType::kUnblocked, protocol::Blocked{});
  lock.unlock();
}

namespace {

// Waits; if `lends`, a wait that is not short gives this worker's CPUs to others meanwhile.
template <class Fact>
WaitOutcome wait_lending(Runtime::Impl& rt, bool lends, const Fact& fact, Deadline deadline) {
  if (lends && !t_blocked) {
    Deadline soon = Clock::now() + kBeforeBlocking;
    WaitOutcome out = rt.progress.wait(fact, std::min(soon, deadline));
    if (out != WaitOutcome::kTimeout && out != WaitOutcome::kInterrupted) return out;
    if (deadline <= soon) return WaitOutcome::kTimeout;
    rt.enter_blocked();
  }
  WaitOutcome out = rt.progress.wait(fact, deadline);
  if (out != WaitOutcome::kInterrupted) rt.leave_blocked();   // a caller that was interrupted comes back, or finishes
  return out;
}

}  // namespace

WaitOutcome Runtime::Impl::wait_ready(std::span<const Slot> slots, size_t needed, Deadline deadline) {
  size_t first_pending = 0;
  lock.lock();
  if (enough_ready(slots, needed, &first_pending)) {
    lock.unlock();
    leave_blocked();
    return WaitOutcome::kReady;
  }
  for (Slot s : slots) objects.subscribe(s);
  objects.flush(false);
  bool lends = kind == protocol::ClientKind::kWorker && executor.running() > 0;
  lock.unlock();
  return wait_lending(*this, lends, [&] { return enough_ready(slots, needed, &first_pending); }, deadline);
}

WaitOutcome Runtime::Impl::wait_for_argument(const Incoming& task, Slot slot) {
  {
    Locked guard(*this);
    objects.subscribe(slot);
    objects.flush(false);
  }
  auto fact = [&] {
    const Entry& e = objects.at(slot);
    return e.ready() || task.cancel_requested || (task.kind == TaskKind::kFunction && e.has(kRebuilding));
  };
  WaitOutcome out = WaitOutcome::kInterrupted;
  while (out == WaitOutcome::kInterrupted) out = wait_lending(*this, true, fact, kNever);
  return out;
}

// ---- Requests and memory -----------------------------------------------------------------------------------------------

Result<std::string> Runtime::Impl::request(protocol::MessageType type, const std::string& body, Deadline deadline) {
  DaemonLink::Answer answer;
  lock.lock();
  uint64_t id = daemon.start_request(type, body, &answer);
  lock.unlock();
  WaitOutcome out = progress.wait_through([&] { return answer.done; }, deadline);
  if (out != WaitOutcome::kReady) {
    Locked guard(*this);
    daemon.forget(id);
    if (!answer.done) {
      if (out == WaitOutcome::kTimeout) return Status(StatusCode::kTimeout, "the node daemon did not answer in time");
      return Status(StatusCode::kDisconnected, "the node daemon is gone");
    }
  }
  if (!answer.status.is_ok()) return answer.status;
  return std::move(answer.payload);
}

Result<objstore::Locator> Runtime::Impl::allocate(size_t size) {
  if (size < objstore::kDirectExtentBytes) {
    for (int attempt = 0; attempt < 2; ++attempt) {
      {
        Locked guard(*this);
        if (auto locator = slabs.reserve(size)) return *locator;
      }
      auto reply = request(protocol::MessageType::kSlabLease, wire::encode(protocol::SlabLease{}), kNever);
      if (!reply) return reply.status();
      SHEAF_ASSIGN(auto slab, wire::decode<protocol::SlabLeaseReply>(*reply));
      Locked guard(*this);
      slabs.adopt(slab.offset, slab.length, slab.generation);
    }
  }
  {
    Locked guard(*this);
    objects.flush(true);   // dropped objects may be the space we need
  }
  protocol::ExtentAlloc alloc{size, kStoreWaitMs};
  auto reply = request(protocol::MessageType::kExtentAlloc, wire::encode(alloc), kNever);
  if (!reply) return reply.status();
  SHEAF_ASSIGN(auto extent, wire::decode<protocol::ExtentAllocReply>(*reply));
  return extent.locator;
}

}  // namespace sheaf::runtime
