// A task that writes into its driver's lane what no correct process writes.
#pragma once

#include <string>

#include "runtime/sheaf.h"

namespace testgarbage {

// The first run of those that share `marker`, a file, does so; it has noted its pid there. Later ones return.
int break_lane(const std::string& marker);
int hold(const std::string& started, const std::string& go);   // until the file `go` is there
int pid_of(int unused);

}  // namespace testgarbage
