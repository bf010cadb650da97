#include "runtime/executor.h"

#include <algorithm>
#include <map>
#include <unordered_set>
#include <utility>

#include "runtime/impl.h"

namespace sheaf::runtime {

using protocol::ErrorKind;
using protocol::ErrorRecord;

namespace {

constexpr size_t kTemplatesMax = 1u << 20;
constexpr size_t kFinishedMax = 4096;
constexpr int64_t kShownFromNs = 5'000'000;   // running time from which on a task gives the process its title
constexpr size_t kSpareMax = 256;
constexpr size_t kSpareBytesMax = 16384;   // of a record
constexpr size_t kSmallSpareMax = 4096;    // a burst of a thousand calls finds its memory again
constexpr size_t kSmallSpareBytesMax = 1024;

int64_t steady_ns() { return Clock::now().time_since_epoch().count(); }

template <class T>
void append_raw(std::string* out, const T& value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}

}  // namespace

void Incoming::recycle() {
  lease = nullptr;
  deps.clear();
  dep_ids.clear();
  return_ids.clear();
  nested.clear();
  if (record.capacity() > kSpareBytesMax) std::string().swap(record);
  dep_locators.clear();
  pins.clear();
  items_sent = items_consumed = 0;
  cancel_requested = cancel_children = early = false;
  if (made.capacity() > kSpareBytesMax) std::string().swap(made);
}

size_t Incoming::heap_bytes() const {
  return record.capacity() + made.capacity() + deps.capacity() * (sizeof(ValueView) + sizeof(ObjectId)) +
         dep_locators.capacity() * sizeof(objstore::Locator) + (return_ids.capacity() + nested.capacity()) * sizeof(ObjectId);
}

void Executor::handle(Peer& peer, const transport::Message& message) {
  wire::Bytes payload = message.payload;
  switch (static_cast<LaneType>(message.type)) {
    case LaneType::kTask: return handle_task(peer, payload);
    case LaneType::kTemplate: {
      auto def = wire::decode<TemplateDef>(payload);
      if (!def || def->index >= kTemplatesMax) return;
      if (peer.templates.size() <= def->index) peer.templates.resize(def->index + 1);
      if (auto& old = peer.templates[def->index]) retired_.push_back(std::move(old));   // tasks may have it
      peer.templates[def->index] = std::make_unique<TemplateDef>(std::move(*def));
      return;
    }
    case LaneType::kLeaseInfo:
      if (auto info = wire::decode<LeaseInfo>(payload)) peer.lease_info = std::make_shared<LeaseInfo>(std::move(*info));
      return;
    case LaneType::kCancel:
    case LaneType::kItemAck: {
      CancelHead head;
      if (payload.size() < sizeof head) return;
      std::memcpy(&head, payload.data(), sizeof head);
      if (static_cast<LaneType>(message.type) == LaneType::kCancel) return handle_cancel(peer, head);
      for (auto& t : running_) {
        if (t->caller == peer.process && t->id.lo == head.cookie) t->items_consumed = head.flags;
      }
      rt_.progress.note_ready();
      return;
    }
    case LaneType::kSteal: {
      uint32_t n = 0;
      if (payload.size() >= sizeof n) std::memcpy(&n, payload.data(), sizeof n);
      return give_back(peer.process, n);
    }
    case LaneType::kSlots: {
      uint32_t n = 0;
      if (payload.size() < sizeof n) return;
      std::memcpy(&n, payload.data(), sizeof n);
      return rt_.submitter.slots_known(peer, n);
    }
    default: return;
  }
}

bool Executor::parse(Incoming* task, wire::Bytes bytes, ProcessId caller) {
  std::string_view text = wire::as_text(bytes);
  TaskHead head;
  if (text.size() < sizeof head) return false;
  task->record.assign(text.data(), text.size());
  std::memcpy(&head, task->record.data(), sizeof head);
  ObjectId own = rt_.own_id(head.cookie, caller);
  task->id = {own.hi, own.lo};
  task->parent = head.parent;
  task->caller = caller;
  task->attempt = head.attempt;
  task->n_returns = head.n_returns;
  bool foreign = head.flags & kForeignReturns;
  if (!foreign) task->return_ids.push_back(own);
  wire::Bytes rest = wire::as_bytes(task->record).subspan(sizeof head);
  if (head.n_returns <= 1 && !foreign && head.n_deps + uint64_t{head.n_nested} == 0) {
    task->payload = rest.first(std::min<size_t>(head.args_bytes, rest.size()));
    return head.args_bytes <= rest.size();
  }
  wire::Reader in(rest);
  for (uint16_t i = foreign ? 0 : 1; i < head.n_returns && in.ok(); ++i) {
    ObjectId id = own;
    if (foreign) in(id);
    else in(id.lo);
    task->return_ids.push_back(id);
  }
  for (uint32_t i = 0; i < head.n_deps && in.ok(); ++i) {
    ValueView view;
    ObjectId id;
    objstore::Locator locator;
    in(view.state, id);
    if (view.state == ValueState::kArena) {
      in(locator);
    } else if (view.state == ValueState::kPending) {
      task->early = true;
    } else {
      uint32_t length = 0;
      in(length);
      view.bytes = in.take(length);
    }
    task->deps.push_back(view);
    task->dep_ids.push_back(id);
    task->dep_locators.push_back(locator);
  }
  for (uint32_t i = 0; i < head.n_nested && in.ok(); ++i) in(task->nested.emplace_back());
  task->payload = in.take(head.args_bytes);
  return in.ok();
}

void Executor::handle_task(Peer& peer, wire::Bytes payload) {
  std::unique_ptr<Incoming> task;
  if (spare_.empty()) {
    task = std::make_unique<Incoming>();
  } else {
    task = std::move(spare_.back());
    spare_.pop_back();
  }
  uint32_t index = 0;
  if (payload.size() >= sizeof(TaskHead)) {
    std::memcpy(&index, payload.data() + offsetof(TaskHead, template_index), sizeof index);
  }
  if (!parse(task.get(), payload, peer.process)) return refuse_malformed(peer, payload, "cannot be parsed");
  if (index >= peer.templates.size() || !peer.templates[index]) {
    return refuse_malformed(peer, payload, "names a function that was never described");
  }
  keeps_made_ |= task->early;
  task->definition = peer.templates[index].get();
  bool method = task->definition->flags & kActorMethod;
  task->kind = method ? TaskKind::kActorMethod : TaskKind::kFunction;
  if (!method) {
    if (task->lease_keep != peer.lease_info) task->lease_keep = peer.lease_info;   // a recycled task has it already
    task->lease = task->lease_keep.get();
  }
  if (exiting_ && !leaving_) return answer(peer.process, task->id.lo, ReplyStatus::kNotRun);
  if (slots_ > 1 && !method && !std::exchange(peer.slots_told, true)) tell_slots(peer.process, slots_);
  queue_.push_back(std::move(task));
  rt_.progress.note_task();
}

// Whoever waits for it gets an error; with no id to answer to, nothing on this lane can be believed.
void Executor::refuse_malformed(Peer& peer, wire::Bytes payload, const char* what) {
  if (payload.size() < sizeof(TaskHead)) return rt_.peers.distrust(peer);
  uint64_t cookie = 0;
  std::memcpy(&cookie, payload.data() + offsetof(TaskHead, cookie), sizeof cookie);
  std::string record;
  append_raw(&record, TaskReplyHead{cookie, 0, flagged(ReplyStatus::kError), 1});
  ErrorRecord error{ErrorKind::kSystem, std::string("the task was not run: its record ") + what, "", {}};
  wire::Writer w(record);
  w(ValueState::kError, uint32_t{0}, wire::encode(error));
  send_record(peer.process, LaneType::kReply, record);
}

void Executor::start_actor(protocol::ActorStart start) {
  auto task = std::make_unique<Incoming>();
  auto parts = wire::decode<std::pair<std::string, std::string>>(start.spec.creation_task);
  bool ok = parts.has_value();
  if (ok) {
    auto def = wire::decode<TemplateDef>(parts->first);
    ok = def.has_value() && parse(task.get(), wire::as_bytes(parts->second), start.spec.actor.process()) && !task->early;
    if (ok) task->own_definition = std::make_unique<TemplateDef>(std::move(*def));
  }
  task->kind = TaskKind::kActorCreation;
  task->actor_start = std::move(start);
  task->actor = &task->actor_start;
  if (!ok) {
    protocol::ActorStarted reply{task->actor->spec.actor, task->actor->incarnation, false,
                                 {ErrorKind::kSystem, "malformed constructor call", "", task->actor->spec.actor}};
    rt_.daemon.send(protocol::MessageType::kActorStarted, reply);
    return;
  }
  task->definition = task->own_definition.get();
  actor_class_ = task->actor->spec.class_name;
  queue_.push_back(std::move(task));
  rt_.progress.note_task();
}

Incoming* Executor::pop() {
  if (!has_task()) return nullptr;
  running_.push_back(std::move(queue_.front()));
  queue_.pop_front();
  Incoming* task = running_.back().get();
  // Back to back: one look at the clock a task.
  bool chained = chained_ns_ != 0 && running_.size() == 1;
  task->start_ns = chained ? chained_ns_ : steady_ns();
  chained_ns_ = 0;
  return task;
}

void Executor::caller_gone(Peer& peer) {
  std::erase_if(queue_, [&](auto& t) { return t->caller == peer.process && t->kind != TaskKind::kActorCreation; });
  std::erase_if(deferred_, [&](auto& d) { return d.to == peer.process; });
  // Tasks that still run keep pointing to their definitions.
  for (auto& def : peer.templates) {
    if (def) retired_.push_back(std::move(def));
  }
}

void Executor::request_exit(bool graceful) {
  exiting_ = true;
  if (!graceful) queue_.clear();
  rt_.progress.note_task();
}

void Executor::leave() {
  exiting_ = leaving_ = true;
  rt_.progress.note_task();
}

void Executor::last_task() {
  exiting_ = true;
  reply_flags_ = kReplyLeaving;
  give_back_all();
  if (slots_ == 1) return;
  std::map<ProcessId, uint32_t> callers;
  for (auto& t : running_) ++callers[t->caller];
  for (auto [caller, n] : callers) tell_slots(caller, n);
}

void Executor::tell_slots(ProcessId caller, uint32_t n) {
  std::string record;
  append_raw(&record, n);
  send_record(caller, LaneType::kSlots, record);
}

void Executor::handle_cancel(Peer& peer, const CancelHead& head) {
  auto same = [&](auto& t) { return t->caller == peer.process && t->id.lo == head.cookie; };
  if (head.flags & 2) rt_.submitter.cancel_children(head.cookie, head.flags & 1);
  auto queued = std::find_if(queue_.begin(), queue_.end(), same);
  if (queued != queue_.end()) {
    queue_.erase(queued);
    return answer(peer.process, head.cookie, ReplyStatus::kCancelled);
  }
  auto running = std::find_if(running_.begin(), running_.end(), same);
  if (running == running_.end()) return;
  (*running)->cancel_requested = true;
  (*running)->cancel_children |= (head.flags & 2) != 0;
  rt_.progress.note_ready();
  if (!rt_.hooks.cancel) return;
  rt_.progress.post([&rt = rt_, id = (*running)->id, force = (head.flags & 1) != 0] { rt.hooks.cancel(id, force); });
}

void Executor::give_back(ProcessId caller, uint32_t n) {
  if (keeps_made_ && n != UINT32_MAX) return give_back_loose(caller, n);
  for (size_t i = queue_.size(); i-- > 0 && n > 0;) {
    Incoming& t = *queue_[i];
    if (t.caller != caller || t.kind != TaskKind::kFunction) continue;
    answer(caller, t.id.lo, ReplyStatus::kNotRun);
    queue_.erase(queue_.begin() + static_cast<std::ptrdiff_t>(i));
    --n;
  }
}

// Leaves those whose arguments are made here, but with a task that goes goes what depends on it.
void Executor::give_back_loose(ProcessId caller, uint32_t n) {
  std::unordered_set<ObjectId> here, gone;   // results to come
  for (auto& t : running_) here.insert(t->return_ids.begin(), t->return_ids.end());
  for (auto& t : queue_) here.insert(t->return_ids.begin(), t->return_ids.end());
  auto needs = [](const Incoming& t, const std::unordered_set<ObjectId>& results) {
    for (size_t i = 0; t.early && i < t.deps.size(); ++i) {
      if (t.deps[i].state == ValueState::kPending && results.contains(t.dep_ids[i])) return true;
    }
    return false;
  };
  auto take = [&](size_t at) {
    gone.insert(queue_[at]->return_ids.begin(), queue_[at]->return_ids.end());
    answer(caller, queue_[at]->id.lo, ReplyStatus::kNotRun);
    queue_.erase(queue_.begin() + static_cast<std::ptrdiff_t>(at));
  };
  auto may_go = [&](const Incoming& t) { return t.caller == caller && t.kind == TaskKind::kFunction; };
  for (size_t i = queue_.size(); i-- > 0 && n > 0;) {
    if (!may_go(*queue_[i]) || needs(*queue_[i], here)) continue;
    take(i);
    --n;
  }
  for (size_t i = 0; i < queue_.size() && !gone.empty();) {
    if (may_go(*queue_[i]) && needs(*queue_[i], gone)) take(i);
    else ++i;
  }
}

void Executor::give_back_all() {
  if (queue_.empty()) return;
  std::vector<ProcessId> callers;
  for (auto& t : queue_) callers.push_back(t->caller);
  for (ProcessId caller : callers) give_back(caller, UINT32_MAX);
}

// ---- Results that later tasks take from here ---------------------------------------------------------------------------

void Executor::keep_made(const Incoming& task, std::span<const ReturnValue> values) {
  size_t n = std::min(values.size(), task.return_ids.size());
  for (size_t i = 0; i < n; ++i) made_.keep(task.return_ids[i], values[i]);
}

bool Executor::take_made(Incoming* task) {
  size_t bytes = 0;
  for (size_t i = 0; i < task->deps.size(); ++i) {
    if (task->deps[i].state != ValueState::kPending) continue;
    const MadeValue* made = made_.find(task->dep_ids[i]);
    if (!made) return false;
    bytes += made->bytes.size();
  }
  task->made.clear();
  task->made.reserve(bytes);   // views into it stay where they are
  for (size_t i = 0; i < task->deps.size(); ++i) {
    if (task->deps[i].state != ValueState::kPending) continue;
    const MadeValue& made = *made_.find(task->dep_ids[i]);
    task->deps[i].state = made.state;
    task->dep_locators[i] = made.locator;
    size_t at = task->made.size();
    task->made += made.bytes;
    task->deps[i].bytes = wire::as_bytes(std::string_view(task->made).substr(at));
  }
  return true;
}

// ---- Answers -------------------------------------------------------------------------------------------------------------

void Executor::send_record(ProcessId to, LaneType type, const std::string& record) {
  rt_.objects.flush(false);   // references that we keep, or hand over, are counted before the caller hears of them
  if (rt_.daemon.lane().overflow_bytes() > 0 || !deferred_.empty()) {
    deferred_.push_back({to, type, record});
    return;
  }
  if (Peer* peer = rt_.peers.find(to)) {
    peer->lane.send(static_cast<uint16_t>(type), wire::as_bytes(record));
  }
}

void Executor::flush_deferred() {
  while (!deferred_.empty() && rt_.daemon.lane().overflow_bytes() == 0) {
    Deferred d = std::move(deferred_.front());
    deferred_.pop_front();
    Peer* peer = rt_.peers.find(d.to);
    if (peer) peer->lane.send(static_cast<uint16_t>(d.type), wire::as_bytes(d.record));
  }
}

void Executor::answer(ProcessId caller, uint64_t cookie, ReplyStatus status) {
  std::string record;
  append_raw(&record, TaskReplyHead{cookie, 0, flagged(status), 0});
  send_record(caller, LaneType::kReply, record);
}

void Executor::append_value(const ReturnValue& value, ProcessId caller, std::string* out) {
  wire::Writer w(*out);
  w(value.sealed ? ValueState::kArena : ValueState::kInline, static_cast<uint32_t>(value.nested.size()));
  if (value.sealed) {
    w(*value.sealed);
  } else {
    w(static_cast<uint32_t>(value.inline_bytes.size()));
    w.raw(value.inline_bytes.data(), value.inline_bytes.size());
  }
  for (Slot slot : value.nested) {
    rt_.objects.publish(slot);
    ObjectId id = rt_.objects.at(slot).id;
    rt_.objects.hold_for(caller, id);
    w(id);
  }
}

void Executor::reply(Incoming* task, ReplyStatus status, std::span<const ReturnValue> values,
                     const std::string* error) {
  if (task->cancel_children) rt_.submitter.cancel_children(task->id.lo, false);   // those made since it was cancelled
  int64_t end_ns = steady_ns();
  int64_t us = (end_ns - task->start_ns) / 1000;
  if (keeps_made_ && !error && task->kind == TaskKind::kFunction) keep_made(*task, values);
  if (!error && values.size() == 1 && reply_small(*task, values[0], us)) return done(task, status, error, end_ns);
  std::string& record = reply_scratch_;
  record.clear();
  size_t errors = !error ? 0 : values.empty() ? 1 : task->n_returns - std::min<size_t>(task->n_returns, values.size());
  append_raw(&record, TaskReplyHead{task->id.lo, static_cast<uint32_t>(std::min<int64_t>(us, UINT32_MAX)),
                                   flagged(status), static_cast<uint16_t>(values.size() + errors)});
  for (const ReturnValue& value : values) append_value(value, task->caller, &record);
  wire::Writer w(record);
  for (size_t i = 0; i < errors; ++i) w(ValueState::kError, uint32_t{0}, std::string_view(*error));
  if (task->kind != TaskKind::kActorCreation) send_record(task->caller, LaneType::kReply, record);
  done(task, status, error, end_ns);
}

// One inline value without references, and nothing that must go first: straight into the ring.
bool Executor::reply_small(const Incoming& task, const ReturnValue& value, int64_t us) {
  if (value.sealed || !value.nested.empty() || task.kind == TaskKind::kActorCreation) return false;
  rt_.objects.flush(false);
  if (rt_.daemon.lane().overflow_bytes() > 0 || !deferred_.empty()) return false;
  struct Head {
    TaskReplyHead reply;
    ValueState state;
    uint32_t n_contained;
    uint32_t length;
  } __attribute__((packed));
  static_assert(sizeof(Head) == sizeof(TaskReplyHead) + 9);
  Head head{{task.id.lo, static_cast<uint32_t>(std::min<int64_t>(us, UINT32_MAX)), flagged(ReplyStatus::kOk), 1},
            ValueState::kInline, 0, static_cast<uint32_t>(value.inline_bytes.size())};
  Peer* peer = rt_.peers.find(task.caller);
  if (!peer) return true;
  bool more = !queue_.empty();   // whose answers will wake the caller
  peer->lane.send(static_cast<uint16_t>(LaneType::kReply), std::as_bytes(std::span(&head, 1)), value.inline_bytes, 0, more);
  return true;
}

// The task is answered: remembered for the state API, its memory kept for another.
void Executor::done(Incoming* task, ReplyStatus status, const std::string* error, int64_t end_ns) {
  bool given_back = status == ReplyStatus::kArgumentLost || status == ReplyStatus::kArgumentMissing;
  if (!given_back) remember(*task, status != ReplyStatus::kOk, error, end_ns);
  chained_ns_ = queue_.empty() ? 0 : end_ns;
  auto it = std::find_if(running_.begin(), running_.end(), [task](auto& t) { return t.get() == task; });
  if (it == running_.end()) return;
  std::swap(*it, running_.back());
  const size_t room = task->heap_bytes() <= kSmallSpareBytesMax ? kSmallSpareMax : kSpareMax;
  if (task->kind != TaskKind::kActorCreation && spare_.size() < room) {
    task->recycle();
    spare_.push_back(std::move(running_.back()));
  }
  running_.pop_back();
}

void Executor::send_item(Incoming* task, const ReturnValue& value) {
  std::string record;
  append_raw(&record, ItemHead{task->id.lo, task->items_sent++});
  wire::Writer w(record);
  w(value.sealed_id);
  append_value(value, task->caller, &record);
  send_record(task->caller, LaneType::kItem, record);
}

bool Executor::consumer_keeps_up(const Incoming* task) const {
  uint32_t limit = task->definition->generator_backpressure;
  return limit == 0 || task->items_sent < task->items_consumed + limit || task->cancel_requested ||
         rt_.peers.find(task->caller) == nullptr;
}

bool Executor::cancel_requested(const IncomingTask* task) const {
  return static_cast<const Incoming*>(task)->cancel_requested;
}

void Executor::remember(const Incoming& task, bool failed, const std::string* error, int64_t end_ns) {
  Finished f{task.id, task.start_ns, end_ns, task.definition, nullptr, task.attempt, task.kind, failed};
  if (error || task.own_definition) {
    f.texts = std::make_unique<Texts>();
    f.texts->name = task.definition->name;
    if (task.own_definition) f.definition = nullptr;
    auto record = error ? wire::decode<ErrorRecord>(*error) : Result<ErrorRecord>(ErrorRecord{});
    if (record) f.texts->error = record->message.substr(0, 200);
  }
  if (finished_.size() < kFinishedMax) {
    finished_.push_back(std::move(f));
    return;
  }
  finished_[finished_next_] = std::move(f);
  finished_next_ = (finished_next_ + 1) % kFinishedMax;
  ++finished_dropped_;
}

std::string_view Executor::title() const {
  const Incoming* oldest = nullptr;
  for (auto& t : running_) {
    if (!oldest || t->start_ns < oldest->start_ns) oldest = t.get();
  }
  if (oldest && steady_ns() - oldest->start_ns > kShownFromNs) return oldest->definition->name;
  return actor_class_.empty() ? std::string_view("IDLE") : actor_class_;
}

void Executor::take_events(protocol::TaskEvents* out) {
  int64_t offset = std::chrono::duration_cast<std::chrono::nanoseconds>(
                       std::chrono::system_clock::now().time_since_epoch()).count() - steady_ns();
  auto add = [&](TaskId id, TaskKind kind, uint16_t attempt, protocol::TaskEventState state, int64_t start,
                 int64_t end, const std::string& name, const std::string& error) {
    protocol::TaskEvent e;
    e.task = id;
    e.state = state;
    e.kind = kind == TaskKind::kFunction ? 0 : kind == TaskKind::kActorCreation ? 1 : 2;
    e.attempt = attempt;
    e.start_ns = start + offset;
    e.end_ns = end == 0 ? 0 : end + offset;
    e.name = name;
    e.error = error;
    out->events.push_back(std::move(e));
  };
  using State = protocol::TaskEventState;
  for (size_t i = 0; i < finished_.size(); ++i) {
    const Finished& f = finished_[(finished_next_ + i) % finished_.size()];
    add(f.task, f.kind, f.attempt, f.failed ? State::kFailed : State::kFinished, f.start_ns, f.end_ns,
        f.definition ? f.definition->name : f.texts->name, f.texts ? f.texts->error : std::string());
  }
  finished_.clear();
  finished_next_ = 0;
  for (auto& t : running_) add(t->id, t->kind, t->attempt, State::kRunning, t->start_ns, 0, t->definition->name, "");
  out->dropped += std::exchange(finished_dropped_, 0);
}

}  // namespace sheaf::runtime
