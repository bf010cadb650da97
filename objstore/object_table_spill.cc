// The part of ObjectTable that moves values between arena and disk.
#include "core/status.h"
#include "objstore/object_table.h"

namespace sheaf::objstore {

uint64_t ObjectTable::on_pressure(uint64_t bytes_needed, const MaySpill& may_spill,
                                  bool only_copies, Actions& out) {
  uint64_t chosen = 0;
  for (const ObjectId& id : lru_) {
    if (chosen >= bytes_needed) break;
    Entry& e = entries_.at(id);
    bool copy = e.foreign && e.kept == 0;
    if (e.spilling || (only_copies && !copy) || !may_spill(id, e.locator)) continue;
    chosen += kHeaderBytes + e.size;
    if (e.spill.file != 0 || copy) {
      out.push_back(TryEvict{id, e.locator});
    } else {
      e.spilling = true;
      out.push_back(StartSpill{id, e.locator});
    }
  }
  return chosen;
}

bool ObjectTable::spill_written(const ObjectId& id, const Locator& locator, const SpillPlace& place,
                                Actions& out) {
  Entry* e = find_mutable(id);
  if (e == nullptr || e->state != ValueState::kArena || e->locator != locator || !e->spilling) {
    out.push_back(DeleteSpill{place});  // freed or replaced in the meantime
    return false;
  }
  e->spilling = false;
  e->spill = place;
  return !std::exchange(e->wanted, false);
}

void ObjectTable::spill_failed(const ObjectId& id, const Locator& locator) {
  Entry* e = find_mutable(id);
  if (e != nullptr && e->state == ValueState::kArena && e->locator == locator) e->spilling = false;
}

void ObjectTable::evicted(const ObjectId& id, Actions& out) {
  Entry* e = find_mutable(id);
  SHEAF_CHECK(e != nullptr && e->in_arena());
  if (e->spill.file == 0) {
    SHEAF_CHECK(e->foreign && e->kept == 0);
    return lose_copy(id, *e, false, out);
  }
  lru_.erase(e->lru);
  e->state = ValueState::kSpilled;
  out.push_back(FreeExtent{std::exchange(e->locator, {})});
}

void ObjectTable::restored(const ObjectId& id, const SpillPlace& from, const Locator& to,
                           Actions& out) {
  Entry* e = find_mutable(id);
  if (e == nullptr || !e->restoring || e->spill != from) {
    out.push_back(FreeExtent{to});
    return;
  }
  e->restoring = false;
  e->state = ValueState::kArena;
  e->locator = to;
  e->lru = lru_.insert(lru_.end(), id);
  resolve(id, *e, out);
}

void ObjectTable::restore_failed(const ObjectId& id, const SpillPlace& from, LossCause cause,
                                 Actions& out) {
  Entry* e = find_mutable(id);
  if (e == nullptr || !e->restoring || e->spill != from) return;
  e->restoring = false;
  if (cause == LossCause::kStoreFull) {
    answer_error(id, *e, cause, out);
    consider(id, *e);
  } else {
    lose(id, *e, cause, out);
  }
}

}  // namespace sheaf::objstore
