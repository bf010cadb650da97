// Named fault points: places in the code where a test may kill, delay or fail this very process.
//
// Armed by the environment variable SHEAF_FAULT, a comma-separated list of <name>:<nth>:<action>; the point acts at
// its nth passage in the process (1 = the first; 0 = every one). Actions: `kill` (SIGKILL to itself), `exit` (_exit 1),
// `stop` (SIGSTOP), `fail` (the point returns true and the caller reports an error), `sleep=<ms>`. A malformed list
// aborts at start. Disarmed, a point costs one load. Thread-safe and usable after fork.
#pragma once

#include <atomic>
#include <string>

namespace sheaf {

namespace internal {
extern std::atomic<bool> faults_armed;
bool fault_point_slow(const char* name);
}  // namespace internal

// True when the caller shall behave as if the operation that follows had failed.
inline bool fault_point(const char* name) {
  if (!internal::faults_armed.load(std::memory_order_relaxed)) [[likely]] return false;
  return internal::fault_point_slow(name);
}

// Replaces what is armed; "" disarms. For tests inside one process. False when the list is malformed.
bool arm_faults(const std::string& list);

}  // namespace sheaf
