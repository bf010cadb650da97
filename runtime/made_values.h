// What a worker has made lately, for tasks that were sent here before their arguments existed.
//
// A direct-mapped table by object: a later result takes the place of an earlier one, so that nothing has to be told or
// cleaned up; who asks in vain has other means. Small values with their bytes, others by where they lie in the arena (whose
// caller holds them, as it waits for the task that asks). Bounded in number and bytes. Needs the runtime's lock.
#pragma once

#include <string>
#include <vector>

#include "core/ids.h"
#include "objstore/locator.h"
#include "runtime/runtime.h"

namespace sheaf::runtime {

struct MadeValue {
  ObjectId id;
  ValueState state = ValueState::kPending;   // kPending: nothing here
  objstore::Locator locator;
  std::string bytes;
};

class MadeValues {
 public:
  void keep(const ObjectId& id, const ReturnValue& value);
  // Null: never kept, or not any more. Valid until the next keep().
  const MadeValue* find(const ObjectId& id) const {
    if (places_.empty()) return nullptr;
    const MadeValue& place = places_[place_of(id)];
    return place.id == id && place.state != ValueState::kPending ? &place : nullptr;
  }
  size_t bytes() const { return bytes_; }

  static constexpr size_t kPlaces = 1024;        // twice as many as a worker is sent tasks ahead
  static constexpr size_t kBytesMax = 1u << 20;

 private:
  // The low half of an id counts the places of its maker's table: neighbours do not collide.
  static size_t place_of(const ObjectId& id) { return id.lo % kPlaces; }

  std::vector<MadeValue> places_;
  size_t bytes_ = 0;
};

}  // namespace sheaf::runtime
