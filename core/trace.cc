#include "core/trace.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

#include "core/json.h"

namespace sheaf {
namespace {

int64_t steady_ns() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

uint32_t thread_number() {
  static thread_local const uint32_t number = static_cast<uint32_t>(syscall(SYS_gettid));
  return number;
}

constexpr auto kRelaxed = std::memory_order_relaxed;

}  // namespace

TraceRing::TraceRing(size_t capacity)
    : mask_(capacity == 0 ? 0 : std::bit_ceil(capacity) - 1),
      slots_(capacity == 0 ? 0 : std::bit_ceil(capacity)) {}

void TraceRing::record(const TraceEvent& event) {
  if (slots_.empty()) return;
  uint64_t ticket = next_.fetch_add(1, kRelaxed);
  Slot& slot = slots_[ticket & mask_];
  slot.sequence.store(0, kRelaxed);
  std::atomic_thread_fence(
      std::memory_order_release);  // the mark above is seen before any member below
  slot.category.store(event.category, kRelaxed);
  slot.name.store(event.name, kRelaxed);
  slot.start_ns.store(event.start_ns, kRelaxed);
  slot.duration_ns.store(event.duration_ns, kRelaxed);
  slot.argument.store(event.argument, kRelaxed);
  slot.thread.store(event.thread, kRelaxed);
  slot.sequence.store(ticket + 1, std::memory_order_release);
}

void TraceRing::instant(const char* category, const char* name, uint64_t argument) {
  if (slots_.empty()) return;
  record({category, name, steady_ns(), -1, argument, thread_number()});
}

std::vector<TraceEvent> TraceRing::snapshot() const {
  std::vector<TraceEvent> out;
  uint64_t end = next_.load(std::memory_order_acquire);
  uint64_t begin = end > slots_.size() ? end - slots_.size() : 0;
  for (uint64_t ticket = begin; ticket < end; ++ticket) {
    const Slot& slot = slots_[ticket & mask_];
    if (slot.sequence.load(std::memory_order_acquire) != ticket + 1) continue;
    TraceEvent event{slot.category.load(kRelaxed), slot.name.load(kRelaxed),
                     slot.start_ns.load(kRelaxed), slot.duration_ns.load(kRelaxed),
                     slot.argument.load(kRelaxed), slot.thread.load(kRelaxed)};
    std::atomic_thread_fence(std::memory_order_acquire);
    if (slot.sequence.load(kRelaxed) == ticket + 1)
      out.push_back(event);  // else overwritten under us
  }
  return out;
}

std::string TraceRing::chrome_json(int pid, std::string_view process) const {
  const int64_t since_1970 =
      std::chrono::nanoseconds(std::chrono::system_clock::now().time_since_epoch()).count() -
      steady_ns();
  JsonWriter json;
  json.begin_object().key("traceEvents").begin_array();
  json.begin_object().key("name").value("process_name").key("ph").value("M").key("pid").value(pid);
  json.key("args").begin_object().key("name").value(process).end_object().end_object();
  for (const TraceEvent& event : snapshot()) {
    json.begin_object();
    json.key("name").value(event.name).key("cat").value(event.category);
    json.key("ph").value(event.duration_ns < 0 ? "i" : "X");
    json.key("ts").value(static_cast<double>(event.start_ns + since_1970) / 1000.0);
    if (event.duration_ns < 0)
      json.key("s").value("t");
    else
      json.key("dur").value(static_cast<double>(event.duration_ns) / 1000.0);
    json.key("pid").value(pid).key("tid").value(event.thread);
    json.key("args").begin_object().key("arg").value(event.argument).end_object();
    json.end_object();
  }
  json.end_array().end_object();
  return std::move(json).take();
}

TraceSpan::TraceSpan(TraceRing& ring, const char* category, const char* name, uint64_t argument)
    : ring_(ring), event_{category, name, steady_ns(), 0, argument, thread_number()} {}

TraceSpan::~TraceSpan() {
  event_.duration_ns = steady_ns() - event_.start_ns;
  ring_.record(event_);
}

}  // namespace sheaf
