// Values without waiting for them: futures and callbacks.
//
//   std::future<int> value = sheaf::get_future(ref);
//   sheaf::when_ready(ref, [ref] { use(sheaf::get(ref)); });
//
// Callbacks run one after another in one thread of the library's own, which starts at the first use: they should be short.
// An exception that leaves one ends the program. After shutdown() those that still wait are called; their get() throws
// DisconnectedError.
#pragma once

#include <functional>
#include <future>
#include <memory>

#include "runtime/api/objects.h"

namespace sheaf {

// Calls `action` once when get() would not block any more (at once, in the other thread, if it is ready already).
void when_ready(const internal::RefBase& ref, std::function<void()> action);

// What get() would return or throw. The future needs no reference to stay.
template <class T>
std::future<T> get_future(const ObjectRef<T>& ref) {
  auto promise = std::make_shared<std::promise<T>>();
  std::future<T> future = promise->get_future();
  when_ready(ref, [ref, promise] {
    try {
      if constexpr (std::is_void_v<T>) {
        get(ref);
        promise->set_value();
      } else {
        promise->set_value(get(ref));
      }
    } catch (...) {
      promise->set_exception(std::current_exception());
    }
  });
  return future;
}

}  // namespace sheaf
