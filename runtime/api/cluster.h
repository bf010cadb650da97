// Joining and leaving a cluster, and what is known about it.
//
//   sheaf::init({.num_cpus = 4, .library = "libmy_tasks.so"});
//
// Without an address, init() starts a cluster on this machine that ends with this process: the program `sheafd`, found as
// $SHEAF_SHEAFD or relative to libsheaf.so (../bin). C++ tasks run in `sheaf-worker` processes, which load `library`:
// the shared library that holds the user's SHEAF_REMOTE and SHEAF_ACTOR registrations. The driver links it or loads it
// itself. When it is not named, $SHEAF_CPP_LIBRARY is taken, else the library that registered the driver's own functions.
// Thread-safe; call init() from the main thread, so that the daemon learns of this process's death without delay.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/status.h"

namespace sheaf {

struct Options {
  // "" = $SHEAF_ADDRESS, else a cluster of our own; "local"; "auto": the newest one of this user on this machine; or a
  // session directory or its socket.
  std::string address;
  std::optional<double> num_cpus;                  // of a cluster of our own, as are those up to `config`
  std::optional<double> num_gpus;
  std::map<std::string, double> resources;
  std::map<std::string, std::string> labels;
  std::optional<uint64_t> object_store_memory;     // bytes
  std::map<std::string, std::string> config;       // docs/configuration.md
  std::string name_space;                          // where named actors live; "" = one of our own
  std::string library;                             // shared library with the C++ functions and actors
  std::string runtime_env;                         // JSON, for Python workers
  std::string python;                              // interpreter of Python workers; "" = python3 of the PATH
  bool log_to_driver = true;                       // show what workers print
};

// Throws ArgumentError when connected already or for a wrong option, DisconnectedError when nobody serves at `address`.
void init(const Options& options = {});
// Leaves the cluster; ends it, and waits for that, when init() started it. References that are left are dead.
void shutdown();
bool is_initialized();

// Units by name ("CPU", "GPU", "memory" in bytes, custom ones).
std::map<std::string, double> cluster_resources();
std::map<std::string, double> available_resources();
// What `sheaf list <what> --json` prints: nodes, actors, tasks, objects, workers, jobs, placement_groups.
std::string state_json(const std::string& what);

// Directory of the session: sockets, logs, spilled objects.
std::string session_dir();

namespace internal {

Status join_cluster(const Options& options);
void leave_cluster();

}  // namespace internal
}  // namespace sheaf
