// The part of ObjectTable that knows of other nodes.
#include <utility>

#include "core/status.h"
#include "objstore/object_table.h"

namespace sheaf::objstore {

// ---- Foreign objects ----------------------------------------------------------------------------

void ObjectTable::counted(const ObjectId& id) {
  Entry& e = entry(id);
  if (!e.foreign) return;
  e.told_held = true;
  consider(id, e);
}

void ObjectTable::drop_holds(ProcessId process, const ObjectId& id, uint32_t count, Actions& out) {
  if (row(process) != nullptr) add_hold(id, entry(id), process, -static_cast<int32_t>(count), out);
}

// Nobody here uses it. Bytes that the owner counts on stay; others stay as long as there is room.
void ObjectTable::collect_foreign(const ObjectId& id, Entry& e, Actions& out) {
  if (std::exchange(e.told_held, false)) out.push_back(DroppedAbroad{id});
  if (e.kept > 0 || e.in_arena()) return;
  if (e.state == ValueState::kSpilled) lose_copy(id, e, false, out);
  if (e.state == ValueState::kInline) drop_value(id, e, out);
  erase_if_idle(id, e);
}

void ObjectTable::erase_if_idle(const ObjectId& id, Entry& e) {
  if (e.candidate || e.told_held || e.kept > 0 || e.containers > 0) return;
  if (e.state == ValueState::kPending && e.holds.empty() && e.subscribers.empty())
    entries_.erase(id);
}

bool ObjectTable::fetched(const ObjectId& id, const Locator& to, Actions& out) {
  Entry* e = find_mutable(id);
  bool wanted = e != nullptr && (e->state == ValueState::kPending || e->elsewhere) &&
                (e->foreign || e->elsewhere || is_adopted(id));
  if (!wanted) {
    out.push_back(FreeExtent{to});
    return false;
  }
  e->known = true;
  e->elsewhere = false;
  e->state = ValueState::kArena;
  e->locator = to;
  e->size = to.length;
  e->lru = lru_.insert(lru_.end(), id);
  resolve(id, *e, out);
  return true;
}

void ObjectTable::fetched_inline(const ObjectId& id, std::string bytes, Actions& out) {
  Entry* e = find_mutable(id);
  if (e == nullptr || !e->foreign || e->state != ValueState::kPending) return;
  e->known = true;
  e->state = ValueState::kInline;
  e->size = bytes.size();
  e->bytes = std::move(bytes);
  resolve(id, *e, out);
}

void ObjectTable::answer_waiting(const ObjectId& id, const ObjectEvent& event, Actions& out) {
  Entry* e = find_mutable(id);
  if (e == nullptr) return;
  bool go_on = event.state == ValueState::kPending;
  for (const Entry::Subscriber& s : e->subscribers) {
    out.push_back(NotifyReady{s.process, event});
    if (ProcessRow* r = row(s.process); r != nullptr && !go_on) r->interests.erase(id);
  }
  if (!go_on) e->subscribers.clear();
  consider(id, *e);
}

bool ObjectTable::keep(const ObjectId& id, int delta) {
  Entry* e = find_mutable(id);
  if (e == nullptr || !e->foreign) return false;
  if (delta > 0 && !e->in_arena() && e->state != ValueState::kSpilled) return false;
  if (delta > 0) ++e->kept;
  else if (e->kept > 0) --e->kept;
  consider(id, *e);
  return true;
}

// The bytes are not here any more. Those who wait for them look elsewhere.
void ObjectTable::lose_copy(const ObjectId& id, Entry& e, bool corrupt, Actions& out) {
  forget_copy(id, out);
  out.push_back(CopyDropped{id, corrupt});
  for (const Entry::Subscriber& s : std::exchange(e.subscribers, {})) {
    if (number_of(s.process) != number_of(kDaemonProcess)) {
      e.subscribers.push_back(s);
      continue;
    }
    if (ProcessRow* r = row(s.process)) r->interests.erase(id);
    out.push_back(NotifyReady{s.process, {id, ValueState::kPending, {}, {}}});
  }
}

void ObjectTable::forget_copy(const ObjectId& id, Actions& out) {
  Entry* e = find_mutable(id);
  if (e == nullptr || !e->foreign) return;
  e->kept = 0;
  drop_value(id, *e, out);
  if (!e->subscribers.empty()) out.push_back(FetchValue{id});
  consider(id, *e);
}

// ---- Ours, with bytes on other nodes ------------------------------------------------------------

bool ObjectTable::sealed_elsewhere(const ObjectId& id, const Locator& locator,
                                   std::span<const ObjectId> contained, Actions& out) {
  Entry& e = entry(id);
  if (!take_value(id, e, contained, out)) return false;
  e.state = ValueState::kArena;
  e.elsewhere = e.has_copies = true;
  e.locator = locator;
  e.size = locator.length;
  resolve(id, e, out);
  return true;
}

void ObjectTable::moved_elsewhere(const ObjectId& id, const Locator& locator, Actions& out) {
  Entry* e = find_mutable(id);
  if (e == nullptr || !e->elsewhere) return;
  e->locator = locator;
  if (!e->subscribers.empty()) out.push_back(FetchValue{id});
}

void ObjectTable::lost_elsewhere(const ObjectId& id, LossCause cause, Actions& out) {
  Entry* e = find_mutable(id);
  if (e != nullptr && e->elsewhere) lose(id, *e, cause, out);
}

void ObjectTable::contains_too(const ObjectId& id, std::span<const ObjectId> contained,
                               Actions& out) {
  Entry* e = find_mutable(id);
  if (e != nullptr && !e->foreign && e->contained.empty()) contain(*e, id, contained, out);
}

void ObjectTable::mark_copies(const ObjectId& id, bool any) {
  if (Entry* e = find_mutable(id)) e->has_copies = any;
}

void ObjectTable::thaw() {
  frozen_ = false;
  fresh_.insert(fresh_.end(), frozen_candidates_.begin(), frozen_candidates_.end());
  frozen_candidates_.clear();
}

void ObjectTable::adopt(ProcessId home) {
  adopted_.insert(home >> 32);
  for (auto& [id, e] : entries_) {
    if (id.hi >> 32 != home >> 32) continue;
    e.foreign = e.told_held = false;
    e.kept = 0;
    if (e.state != ValueState::kPending) e.known = true;
    consider(id, e);
  }
}

void ObjectTable::lose_adopted(ProcessId home, Actions& out) {
  std::vector<ObjectId> lost;
  for (auto& [id, e] : entries_) {
    if (id.hi >> 32 == home >> 32 && e.state == ValueState::kPending) lost.push_back(id);
  }
  for (const ObjectId& id : lost) lose(id, entries_.at(id), LossCause::kNodeDied, out);
}

}  // namespace sheaf::objstore
