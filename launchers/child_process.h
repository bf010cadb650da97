// fork and exec of a helper process, as every child of the daemon is started. Called by the loop;
// safe beside threads.
//
// The child has a session (and process group) of its own, dies with the daemon's main thread, has
// default signal handlers, nothing blocked, /dev/null as its input, and only the descriptors named
// here.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "core/status.h"

namespace sheaf::launchers {

struct ChildOptions {
  std::vector<std::string> arguments;  // [0] is the program; looked up in PATH when it has no slash
  std::map<std::string, std::string> environment;
  std::string directory;   // "" or not there: the daemon's
  int out = -1, err = -1;  // -1: the daemon's own
  int fd3 = -1;
};
// Does not wait for the exec: a program that cannot be run exits with 127.
Result<pid_t> start_child(const ChildOptions& options);

std::map<std::string, std::string> own_environment();

// Kills every descendant that is left, orphans included (the daemon is their subreaper), and
// collects them. Returns when none is left or the time is up; false in the second case.
bool kill_descendants(int timeout_ms);

}  // namespace sheaf::launchers
