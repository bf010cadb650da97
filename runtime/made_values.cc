#include "runtime/made_values.h"

namespace sheaf::runtime {

namespace {

// Of a string that does not hold its bytes itself.
size_t on_the_heap(const std::string& s) { return s.capacity() > std::string().capacity() ? s.capacity() : 0; }

}  // namespace

void MadeValues::keep(const ObjectId& id, const ReturnValue& value) {
  size_t length = value.sealed ? 0 : value.inline_bytes.size();
  if (bytes_ + length > kBytesMax) {
    places_.clear();
    bytes_ = 0;
  }
  if (places_.empty()) places_.resize(kPlaces);
  MadeValue& place = places_[place_of(id)];
  bytes_ -= on_the_heap(place.bytes);
  place.id = id;
  place.state = value.sealed ? ValueState::kArena : ValueState::kInline;
  if (value.sealed) place.locator = *value.sealed;
  place.bytes.assign(reinterpret_cast<const char*>(value.inline_bytes.data()), length);
  bytes_ += on_the_heap(place.bytes);
}

}  // namespace sheaf::runtime
