#include "runtime/runtime.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "runtime/impl.h"
#include "transport/death_lock.h"

namespace sheaf::runtime {

namespace {

// The process's runtime. Null before connect, after shutdown and in a forked child.
std::atomic<Runtime*> g_current{nullptr};

void forget_in_child() { g_current.store(nullptr); }

Status gone() { return Status(StatusCode::kDisconnected, "this process is not connected to a cluster"); }

}  // namespace

Runtime::Runtime() = default;
Runtime::~Runtime() = default;
Runtime* Runtime::current() { return g_current.load(std::memory_order_acquire); }

Result<Runtime*> Runtime::connect(ConnectOptions options) {
  if (current()) return Status(StatusCode::kAlreadyExists, "this process is connected already");
  SHEAF_ASSIGN(Session session, Session::open(options));
  const protocol::Welcome& w = session.welcome;
  SHEAF_ASSIGN(transport::Lane lane, transport::Lane::open(session.region, w.daemon_lane));
  if (!session.region.contains(w.bell, sizeof(transport::BellBlock)) ||
      !session.region.contains(w.pin_table, objstore::pin_table_bytes(w.pin_slots)) ||
      !session.region.contains(w.death_lock, sizeof(transport::DeathLockBlock))) {
    return Status(StatusCode::kCorrupt, "the node daemon named shared memory that is not there");
  }
  // The lock tells the daemon of our death before our memory is torn down. Only the main thread lives long enough.
  if (w.death_lock != 0 && gettid() == getpid()) {
    SHEAF_TRY(transport::hold_death_lock(session.region.at<transport::DeathLockBlock>(w.death_lock)));
  }
  static int once = pthread_atfork(nullptr, nullptr, forget_in_child);
  (void)once;
  auto* runtime = new Runtime();   // leaked: threads and destructors of other libraries may still call at exit
  runtime->impl_ = std::make_unique<Impl>(std::move(session), std::move(options), std::move(lane));
  runtime->impl_->progress.start();
  g_current.store(runtime, std::memory_order_release);
  return runtime;
}

void Runtime::shutdown() {
  Impl& rt = *impl_;
  if (rt.closed.load()) return;
  if (rt.kind == protocol::ClientKind::kWorker) {   // what was answered has to reach its callers
    auto sent = [&] { return !rt.peers.has_overflow() && rt.daemon.lane().overflow_bytes() == 0; };
    rt.progress.wait_through(sent, Clock::now() + std::chrono::seconds(2));
  }
  if (rt.closed.exchange(true)) return;
  {
    Locked guard(rt);
    rt.flush_events();
    rt.submitter.return_all_leases();
    rt.objects.flush(true);
    rt.slabs.retire();
    rt.push_out();
  }
  Runtime* self = this;
  g_current.compare_exchange_strong(self, nullptr);
  rt.progress.stop();
  {
    Locked guard(rt);
    // Of a lane only the pipe ends that wakes a peer in poll().
    const auto close_pipe = [](transport::Lane& lane) { transport::Lane end = std::move(lane); };
    close_pipe(rt.daemon.lane());
    rt.peers.for_each([&](Peer& peer) { close_pipe(peer.lane); });
  }
  // The end of the socket is the daemon's signal that we are gone. The mappings stay: views may outlive us.
  close(std::exchange(rt.session.socket, -1));
}

const protocol::Welcome& Runtime::session() const { return impl_->session.welcome; }
ProcessId Runtime::process() const { return impl_->session.welcome.process; }

// ---- References ----------------------------------------------------------------------------------------------------------

ObjectId Runtime::id(Slot slot) const {
  Locked guard(*impl_);
  return impl_->objects.at(slot).id;
}

Slot Runtime::import(const ObjectId& id) {
  Locked guard(*impl_);
  return impl_->objects.import(id);
}

void Runtime::retain(Slot slot) {
  Locked guard(*impl_);
  impl_->objects.retain(slot);
}

void Runtime::release(Slot slot) {
  if (impl_->closed.load(std::memory_order_relaxed)) return;
  Locked guard(*impl_);
  impl_->objects.release(slot);
}

void Runtime::publish(Slot slot) {
  Locked guard(*impl_);
  impl_->objects.publish(slot);
}

// ---- Objects ---------------------------------------------------------------------------------------------------------------

Result<Slot> Runtime::put_inline(Bytes encoded, std::span<const Slot> nested) {
  if (impl_->closed) return gone();
  Locked guard(*impl_);
  Slot slot = impl_->objects.create();
  impl_->objects.set_bytes(slot, ValueState::kInline, encoded);
  impl_->objects.adopt_contained(slot, nested);
  return slot;
}

Slot Runtime::put_error(const protocol::ErrorRecord& error) {
  Locked guard(*impl_);
  Slot slot = impl_->objects.create();
  impl_->objects.set_error(slot, error);
  return slot;
}

Result<PutBuffer> Runtime::put_begin(size_t size, std::optional<ObjectId> id) {
  if (impl_->closed) return gone();
  SHEAF_ASSIGN(objstore::Locator locator, impl_->allocate(size));
  if (!impl_->session.arena.contains(locator.offset, size + objstore::kHeaderBytes)) {
    return Status(StatusCode::kCorrupt, "the node daemon gave out memory outside the arena");
  }
  PutBuffer buffer;
  buffer.locator = locator;
  buffer.bytes = {impl_->session.arena.write_base() + locator.offset + objstore::kHeaderBytes, size};
  if (id) {
    buffer.id = *id;
  } else {
    Locked guard(*impl_);
    buffer.id = impl_->objects.at(impl_->objects.create()).id;
  }
  return buffer;
}

namespace {

// Header or slab record first, then the message: from here on the object survives us.
void seal(Runtime::Impl& rt, const PutBuffer& buffer, ProcessId holder, std::span<const Slot> nested) {
  protocol::ObjectSeal message{buffer.id, buffer.locator, holder, {}};
  if (buffer.bytes.size() < objstore::kDirectExtentBytes) {
    rt.slabs.seal(buffer.locator, buffer.id);
  } else {
    objstore::seal_header(rt.session.arena.write_base(), buffer.locator, buffer.id);
  }
  for (Slot s : nested) {
    rt.objects.publish(s);
    message.contained.push_back(rt.objects.at(s).id);
  }
  rt.daemon.send(protocol::MessageType::kObjectSeal, message);
}

}  // namespace

Result<Slot> Runtime::put_seal(const PutBuffer& buffer, std::span<const Slot> nested) {
  if (impl_->closed) return gone();
  Locked guard(*impl_);
  Slot slot = impl_->objects.table().find_own(buffer.id.lo);
  if (slot == kNoSlot) return Status(StatusCode::kInvalidArgument, "that buffer was sealed or aborted before");
  seal(*impl_, buffer, 0, nested);
  impl_->objects.set_arena(slot, buffer.locator);
  impl_->objects.adopt_contained(slot, nested);
  return slot;
}

Status Runtime::seal_return(const PutBuffer& buffer, const IncomingTask& task, std::span<const Slot> nested) {
  if (impl_->closed) return gone();
  Locked guard(*impl_);
  // The caller's return ids are its own, unless it runs the task for a process that is gone: then nobody's hold is made.
  ProcessId maker = buffer.id.process();
  seal(*impl_, buffer, maker == process() ? task.caller : maker, nested);
  Slot own = impl_->objects.table().find_own(buffer.id.lo);
  bool item = buffer.id.process() == process() && own != kNoSlot && !impl_->objects.at(own).ready();
  if (item && buffer.id == impl_->objects.at(own).id) impl_->objects.release(own);   // a streamed item's id is used up
  return Status::ok();
}

void Runtime::put_abort(const PutBuffer& buffer) {
  if (impl_->closed) return;
  Locked guard(*impl_);
  if (buffer.bytes.size() < objstore::kDirectExtentBytes) impl_->slabs.abandon(buffer.locator);
  else impl_->daemon.send(protocol::MessageType::kExtentAbort, protocol::ExtentAbort{buffer.locator});
  Slot slot = buffer.id.process() == process() ? impl_->objects.table().find_own(buffer.id.lo) : kNoSlot;
  if (slot != kNoSlot && !impl_->objects.at(slot).ready() && !impl_->objects.at(slot).task) {
    impl_->objects.release(slot);
  }
}

uint32_t Runtime::count(Slot slot) {
  Locked guard(*impl_);
  return impl_->objects.at(slot).refs;
}

bool Runtime::is_ready(Slot slot) {
  Locked guard(*impl_);
  return impl_->objects.at(slot).ready();
}

bool Runtime::fetch(std::span<const Slot> slots) {
  Locked guard(*impl_);
  if (impl_->closed || !impl_->objects.knows_other_nodes()) return false;
  bool any = false;
  for (Slot slot : slots) {
    const Entry& e = impl_->objects.at(slot);
    if (e.state != ValueState::kArena || impl_->objects.is_here(e.locator)) continue;
    impl_->objects.set_moved(slot);
    impl_->objects.subscribe(slot);
    any = true;
  }
  return any;
}

WaitOutcome Runtime::wait(std::span<const Slot> slots, size_t needed, Deadline deadline) {
  if (impl_->closed) return WaitOutcome::kDisconnected;
  return impl_->wait_ready(slots, needed, deadline);
}

bool Runtime::poll(std::span<const Slot> slots, size_t needed, std::chrono::nanoseconds budget) {
  if (impl_->closed) return false;
  size_t first = 0;
  return impl_->progress.poll([&] { return impl_->enough_ready(slots, needed, &first); }, budget);
}

Result<ValueView> Runtime::view(Slot slot, uint64_t* pin) {
  *pin = 0;
  if (impl_->closed) return gone();
  Locked guard(*impl_);
  Entry& e = impl_->objects.at(slot);
  if (!e.ready()) return Status(StatusCode::kNotFound, "the object is not here yet");
  ValueView view;
  view.state = e.state;
  view.contained = e.extra ? &e.extra->contained_ids : nullptr;
  if (e.has_bytes()) {
    view.bytes = e.value_or_error();
    return view;
  }
  auto pinned = impl_->pin(e);
  if (!pinned) {
    if (pinned.status().code() == StatusCode::kNotFound) impl_->objects.set_moved(slot);
    return pinned.status();
  }
  impl_->objects.retain(slot);   // a pinned object is held, so that the daemon never frees it under a view
  *pin = uint64_t{slot} << 32 | (*pinned + 1);
  view.bytes = {impl_->session.arena.read_base() + e.locator.offset + objstore::kHeaderBytes, e.locator.length};
  return view;
}

void Runtime::unpin(uint64_t pin) {
  if (pin == 0 || impl_->closed) return;
  Locked guard(*impl_);
  impl_->pins.unpin((pin & 0xffffffff) - 1);
  impl_->objects.release(static_cast<Slot>(pin >> 32));
}

void Runtime::replicate(Slot slot, uint32_t copies) {
  Locked guard(*impl_);
  impl_->objects.publish(slot);
  impl_->daemon.send(protocol::MessageType::kObjectReplicate,
                     protocol::ObjectReplicate{impl_->objects.at(slot).id, copies});
}

Status Runtime::free_objects(std::span<const Slot> slots) {
  protocol::ObjectFree message;
  {
    Locked guard(*impl_);
    for (Slot s : slots) {
      Entry& e = impl_->objects.at(s);
      if (e.has(kPublished) || e.state == ValueState::kArena) message.ids.push_back(e.id);
      if (e.ready()) e.set_freed();
    }
  }
  if (message.ids.empty()) return Status::ok();
  return request(protocol::MessageType::kObjectFree, wire::encode(message)).status();
}

int Runtime::ready_fd() {
  Locked guard(*impl_);
  return impl_->progress.ready_fd();
}

void Runtime::notify_ready(Slot slot) {
  Locked guard(*impl_);
  impl_->objects.notify(slot);
  impl_->progress.drain();
}

std::vector<Slot> Runtime::take_ready() {
  Locked guard(*impl_);
  impl_->progress.drain();
  return impl_->objects.take_notified();
}

// ---- Tasks -----------------------------------------------------------------------------------------------------------------

TemplateId Runtime::define_template(TaskTemplate definition) {
  Locked guard(*impl_);
  return impl_->submitter.define(std::move(definition));
}

Status Runtime::submit(TemplateId id, const Arguments& args, uint64_t parent, Slot* returns) {
  if (impl_->closed || impl_->progress.disconnected()) return gone();
  Locked guard(*impl_);
  impl_->submitter.submit(id, args, parent, returns);
  impl_->drain_now_and_then();
  return Status::ok();
}

WaitOutcome Runtime::next_item(Slot generator, Deadline deadline, Slot* item, bool* done) {
  *done = false;
  auto stream = [&]() -> Stream* {
    Entry& e = impl_->objects.at(generator);
    return e.extra ? e.extra->stream.get() : nullptr;
  };
  WaitOutcome out = impl_->progress.wait([&] {
    Stream* s = stream();
    return !s || !s->items.empty() || s->ended;
  }, deadline);
  if (out != WaitOutcome::kReady) return out;
  Locked guard(*impl_);
  Stream* s = stream();
  if (!s || s->items.empty()) {
    *done = true;
    return WaitOutcome::kDisconnected;
  }
  *item = s->items.front();
  s->items.pop_front();
  ++s->consumed;
  Entry& e = impl_->objects.at(generator);
  Task* task = e.task;
  if (task && task->peer && task->definition->generator_backpressure > 0) {
    CancelHead ack{task->cookie, static_cast<uint32_t>(s->consumed), 0};
    task->peer->lane.send(static_cast<uint16_t>(LaneType::kItemAck), std::as_bytes(std::span(&ack, 1)));
  }
  return WaitOutcome::kReady;
}

Result<bool> Runtime::cancel(Slot slot, bool force, bool recursive) {
  if (impl_->closed) return gone();
  Locked guard(*impl_);
  ObjectId id = impl_->objects.at(slot).id;
  bool ours = id.process() == process();
  const Task* task = ours ? impl_->objects.at(slot).task : nullptr;
  if (force && task && task->actor) {
    return Status(StatusCode::kInvalidArgument,
                  "force=True is not supported for actor tasks: kill() ends an actor");
  }
  bool cancelled = ours && impl_->submitter.cancel(slot, force, recursive);
  if (!ours) impl_->daemon.send(protocol::MessageType::kCancelTask, protocol::CancelTask{id, force, recursive});
  impl_->progress.drain();
  return cancelled;
}

// ---- Actors ----------------------------------------------------------------------------------------------------------------

Result<ActorCreation> Runtime::create_actor(protocol::ActorSpec spec, TemplateId constructor, const Arguments& args) {
  if (impl_->closed) return gone();
  if (spec.actor.is_nil()) spec.actor = new_actor_id();
  ActorCreation creation{spec.actor, false, ""};
  bool must_know = !spec.name.empty();
  auto answer = std::make_shared<DaemonLink::Answer>();
  {
    Locked guard(*impl_);
    impl_->actors.create(std::move(spec), constructor, args,
                         [answer](DaemonLink::Answer&& a) { *answer = std::move(a); });
    impl_->actors.retain(creation.actor);
  }
  if (!must_know) return creation;
  WaitOutcome out = impl_->progress.wait_through([&] { return answer->done; }, kNever);
  Status status = out == WaitOutcome::kReady ? answer->status : gone();
  if (status.is_ok()) {
    auto reply = wire::decode<protocol::ActorCreateReply>(answer->payload);
    status = reply.status();
    if (reply && reply->existing) {
      release_actor(creation.actor);
      retain_actor(*reply->existing);
      return ActorCreation{*reply->existing, true, reply->handle};
    }
  }
  if (status.is_ok()) return creation;
  release_actor(creation.actor);
  return status;
}

void Runtime::retain_actor(const ActorId& actor) {
  if (impl_->closed) return;
  Locked guard(*impl_);
  impl_->actors.retain(actor);
}

void Runtime::release_actor(const ActorId& actor) {
  if (impl_->closed) return;
  Locked guard(*impl_);
  impl_->actors.release(actor);
}

Status Runtime::submit_method(const ActorId& actor, TemplateId method, const Arguments& args, int32_t max_task_retries,
                              uint32_t max_pending, uint64_t parent, Slot* returns) {
  if (impl_->closed || impl_->progress.disconnected()) return gone();
  Locked guard(*impl_);
  Status status = impl_->actors.submit(actor, method, args, max_task_retries, max_pending, parent, returns);
  impl_->drain_now_and_then();
  return status;
}

Status Runtime::kill_actor(const ActorId& actor, bool no_restart) {
  protocol::ActorKill kill{actor, no_restart};
  return request(protocol::MessageType::kActorKill, wire::encode(kill)).status();
}

ActorId Runtime::new_actor_id() {
  Locked guard(*impl_);
  ObjectId id = impl_->own_id(impl_->next_sequence++, process());
  return {id.hi, id.lo};
}

PlacementGroupId Runtime::new_group_id() {
  Locked guard(*impl_);
  ObjectId id = impl_->own_id(impl_->next_sequence++, process());
  return {id.hi, id.lo};
}

// ---- Control ---------------------------------------------------------------------------------------------------------------

Result<std::string> Runtime::request(protocol::MessageType type, const std::string& body, Deadline deadline) {
  if (impl_->closed) return gone();
  return impl_->request(type, body, deadline);
}

void Runtime::send(protocol::MessageType type, const std::string& body) {
  if (impl_->closed) return;
  Locked guard(*impl_);
  impl_->daemon.send_bytes(type, 0, body);
}

protocol::GroupState Runtime::group_state(const PlacementGroupId& group) {
  Locked guard(*impl_);
  impl_->progress.drain();
  return impl_->daemon.group_state(group);
}

void Runtime::group_removed(const PlacementGroupId& group) {
  Locked guard(*impl_);
  impl_->daemon.set_group_state(group, protocol::GroupState::kRemoved);
}

}  // namespace sheaf::runtime
