// ObjectRef<T>: a counted reference to a value of type T that may not exist yet.
//
// Copies count; the object lives at least as long as one reference. Thread-safe as std::shared_ptr is. A reference may be
// an argument, a part of a value, or a result. After shutdown() it is dead but harmless.
#pragma once

#include <string>
#include <utility>

#include "runtime/runtime.h"

namespace sheaf {

namespace internal {

class RefBase {
 public:
  RefBase() = default;
  // Takes over one count.
  RefBase(runtime::Runtime* rt, runtime::Slot slot) : runtime_(rt), slot_(slot) {}
  RefBase(const RefBase& other) : runtime_(other.runtime_), slot_(other.slot_) {
    if (runtime_) runtime_->retain(slot_);
  }
  RefBase(RefBase&& other) noexcept
      : runtime_(std::exchange(other.runtime_, nullptr)), slot_(other.slot_) {}
  RefBase& operator=(RefBase other) noexcept {
    std::swap(runtime_, other.runtime_);
    std::swap(slot_, other.slot_);
    return *this;
  }
  ~RefBase() {
    if (runtime_) runtime_->release(slot_);
  }

  // False for a default-constructed or moved-from reference.
  explicit operator bool() const { return runtime_ != nullptr; }
  ObjectId id() const { return runtime_ ? runtime_->id(slot_) : ObjectId{}; }
  std::string hex() const { return to_hex(id()); }
  // Whether get() would return (or throw) at once.
  bool is_ready() const { return runtime_ && runtime_->is_ready(slot_); }
  bool operator==(const RefBase& other) const {
    return runtime_ == other.runtime_ && (!runtime_ || slot_ == other.slot_);
  }

  runtime::Runtime* runtime() const { return runtime_; }
  runtime::Slot slot() const { return slot_; }

 private:
  runtime::Runtime* runtime_ = nullptr;
  runtime::Slot slot_ = runtime::kNoSlot;
};

}  // namespace internal

template <class T>
class ObjectRef : public internal::RefBase {
 public:
  using Value = T;
  using RefBase::RefBase;
  ObjectRef() = default;
  explicit ObjectRef(RefBase base) : RefBase(std::move(base)) {}
};

}  // namespace sheaf

template <class T>
struct std::hash<sheaf::ObjectRef<T>> {
  size_t operator()(const sheaf::ObjectRef<T>& ref) const { return std::hash<sheaf::runtime::Slot>()(ref.slot()); }
};
