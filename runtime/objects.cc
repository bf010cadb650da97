#include "runtime/objects.h"

#include "runtime/impl.h"

namespace sheaf::runtime {

namespace {
constexpr size_t kHoldBatch = 64;   // drops that wait for company
constexpr size_t kSpareValuesMax = 4096;
constexpr size_t kDependentsAtOnce = 4;   // room for so many from the first on: growing costs more than the room
constexpr size_t kDependentsKept = 16;    // room that is worth keeping
}

Objects::Objects(Runtime::Impl& rt)
    : rt_(rt),
      table_(rt.session.welcome.process) {}

Slot Objects::import(const ObjectId& id, uint16_t held) {
  Slot slot = table_.find(id);
  if (slot != kNoSlot) {
    Entry& e = at(slot);
    ++e.refs;
    e.held = static_cast<uint16_t>(e.held + held);
    return slot;
  }
  slot = table_.create_foreign(id);
  Entry& e = at(slot);
  e.held = held;
  e.flags = kPublished;
  if (held == 0) {
    e.held = 1;
    change_hold(id, +1);
  }
  return slot;
}

void Objects::change_hold(const ObjectId& id, int delta) {
  int& change = hold_changes_[id];
  change += delta;
  if (change == 0) hold_changes_.erase(id);
  else if (change > 0) hold_added_ = true;
}

void Objects::hold_for(ProcessId process, const ObjectId& id) {
  protocol::Hold hold;
  hold.process = process;
  hold.add.push_back(id);
  rt_.daemon.send(protocol::MessageType::kHold, hold);
}

void Objects::attach_contained(Entry& e, std::span<const ObjectId> contained) {
  if (contained.empty()) return;
  EntryExtra& extra = e.more();
  for (const ObjectId& id : contained) {
    extra.contained.push_back(import(id, 1));
    extra.contained_ids.push_back(id);
  }
}

void Objects::adopt_contained(Slot slot, std::span<const Slot> nested) {
  if (nested.empty()) return;
  EntryExtra& extra = at(slot).more();
  for (Slot s : nested) {
    retain(s);
    extra.contained.push_back(s);
    extra.contained_ids.push_back(at(s).id);
  }
}

void Objects::set_bytes(Slot slot, ValueState state, Bytes bytes, std::span<const ObjectId> contained) {
  Entry& e = at(slot);
  if (e.ready()) return;   // the first seal wins
  e.set_bytes(state, bytes);
  attach_contained(e, contained);
  if (e.has(kOwn) && e.has(kPublished)) {
    e.flags = static_cast<uint8_t>(e.flags & ~kPublished);
    publish(slot);
  } else if (e.has(kAdopted)) {
    tell_owner(slot);
  }
  became_ready(slot);
}

void Objects::set_arena(Slot slot, const objstore::Locator& locator, std::span<const ObjectId> contained) {
  Entry& e = at(slot);
  if (e.has(kOwn) || (e.has(kAdopted) && e.id.process() == rt_.session.welcome.process)) {
    // The sealing process told the daemon, in our name: also when this is a repetition.
    e.held = static_cast<uint16_t>(e.held + 1);
    e.flags |= kPublished;
  }
  if (e.ready()) return;
  if (!is_here(locator)) knows_other_nodes_ = true;
  e.set_locator(locator);
  attach_contained(e, contained);
  became_ready(slot);
}

void Objects::set_error(Slot slot, const protocol::ErrorRecord& error) {
  std::string bytes = wire::encode(error);
  set_bytes(slot, ValueState::kError, wire::as_bytes(bytes));
}

void Objects::set_moved(Slot slot) {
  Entry& e = at(slot);
  if (e.state == ValueState::kArena && !is_here(e.locator)) e.more().elsewhere = e.locator;
  else if (e.extra) e.extra->elsewhere = {};
  e.clear_value();
  e.flags |= kLost;
  e.flags = static_cast<uint8_t>(e.flags & ~(kSubscribed | kRebuilding));
}

bool Objects::is_here(const objstore::Locator& locator) const {
  return locator.node == rt_.session.welcome.node;
}

const objstore::Locator* Objects::location(Slot slot) {
  const Entry& e = at(slot);
  if (e.state == ValueState::kArena) return &e.locator;
  return !e.ready() && e.extra && e.extra->elsewhere.length > 0 ? &e.extra->elsewhere : nullptr;
}

void Objects::set_rebuilding(Slot slot) {
  at(slot).flags |= kRebuilding;
  rt_.progress.note_ready();
}

void Objects::give_up(const ObjectId& id, Bytes error) {
  protocol::ObjectPublish message{id, ValueState::kError, std::string(wire::as_text(error)), {}};
  rt_.daemon.send(protocol::MessageType::kObjectPublish, message);
  change_hold(id, -1);   // the one that this message made
}

void Objects::became_ready(Slot slot) {
  Entry& e = at(slot);
  e.flags = static_cast<uint8_t>(e.flags & ~(kSubscribed | kLost | kRebuilding));
  rt_.progress.note_ready();
  if (e.has(kNotify)) {
    e.flags = static_cast<uint8_t>(e.flags & ~kNotify);
    notified_.push_back(slot);
    rt_.progress.note_notified();
  }
  if (!e.extra || e.extra->dependents.empty()) return;
  retain(slot);   // tasks may end, and drop it
  std::vector<Task*> dependents = std::exchange(e.extra->dependents, {});
  for (Task* task : dependents) rt_.submitter.dependency_ready(task);
  if (dependents.capacity() <= kDependentsKept && e.extra->dependents.empty()) {
    dependents.clear();
    e.extra->dependents.swap(dependents);
  }
  release(slot);
}

void Objects::add_dependent(Slot slot, Task* task) {
  Entry& e = at(slot);
  if (!e.extra && !spare_.empty()) {
    e.extra = std::move(spare_.back());
    spare_.pop_back();
  }
  std::vector<Task*>& dependents = e.more().dependents;
  if (dependents.capacity() == 0) dependents.reserve(kDependentsAtOnce);
  dependents.push_back(task);
}

void Objects::keep_spare(std::unique_ptr<EntryExtra> extra) {
  bool plain = extra->contained.capacity() + extra->contained_ids.capacity() == 0 && !extra->stream && !extra->freed;
  size_t room = extra->dependents.capacity();
  if (!plain || room == 0 || room > kDependentsKept || spare_.size() >= kSpareValuesMax) return;
  extra->dependents.clear();
  extra->elsewhere = {};
  spare_.push_back(std::move(extra));
}

void Objects::notify(Slot slot) {
  Entry& e = at(slot);
  retain(slot);   // given to take_notified()'s caller
  if (e.ready()) {
    notified_.push_back(slot);
    rt_.progress.note_notified();
    return;
  }
  if (e.has(kNotify)) {
    release(slot);
    return;
  }
  e.flags |= kNotify;
  subscribe(slot);
}

void Objects::signal_stream(Slot generator) {
  Entry& e = at(generator);
  if (!e.has(kNotify)) return;
  e.flags = static_cast<uint8_t>(e.flags & ~kNotify);
  notified_.push_back(generator);
  rt_.progress.note_notified();
}

void Objects::tell_owner(Slot slot) {
  const Entry& e = at(slot);
  protocol::ObjectPublish message{e.id, e.state, std::string(wire::as_text(e.value_or_error())), {}};
  if (e.extra) {
    for (Slot s : e.extra->contained) publish(s);
    message.contained = e.extra->contained_ids;
  }
  rt_.daemon.send(protocol::MessageType::kObjectMade, message);
}

void Objects::publish(Slot slot) {
  Entry& e = at(slot);
  if (!e.has(kOwn)) return;
  if (e.task) rt_.submitter.escape(e.task);
  if (e.has(kPublished)) return;
  e.flags |= kPublished;
  if (!e.has(kAnnounced)) {
    e.flags |= kAnnounced;
    e.held = static_cast<uint16_t>(e.held + 1);
  }
  protocol::ObjectPublish message;
  message.id = e.id;
  message.state = e.state;
  if (e.has_bytes()) message.bytes = std::string(wire::as_text(e.value_or_error()));
  if (e.extra) {
    for (Slot s : e.extra->contained) publish(s);
    message.contained = at(slot).extra->contained_ids;
  }
  rt_.daemon.send(protocol::MessageType::kObjectPublish, message);
}

void Objects::subscribe(Slot slot) {
  Entry& e = at(slot);
  if (e.ready() || e.has(kSubscribed)) return;
  if (e.has(kOwn) && !e.has(kLost)) return;   // our own task will bring it
  e.flags |= kSubscribed;
  if (e.extra && e.extra->elsewhere.length > 0) {
    located_.push_back(e.id);
    locations_.push_back(e.extra->elsewhere);
  } else {
    subscriptions_.push_back(e.id);
  }
}

void Objects::flush(bool all) {
  if (!subscriptions_.empty() || !located_.empty()) {
    protocol::ObjectSubscribe message{std::exchange(located_, {}), true, std::exchange(locations_, {})};
    message.ids.insert(message.ids.end(), subscriptions_.begin(), subscriptions_.end());
    subscriptions_.clear();
    rt_.daemon.send(protocol::MessageType::kObjectSubscribe, message);
  }
  if (hold_changes_.empty()) return;
  if (!all && !hold_added_ && hold_changes_.size() < kHoldBatch) return;
  protocol::Hold hold;
  for (auto& [id, change] : hold_changes_) {
    for (int i = 0; i < change; ++i) hold.add.push_back(id);
    for (int i = 0; i < -change; ++i) hold.drop.push_back(id);
  }
  hold_changes_.clear();
  hold_added_ = false;
  rt_.daemon.send(protocol::MessageType::kHold, hold);
}

// Values contain references to values: a work list, as a chain of a million would overflow the stack.
void Objects::destroy(Slot slot) {
  at(slot).refs = 1;   // its count until it is erased
  if (destroying_) return dying_.push_back(slot);
  destroying_ = true;
  erase_one(slot);
  while (!dying_.empty()) {
    Slot next = dying_.back();
    dying_.pop_back();
    erase_one(next);
  }
  destroying_ = false;
}

void Objects::erase_one(Slot slot) {
  Entry& e = at(slot);
  Task* producer = std::exchange(e.task, nullptr);
  for (int i = 0; i < e.held; ++i) change_hold(e.id, -1);
  std::unique_ptr<EntryExtra> extra = std::move(e.extra);
  table_.erase(slot);
  if (extra) {
    for (Slot s : extra->contained) release(s);
    if (extra->stream) {
      for (Slot s : extra->stream->items) release(s);
    }
    keep_spare(std::move(extra));
  }
  if (producer) rt_.submitter.lineage_released(producer);
}

}  // namespace sheaf::runtime
