// The life of a C++ worker process: connect, load the user's library, run tasks in one or more threads, leave.
#pragma once

#include "core/ids.h"
#include <string>

#include "core/status.h"

namespace sheaf::internal {

struct WorkerOptions {
  std::string socket_path;
  uint64_t spawn_token = 0;
  JobId job = 0;
  std::string name_space;
  std::string library;
  // Tasks that run at the same time in this process: $SHEAF_CPP_SLOTS, default 1. They share one lease, and thus one
  // task's resources: more than one is for tasks that wait, or for one process that shall use several leased CPUs.
  int slots = 1;
};

// From the JSON object on descriptor `fd` (launchers/worker_spawner.h).
Result<WorkerOptions> read_worker_options(int fd);
// A library that is a program (a driver that registers its own functions) is run again as a worker: true when it has to.
bool is_program(const std::string& path);
// Runs until the daemon tells it to leave or is gone. The exit status.
int run_worker(const WorkerOptions& options, bool load_library);
// In a program that serves as its own library: set by sheaf-worker; init() then runs the worker and never returns.
inline constexpr const char* kWorkerVariable = "SHEAF_CPP_WORKER";

}  // namespace sheaf::internal
