#include "core/fault.h"

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <list>
#include <thread>

namespace sheaf {
namespace {

enum class FaultAction { kKill, kExit, kStop, kFail, kSleep };

struct Fault {
  std::string name;
  uint64_t nth = 0;
  FaultAction action = FaultAction::kKill;
  std::chrono::milliseconds sleep{0};
  std::atomic<uint64_t> passages{0};
};

// Leaked: points may be passed while static destructors run. Replaced only by tests, between
// operations.
std::list<Fault>& faults() {
  static auto* list = new std::list<Fault>();
  return *list;
}

bool parse_number(const std::string& text, uint64_t* out) {
  if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos) return false;
  *out = std::strtoull(text.c_str(), nullptr, 10);
  return true;
}

bool parse_fault(const std::string& item, Fault* fault) {
  size_t first = item.find(':');
  size_t second = first == std::string::npos ? first : item.find(':', first + 1);
  if (first == 0 || second == std::string::npos) return false;
  fault->name = item.substr(0, first);
  if (!parse_number(item.substr(first + 1, second - first - 1), &fault->nth)) return false;
  std::string action = item.substr(second + 1);
  if (action == "kill")
    fault->action = FaultAction::kKill;
  else if (action == "exit")
    fault->action = FaultAction::kExit;
  else if (action == "stop")
    fault->action = FaultAction::kStop;
  else if (action == "fail")
    fault->action = FaultAction::kFail;
  else if (action.starts_with("sleep=")) {
    uint64_t ms = 0;
    if (!parse_number(action.substr(6), &ms)) return false;
    fault->action = FaultAction::kSleep;
    fault->sleep = std::chrono::milliseconds(ms);
  } else {
    return false;
  }
  return true;
}

bool arm_from_environment() {
  const char* list = std::getenv("SHEAF_FAULT");
  if (list == nullptr || *list == 0) return false;
  if (!arm_faults(list)) {
    std::fprintf(stderr, "sheaf: malformed SHEAF_FAULT '%s': use <name>:<nth>:<action>,...\n",
                 list);
    abort();
  }
  return true;
}

}  // namespace

namespace internal {

std::atomic<bool> faults_armed{false};

bool fault_point_slow(const char* name) {
  bool fail = false;
  for (Fault& fault : faults()) {
    if (fault.name != name) continue;
    uint64_t passage = fault.passages.fetch_add(1, std::memory_order_relaxed) + 1;
    if (fault.nth != 0 && passage != fault.nth) continue;
    switch (fault.action) {
      case FaultAction::kKill: ::kill(::getpid(), SIGKILL); break;
      case FaultAction::kExit: ::_exit(1);
      case FaultAction::kStop: ::kill(::getpid(), SIGSTOP); break;
      case FaultAction::kFail: fail = true; break;
      case FaultAction::kSleep: std::this_thread::sleep_for(fault.sleep); break;
    }
  }
  return fail;
}

}  // namespace internal

bool arm_faults(const std::string& list) {
  std::list<Fault> parsed;
  for (size_t begin = 0; begin < list.size();) {
    size_t end = list.find(',', begin);
    if (end == std::string::npos) end = list.size();
    if (!parse_fault(list.substr(begin, end - begin), &parsed.emplace_back())) return false;
    begin = end + 1;
  }
  internal::faults_armed.store(false);
  faults().swap(parsed);
  internal::faults_armed.store(!faults().empty());
  return true;
}

[[maybe_unused]] static const bool kArmedAtStart = arm_from_environment();

}  // namespace sheaf
