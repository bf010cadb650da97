// A real sheafd in a temporary directory, for tests. Ends it, and checks that nothing is left, when
// destroyed.
#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

namespace sheaf::launchers::testing {

struct DaemonOptions {
  std::vector<std::string> arguments = {};  // beyond the defaults: 2 CPUs, 64 MiB of objects
  std::string root = {};                    // "" = a fresh one of its own
  std::string worker_program = {};          // $SHEAF_WORKER
  bool embedded = false;                    // owned by this process
};

class DaemonProcess {
 public:
  explicit DaemonProcess(const DaemonOptions& options = {});
  ~DaemonProcess();
  DaemonProcess(const DaemonProcess&) = delete;

  bool ready() const { return !socket_path.empty(); }
  // SIGTERM and wait; the exit status as waitpid() gives it, -1 when it had to be killed.
  int stop();
  // kill -9 and wait.
  void kill9();
  bool running() const;
  // Waits for its end without a signal. False after `timeout_ms`.
  bool wait_end(int timeout_ms);

  pid_t pid = 0;
  std::string root, session_dir, socket_path;
  std::string error;    // what it said instead of serving
  double ready_ms = 0;  // from fork to the line

 private:
  bool own_root_ = false;
};

// Processes whose parent is `pid`.
std::vector<pid_t> children_of(pid_t pid);
bool exists(pid_t pid);
// Polls every few milliseconds until `condition` holds.
template <class F>
bool eventually(F condition, int timeout_ms = 20000);
void sleep_ms(int ms);
double now_ms();
std::string temporary_root();

template <class F>
bool eventually(F condition, int timeout_ms) {
  for (double end = now_ms() + timeout_ms; now_ms() < end; sleep_ms(2)) {
    if (condition()) return true;
  }
  return condition();
}

}  // namespace sheaf::launchers::testing
