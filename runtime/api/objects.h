// put, get, wait, cancel: objects and their references.
//
//   auto ref = sheaf::put(std::vector<double>(1'000'000));
//   sheaf::View<double> in_place = sheaf::get_view(ref);   // no copy
//   std::vector<double> copy = sheaf::get(ref);
//
// All of them are thread-safe. get() and wait() block; in a task the worker lends its CPUs to others meanwhile.
#pragma once

#include <chrono>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "runtime/api/call.h"

namespace sheaf {

using Timeout = std::optional<std::chrono::nanoseconds>;   // nullopt: for ever

namespace internal {

template <class T>
T get_one(const RefBase& ref, Deadline deadline) {
  if (!ref) throw_argument("get() of an ObjectRef that refers to nothing");
  DecodeSource source;
  std::shared_ptr<const void> pin;
  auto view = check(wait_and_view(ref.runtime(), ref.slot(), deadline, &pin));
  if (view.state == runtime::ValueState::kError) {
    throw_record(check(wire::decode<protocol::ErrorRecord>(view.bytes)));
  }
  source.runtime = ref.runtime();
  source.pin = std::move(pin);
  if (view.contained) source.refs = *view.contained;
  Decoder d(view.bytes, source);
  if constexpr (std::is_void_v<T>) {
    return;
  } else {
    T out{};
    read(d, out);
    if (!d.ok()) throw_decode("the value of object " + ref.hex() + " cannot be read: " + d.error());
    return out;
  }
}

std::vector<size_t> wait_indices(std::span<const RefBase* const> refs, size_t needed, Deadline deadline);

}  // namespace internal

// Stores a value. It must not be changed through the stored copy.
template <class T>
ObjectRef<T> put(const T& value) {
  static_assert(internal::Transferable<T>, "this type cannot be stored: see runtime/api/codec.h");
  auto* c = internal::check(internal::connected());
  internal::Encoder<internal::CountSink> counter(internal::CountSink(), false);
  internal::write(counter, value);
  return ObjectRef<T>(c->runtime, internal::put_encoded(c->runtime, value, false, counter.sink().position(),
                                                        counter.sink().refs()));
}

// The value; blocks until it is there. Throws what the task threw (TaskError), GetTimeoutError, ObjectLostError, ...
template <class T>
T get(const ObjectRef<T>& ref, Timeout timeout = std::nullopt) {
  return internal::get_one<T>(ref, internal::deadline_after(timeout));
}
// All values, in order. Throws the first error in that order.
template <class T>
std::vector<T> get(const std::vector<ObjectRef<T>>& refs, Timeout timeout = std::nullopt) {
  auto deadline = internal::deadline_after(timeout);
  std::vector<T> out;
  out.reserve(refs.size());
  for (const auto& ref : refs) out.push_back(internal::get_one<T>(ref, deadline));
  return out;
}
inline void get(const std::vector<ObjectRef<void>>& refs, Timeout timeout = std::nullopt) {
  auto deadline = internal::deadline_after(timeout);
  for (const auto& ref : refs) internal::get_one<void>(ref, deadline);
}
// Numbers where they lie; the view keeps them.
template <class T>
View<T> get_view(const ObjectRef<std::vector<T>>& ref, Timeout timeout = std::nullopt) {
  return internal::get_one<View<T>>(ref, internal::deadline_after(timeout));
}

// Splits references into those that are ready (at most `num_returns`, which are waited for) and the others, in order.
template <class T>
std::pair<std::vector<ObjectRef<T>>, std::vector<ObjectRef<T>>> wait(const std::vector<ObjectRef<T>>& refs,
                                                                     size_t num_returns = 1,
                                                                     Timeout timeout = std::nullopt) {
  std::vector<const internal::RefBase*> pointers;
  for (const auto& ref : refs) pointers.push_back(&ref);
  auto ready = internal::wait_indices(pointers, num_returns, internal::deadline_after(timeout));
  std::pair<std::vector<ObjectRef<T>>, std::vector<ObjectRef<T>>> out;
  size_t next = 0;
  for (size_t i = 0; i < refs.size(); ++i) {
    bool is_ready = next < ready.size() && ready[next] == i;
    next += is_ready;
    (is_ready ? out.first : out.second).push_back(refs[i]);
  }
  return out;
}

// Asks the task behind a reference to stop. A queued one never starts; a running one is told (cancelled()), or, with
// `force`, its worker is killed. False when it has finished already.
bool cancel(const internal::RefBase& ref, bool force = false, bool recursive = true);
// In a task: whether somebody asked it to stop. Then throw TaskCancelledError, or just return.
bool cancelled();
// Gives up the value; whoever asks for it gets ObjectLostError.
template <class T>
void free_objects(const std::vector<ObjectRef<T>>& refs) {
  std::vector<internal::Slot> slots;
  for (const auto& ref : refs) slots.push_back(ref.slot());
  if (!refs.empty()) internal::check(refs[0].runtime()->free_objects(slots));
}

// The items of a streaming task, in order, as they are made.
template <class T>
class ObjectRefStream {
 public:
  explicit ObjectRefStream(internal::RefBase generator) : generator_(std::move(generator)) {}
  // The next item's reference; nothing after the last one. A task that failed gives one last item that throws in get().
  std::optional<ObjectRef<T>> next(Timeout timeout = std::nullopt);

 private:
  internal::RefBase generator_;
};

namespace internal {
// False at the end of the stream.
bool next_of_stream(const RefBase& generator, Deadline deadline, Slot* item);
}  // namespace internal

template <class T>
std::optional<ObjectRef<T>> ObjectRefStream<T>::next(Timeout timeout) {
  internal::Slot item = internal::kNoSlot;
  if (!internal::next_of_stream(generator_, internal::deadline_after(timeout), &item)) return std::nullopt;
  return ObjectRef<T>(generator_.runtime(), item);
}

}  // namespace sheaf
