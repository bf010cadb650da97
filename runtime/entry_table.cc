#include "runtime/entry_table.h"

#include "runtime/task.h"

namespace sheaf::runtime {

Bytes freed_error() {
  static const std::string encoded = wire::encode(
      protocol::ErrorRecord{protocol::ErrorKind::kObjectFreed, "the object was freed explicitly", "", {}});
  return wire::as_bytes(encoded);
}

Slot EntryTable::allocate() {
  ++live_;
  if (!free_.empty()) {
    Slot slot = free_.back();
    free_.pop_back();
    return slot;
  }
  if (fresh_ >> kChunkBits == chunks_.size()) chunks_.push_back(std::make_unique<Entry[]>(kChunk));
  return fresh_++;
}

Slot EntryTable::create_own() {
  Slot slot = allocate();
  Entry& e = at(slot);
  e.id = {hi_, uint64_t{e.generation} << 32 | slot};
  e.refs = 1;
  e.flags = kOwn;
  return slot;
}

Slot EntryTable::create_foreign(const ObjectId& id) {
  Slot slot = allocate();
  Entry& e = at(slot);
  e.id = id;
  e.refs = 1;
  e.flags = 0;
  foreign_[id] = slot;
  return slot;
}

Slot EntryTable::find_own(uint64_t lo) const {
  Slot slot = static_cast<Slot>(lo);
  if (slot >= fresh_) return kNoSlot;
  const Entry& e = at(slot);
  return e.refs > 0 && e.has(kOwn) && e.id.lo == lo ? slot : kNoSlot;
}

Slot EntryTable::find(const ObjectId& id) const {
  if (id.hi == hi_) {
    if (Slot own = find_own(id.lo); own != kNoSlot) return own;
  }
  auto it = foreign_.find(id);
  return it == foreign_.end() ? kNoSlot : it->second;
}

void EntryTable::erase(Slot slot) {
  Entry& e = at(slot);
  if (!e.has(kOwn)) foreign_.erase(e.id);
  e.clear_value();
  e.extra.reset();
  e.task = nullptr;
  e.flags = 0;
  e.held = 0;
  e.refs = 0;
  ++e.generation;
  free_.push_back(slot);
  --live_;
}

}  // namespace sheaf::runtime
