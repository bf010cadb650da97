#include "runtime/api/async.h"

#include <poll.h>
#include <unistd.h>

#include <mutex>
#include <thread>
#include <unordered_map>

namespace sheaf {

namespace internal {

namespace {

constexpr int kLookMs = 50;   // how late the end of the connection may be noticed

// The waiting callbacks of one connection. Leaked with it, as its thread may outlive main().
class ReadyCalls {
 public:
  explicit ReadyCalls(runtime::Runtime* rt) : runtime_(rt), fd_(rt->ready_fd()) {
    std::thread([this] { serve(); }).detach();
  }
  runtime::Runtime* runtime() const { return runtime_; }

  // False when the connection has ended: nobody would call it.
  bool add(const RefBase& ref, std::function<void()> action) {
    {
      std::lock_guard guard(lock_);
      if (ended_) return false;
      waiting_.emplace(ref.slot(), Waiting{ref, std::move(action)});
    }
    runtime_->notify_ready(ref.slot());
    return true;
  }

 private:
  struct Waiting {
    RefBase ref;   // the slot stays that object's
    std::function<void()> action;
  };

  void serve() {
    pollfd p{fd_, POLLIN, 0};
    while (runtime::Runtime::current() == runtime_) {
      ::poll(&p, 1, kLookMs);
      uint64_t count = 0;
      [[maybe_unused]] ssize_t n = ::read(fd_, &count, sizeof count);
      for (Slot slot : runtime_->take_ready()) {
        RefBase count_of_notice(runtime_, slot);
        call_all(slot);
      }
    }
    std::unordered_multimap<Slot, Waiting> rest;
    {
      std::lock_guard guard(lock_);
      ended_ = true;
      rest.swap(waiting_);
    }
    for (auto& [slot, waiting] : rest) waiting.action();
  }

  void call_all(Slot slot) {
    for (;;) {
      std::unordered_multimap<Slot, Waiting>::node_type next;
      {
        std::lock_guard guard(lock_);
        next = waiting_.extract(slot);
      }
      if (!next) return;
      next.mapped().action();
    }
  }

  runtime::Runtime* runtime_;
  int fd_;
  std::mutex lock_;   // callers and the thread; never held while user code runs
  std::unordered_multimap<Slot, Waiting> waiting_;
  bool ended_ = false;
};

std::mutex g_calls_lock;
ReadyCalls* g_calls = nullptr;   // of the newest connection

}  // namespace

}  // namespace internal

void when_ready(const internal::RefBase& ref, std::function<void()> action) {
  if (!ref) internal::throw_argument("when_ready() of an ObjectRef that refers to nothing");
  internal::ReadyCalls* calls = nullptr;
  {
    std::lock_guard guard(internal::g_calls_lock);
    if (runtime::Runtime::current() == ref.runtime()) {
      if (!internal::g_calls || internal::g_calls->runtime() != ref.runtime()) {
        internal::g_calls = new internal::ReadyCalls(ref.runtime());
      }
      calls = internal::g_calls;
    }
  }
  if (!calls || !calls->add(ref, action)) action();   // its connection has ended
}

}  // namespace sheaf
