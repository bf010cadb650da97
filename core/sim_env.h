// SimEnv: an Env whose time stands still until the test or simulator moves it, and whose randomness comes from a seed.
//
// Equal seeds and equal calls give equal results, on every machine. Timers fire inside advance_to(), in order of time,
// then of creation; each sees now() equal to its own due time. Owned by one thread.
#pragma once

#include <algorithm>
#include <map>
#include <utility>

#include "core/env.h"

namespace sheaf {

class SimEnv : public Env {
 public:
  explicit SimEnv(uint64_t seed) : random_state_(seed) {}

  TimePoint now() override { return now_; }
  int64_t wall_ns() override { return kEpochNs + std::chrono::nanoseconds(now_.time_since_epoch()).count(); }
  uint64_t random() override { return splitmix64(random_state_); }
  void fill_secret(std::span<std::byte> out) override {
    for (std::byte& b : out) b = static_cast<std::byte>(random());
  }
  TimerId call_at(TimePoint when, std::function<void()> closure) override {
    TimerId id = next_timer_++;
    timers_.emplace(std::pair(when, id), std::move(closure));
    return id;
  }
  bool cancel_timer(TimerId id) override {
    for (auto it = timers_.begin(); it != timers_.end(); ++it) {
      if (it->first.second == id) {
        timers_.erase(it);
        return true;
      }
    }
    return false;
  }

  bool has_timers() const { return !timers_.empty(); }
  // Due time of the earliest timer; has_timers() must hold.
  TimePoint next_timer() const { return timers_.begin()->first.first; }
  void advance_to(TimePoint when) {
    while (!timers_.empty() && timers_.begin()->first.first <= when) {
      auto node = timers_.extract(timers_.begin());
      now_ = std::max(now_, node.key().first);
      node.mapped()();
    }
    now_ = std::max(now_, when);
  }
  void advance(std::chrono::nanoseconds step) { advance_to(now_ + step); }

 private:
  static constexpr int64_t kEpochNs = 1'767'225'600'000'000'000;  // 2026-01-01
  TimePoint now_{};
  uint64_t random_state_;
  std::map<std::pair<TimePoint, TimerId>, std::function<void()>> timers_;
  TimerId next_timer_ = 1;
};

}  // namespace sheaf
