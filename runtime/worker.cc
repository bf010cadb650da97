// The worker's half of the facade: taking tasks and answering them.
#include "runtime/impl.h"

namespace sheaf::runtime {

using protocol::ErrorKind;
using protocol::ErrorRecord;
using protocol::MessageType;

using Resolved = Runtime::Impl::Resolved;

namespace {

// One argument in the arena, which the caller has counted. Pinned when kReady.
Resolved resolve(Runtime::Impl& rt, Incoming* task, size_t index, Slot slot, ErrorRecord* error) {
  Runtime* runtime = Runtime::current();
  while (runtime) {
    uint64_t pin = 0;
    auto view = runtime->view(slot, &pin);
    if (view) {
      task->deps[index] = *view;
      if (pin != 0) task->pins.push_back(pin);
      if (view->state != ValueState::kError) return Resolved::kReady;
      auto record = wire::decode<ErrorRecord>(view->bytes);
      *error = record ? *record : ErrorRecord{ErrorKind::kObjectLost, "an argument was lost", "", {}};
      return Resolved::kFailed;
    }
    if (view.status().code() != StatusCode::kNotFound) {
      *error = {ErrorKind::kSystem, std::string(view.status().message()), "", {}};
      return Resolved::kFailed;
    }
    // Spilled, or lost: the daemon brings it back, or says that its maker has to.
    if (rt.wait_for_argument(*task, slot) == WaitOutcome::kDisconnected) break;
    Locked guard(rt);
    if (rt.objects.at(slot).ready()) continue;
    if (!task->cancel_requested) return Resolved::kGiveBack;
    *error = {ErrorKind::kCancelled, "the task was cancelled", "", {}};
    return Resolved::kFailed;
  }
  *error = {ErrorKind::kSystem, "the node daemon is gone", "", {}};
  return Resolved::kFailed;
}

void give_back(Runtime::Impl& rt, Incoming* task, ReplyStatus why) {
  rt.leave_blocked();
  std::vector<uint64_t> pins = std::move(task->pins);
  {
    Locked guard(rt);
    rt.executor.reply(task, why, {}, nullptr);
  }
  if (Runtime* runtime = Runtime::current()) {
    for (uint64_t pin : pins) runtime->unpin(pin);
  }
}

}  // namespace

Resolved Runtime::Impl::resolve_dependencies(Incoming* task, ErrorRecord* error) {
  if (task->early) {
    Locked guard(*this);
    if (!executor.take_made(task)) return Resolved::kMissing;
  }
  for (size_t i = 0; i < task->deps.size(); ++i) {
    if (task->deps[i].state != ValueState::kArena) continue;
    Slot slot;
    {
      Locked guard(*this);
      slot = objects.import(task->dep_ids[i]);
      Entry& e = objects.at(slot);
      if (!e.ready() && !e.has(kSubscribed)) {
        e.set_locator(task->dep_locators[i]);
        e.flags = static_cast<uint8_t>(e.flags & ~kLost);
      }
    }
    Resolved resolved = resolve(*this, task, i, slot, error);
    Locked guard(*this);
    objects.release(slot);   // the pin, if any, keeps its own count
    if (resolved != Resolved::kReady) return resolved;
  }
  return Resolved::kReady;
}

IncomingTask* Runtime::next_task(Deadline deadline) {
  Impl& rt = *impl_;
  for (;;) {
    Incoming* task = nullptr;
    auto taken = [&] {   // lock held
      task = rt.executor.pop();
      if (task) rt.progress.busy.store(true, std::memory_order_relaxed);
      return task || rt.executor.exiting();
    };
    if (rt.progress.wait(taken, deadline) != WaitOutcome::kReady || !task) return nullptr;
    ErrorRecord error;
    switch (rt.resolve_dependencies(task, &error)) {
      case Resolved::kReady: return task;
      case Resolved::kFailed: fail(task, error, false); break;
      case Resolved::kGiveBack: give_back(rt, task, ReplyStatus::kArgumentLost); break;
      case Resolved::kMissing: give_back(rt, task, ReplyStatus::kArgumentMissing); break;
    }
  }
}

bool Runtime::await_task(Deadline deadline) {
  auto arrived = [this] { return impl_->executor.has_task() || impl_->executor.exiting(); };
  return impl_->progress.wait(arrived, deadline) == WaitOutcome::kReady && has_task();
}

int Runtime::task_fd() {
  Locked guard(*impl_);
  return impl_->progress.task_fd();
}

Result<int> Runtime::loop_fd() {
  const protocol::Welcome& welcome = impl_->session.welcome;
  return impl_->progress.loop_fd(welcome.session_dir + "/bells/" + std::to_string(welcome.process));
}

bool Runtime::loop_sleep(bool may_spin) { return impl_->progress.loop_sleep(may_spin); }

void Runtime::loop_woke() { impl_->progress.loop_woke(); }

bool Runtime::has_task() const {
  Locked guard(*impl_);
  return impl_->executor.has_task();
}

bool Runtime::exiting() const {
  Locked guard(*impl_);
  return impl_->executor.exiting() || impl_->progress.disconnected();
}

void Runtime::finish(IncomingTask* task, std::span<const ReturnValue> values) {
  impl_->leave_blocked();
  auto* incoming = static_cast<Incoming*>(task);
  std::vector<uint64_t> pins = std::move(incoming->pins);
  {
    Locked guard(*impl_);
    impl_->executor.reply(incoming, ReplyStatus::kOk, values, nullptr);
  }
  for (uint64_t pin : pins) unpin(pin);
}

void Runtime::fail(IncomingTask* task, const ErrorRecord& error, bool retryable, std::span<const ReturnValue> values) {
  impl_->leave_blocked();
  auto* incoming = static_cast<Incoming*>(task);
  std::vector<uint64_t> pins = std::move(incoming->pins);
  if (task->kind == TaskKind::kActorCreation) actor_started(*task, error);
  {
    Locked guard(*impl_);
    std::string bytes = wire::encode(error);
    ReplyStatus status = error.kind == ErrorKind::kCancelled ? ReplyStatus::kCancelled
                         : retryable                         ? ReplyStatus::kRetryableError
                                                             : ReplyStatus::kError;
    impl_->executor.reply(incoming, status, values, &bytes);
  }
  for (uint64_t pin : pins) unpin(pin);
}

WaitOutcome Runtime::await_submitted(Deadline deadline) {
  return impl_->progress.wait([this] { return impl_->submitter.idle() && impl_->actors.idle(); }, deadline);
}

void Runtime::last_task() {
  Locked guard(*impl_);
  impl_->executor.last_task();
}

uint64_t Runtime::retain_dep(const IncomingTask& task, uint32_t index) {
  if (index >= task.deps.size() || task.deps[index].state != ValueState::kArena) return 0;
  Slot slot = import(task.dep_ids[index]);
  uint64_t pin = 0;
  auto pinned = view(slot, &pin);   // the task's own pin keeps it where it is, so this succeeds
  release(slot);
  return pinned ? pin : 0;
}

Status Runtime::yield_item(IncomingTask* task, const ReturnValue& value) {
  auto* incoming = static_cast<Incoming*>(task);
  {
    Locked guard(*impl_);
    impl_->executor.send_item(incoming, value);
  }
  WaitOutcome out = impl_->progress.wait_through(
      [&] { return impl_->executor.consumer_keeps_up(incoming); }, kNever);
  if (out == WaitOutcome::kDisconnected) return Status(StatusCode::kDisconnected, "the node daemon is gone");
  if (incoming->cancel_requested) return Status(StatusCode::kCancelled, "the task was cancelled");
  return Status::ok();
}

Result<PutBuffer> Runtime::return_begin(const IncomingTask& task, uint32_t index, size_t size) {
  bool item = task.definition->flags & kStreaming;
  if (item) return put_begin(size);
  if (index >= task.return_ids.size()) return Status(StatusCode::kInvalidArgument, "no such return value");
  return put_begin(size, task.return_ids[index]);
}

bool Runtime::cancel_requested(const IncomingTask& task) {
  Locked guard(*impl_);
  impl_->progress.drain();
  return impl_->executor.cancel_requested(&task);
}

void Runtime::actor_started(const IncomingTask& task, const std::optional<ErrorRecord>& error) {
  const auto& start = *task.actor;
  protocol::ActorStarted message{start.spec.actor, start.incarnation, !error, error.value_or(ErrorRecord{})};
  Locked guard(*impl_);
  impl_->objects.flush(false);
  impl_->daemon.send(MessageType::kActorStarted, message);
}

void Runtime::actor_exit(const ActorId& actor, uint32_t incarnation, std::string reason) {
  {
    Locked guard(*impl_);
    impl_->flush_events();
    impl_->objects.flush(true);
    impl_->daemon.send(MessageType::kActorExiting,
                       protocol::ActorExiting{actor, incarnation, true, std::move(reason)});
    impl_->executor.leave();
  }
  // What was answered has to reach its callers before the process ends.
  auto sent = [&] { return !impl_->peers.has_overflow() && impl_->daemon.lane().overflow_bytes() == 0; };
  impl_->progress.wait_through(sent, Clock::now() + std::chrono::seconds(2));
}

}  // namespace sheaf::runtime
