// A fixed-size ring of what happened lately, dumped as a Chrome trace (chrome://tracing, Perfetto).
//
// Recording costs one fetch_add and a few stores, never a lock or an allocation; the newest events overwrite the
// oldest. A dump taken while others record leaves out events that are being written. Names and categories are string
// literals: they are kept by pointer. Thread-safe.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sheaf {

struct TraceEvent {
  const char* category = "";
  const char* name = "";
  int64_t start_ns = 0;      // steady clock
  int64_t duration_ns = -1;  // -1: an instant
  uint64_t argument = 0;     // shown as "arg"
  uint32_t thread = 0;
};

class TraceRing {
 public:
  // Keeps the last `capacity` events, rounded up to a power of two. 0 = records nothing.
  explicit TraceRing(size_t capacity);

  void record(const TraceEvent& event);
  void instant(const char* category, const char* name, uint64_t argument = 0);
  // Oldest first.
  std::vector<TraceEvent> snapshot() const;
  // {"traceEvents": [...]}, times in microseconds since 1970, so that rings of several machines can
  // be shown together. `process` names the track `pid`, which need not be a process id.
  std::string chrome_json(int pid, std::string_view process) const;

 private:
  struct Slot {
    std::atomic<uint64_t> sequence{0};  // ticket + 1 once written, 0 while being written
    std::atomic<const char*> category{nullptr};
    std::atomic<const char*> name{nullptr};
    std::atomic<int64_t> start_ns{0}, duration_ns{0};
    std::atomic<uint64_t> argument{0};
    std::atomic<uint32_t> thread{0};
  };

  const size_t mask_;
  std::vector<Slot> slots_;
  std::atomic<uint64_t> next_{0};
};

// Records the time from its construction to its end.
class TraceSpan {
 public:
  TraceSpan(TraceRing& ring, const char* category, const char* name, uint64_t argument = 0);
  ~TraceSpan();
  TraceSpan(const TraceSpan&) = delete;

 private:
  TraceRing& ring_;
  TraceEvent event_;
};

}  // namespace sheaf
