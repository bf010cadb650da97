// Where the calling code runs: job, node, process, task, actor.
#pragma once

#include <map>
#include <string>

#include "core/ids.h"

namespace sheaf {

// Ids are hexadecimal, "" where there is none: drivers run no task, tasks belong to no actor.
struct RuntimeContext {
  JobId job = 0;
  std::string node_id;
  ProcessId process = 0;                      // within the cluster, not the pid
  std::string task_id;
  std::string task_name;                      // of a method: its own
  int attempt = 0;                            // of the task; 0 = the first
  std::string actor_id;
  bool was_restarted = false;                 // the actor has had another process before
  std::string name_space;
  std::map<std::string, double> resources;    // what the task's lease, or the actor, was given
};

// Throws DisconnectedError in a process that cannot join a cluster; a driver that has not called init() does so by this.
RuntimeContext runtime_context();

}  // namespace sheaf
