#include "core/env.h"

#include <sys/random.h>

#include <cerrno>

#include "core/event_loop.h"
#include "core/status.h"

namespace sheaf {

RealEnv::RealEnv(EventLoop* loop) : loop_(loop) {
  fill_secret(std::as_writable_bytes(std::span(&random_state_, 1)));
}

Env::TimePoint RealEnv::now() { return std::chrono::steady_clock::now(); }

int64_t RealEnv::wall_ns() {
  return std::chrono::nanoseconds(std::chrono::system_clock::now().time_since_epoch()).count();
}

uint64_t RealEnv::random() { return splitmix64(random_state_); }

void RealEnv::fill_secret(std::span<std::byte> out) {
  while (!out.empty()) {
    ssize_t n = getrandom(out.data(), out.size(), 0);
    SHEAF_CHECK(n > 0 || errno == EINTR);
    if (n > 0) out = out.subspan(static_cast<size_t>(n));
  }
}

Env::TimerId RealEnv::call_at(TimePoint when, std::function<void()> closure) {
  SHEAF_CHECK(loop_ != nullptr);
  return loop_->call_at(when, std::move(closure));
}

bool RealEnv::cancel_timer(TimerId id) { return loop_ != nullptr && loop_->cancel_timer(id); }

}  // namespace sheaf
