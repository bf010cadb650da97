// Env: the world outside a state machine or service, passed in by constructor: time, timers and randomness.
//
// RealEnv is the machine's clock, the kernel's randomness and an EventLoop's timers; SimEnv (sim_env.h) is a virtual
// clock and a seeded generator, so that the same code runs deterministically in a simulator. Owned by one thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

namespace sheaf {

class EventLoop;

class Env {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  using TimerId = uint64_t;

  virtual ~Env() = default;
  // Monotonic. All deadlines and intervals.
  virtual TimePoint now() = 0;
  // Nanoseconds since 1970, for people only: it may jump.
  virtual int64_t wall_ns() = 0;
  // For jitter and choices; not secret.
  virtual uint64_t random() = 0;
  // Unpredictable bytes, for tokens.
  virtual void fill_secret(std::span<std::byte> out) = 0;
  virtual TimerId call_at(TimePoint when, std::function<void()> closure) = 0;
  virtual bool cancel_timer(TimerId id) = 0;

  TimerId call_after(std::chrono::nanoseconds delay, std::function<void()> closure) {
    return call_at(now() + delay, std::move(closure));
  }
  // Uniform in [0, bound); bound > 0.
  uint64_t random_below(uint64_t bound) { return random() % bound; }
};

class RealEnv : public Env {
 public:
  // `loop` may be null for users that set no timers; it must outlive the Env.
  explicit RealEnv(EventLoop* loop);
  TimePoint now() override;
  int64_t wall_ns() override;
  uint64_t random() override;
  void fill_secret(std::span<std::byte> out) override;
  TimerId call_at(TimePoint when, std::function<void()> closure) override;
  bool cancel_timer(TimerId id) override;

 private:
  EventLoop* loop_;
  uint64_t random_state_;
};

// One step of the splitmix64 generator: full period, and any seed is as good as another.
inline uint64_t splitmix64(uint64_t& state) {
  uint64_t z = state += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

}  // namespace sheaf
