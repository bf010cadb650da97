// Every configuration key of Sheaf. docs/configuration.md is printed from this table.
#include <limits>

#include "core/config.h"

namespace sheaf {
namespace {

using enum ConfigType;
constexpr double kMost = 9.2e18;  // what fits into 64 bits
constexpr double kMs = 1e6, kSecond = 1e9;

constexpr ConfigKey kSchema[] = {
    {"node.cpus", kInt, "-1", -1, 1 << 20,
     "CPUs that this node offers; -1 counts those of the cpuset and cgroup."},
    {"node.gpus", kInt, "-1", -1, 1 << 16,
     "GPUs that this node offers; -1 counts the visible ones."},
    {"node.memory", kBytes, "0", 0, kMost,
     "Memory that tasks may reserve; 0 takes what the cgroup or the machine has less the object "
     "store."},
    {"memory.kill_above", kDouble, "0.95", 0, 1,
     "Above this share of the memory in use a worker is killed before the kernel kills any "
     "process: the newest task, then the newest actor. 1 turns this off."},
    {"memory.check_every", kDuration, "250ms", kMs, 3600 * kSecond,
     "How often the memory in use is looked at."},
    {"node.topology", kString, "", 0, 0,
     "What stands for this machine's hardware: a file that `lstopo --of xml` wrote, or "
     "`synthetic:` and hwloc's short form; empty looks at the machine."},
    {"node.labels", kString, "", 0, 0, "Labels of the node for scheduling: `key=value,key=value`."},
    {"cluster.lease", kDuration, "3s", 300 * kMs, 600 * kSecond,
     "A node that the head has not heard of for so long is dead; it stops itself a little earlier. "
     "The head's setting counts for all nodes."},
    {"cluster.head_timeout", kDuration, "60s", 0, 24 * 3600 * kSecond,
     "How long a node goes on without a head whose daemon has died, until it is started again; "
     "then the node ends. `0`: at once."},
    {"cluster.request_timeout", kDuration, "30s", 0, 24 * 3600 * kSecond,
     "How long a process waits, while there is no head, for what only the head can do (key-value, "
     "names, groups, a new job); then it gets an error."},
    {"cluster.join_timeout", kDuration, "20s", 0, 24 * 3600 * kSecond,
     "How long a node tries to reach a head that is not there yet."},
    {"session.root", kString, "", 0, 0,
     "Folder that holds session directories; empty takes $XDG_RUNTIME_DIR, else /tmp."},
    {"store.memory", kBytes, "0", 0, kMost,
     "Size of the shared-memory arena; 0 takes 30 % of the memory that the cgroup or the machine "
     "has."},
    {"store.huge_pages", kBool, "true", 0, 0, "Try to back the arena by 2 MB pages."},
    {"store.spill_dir", kString, "", 0, 0,
     "Folder for spilled objects, on a node-local disk; empty takes the session directory."},
    {"store.spill_max", kBytes, "0", 0, kMost,
     "Most bytes spilled to disk; 0 stops only when the disk is nearly full."},
    {"store.full_wait", kDuration, "10s", 0, 3600 * kSecond,
     "How long a put waits for space before it raises ObjectStoreFullError."},
    {"workers.max", kInt, "1024", 1, 4000, "Most worker processes on this node, actors included."},
    {"workers.warm", kInt, "0", 0, 4000,
     "Idle workers kept ready; 0 keeps as many as there are CPUs."},
    {"workers.idle_timeout", kDuration, "1s", 0, 86400 * kSecond,
     "An idle worker above the warm ones leaves after this."},
    {"workers.start_timeout", kDuration, "60s", kMs, 3600 * kSecond,
     "A worker that has not registered by then is killed."},
    {"workers.exit_grace", kDuration, "10s", 0, 3600 * kSecond,
     "A worker told to leave is killed after this."},
    {"workers.preload", kString, "", 0, 0,
     "Python modules imported once, before workers are forked: `numpy,torch`."},
    {"scheduler.starve_after", kDuration, "10ms", 0, 3600 * kSecond,
     "Tasks that wait longer make others give leases back; actors and placement groups do so at "
     "once."},
    {"scheduler.binding", kString, "auto", 0, 0,
     "Which CPUs workers run on. auto: where there are several NUMA nodes, one for each lease with "
     "a CPU or more, the GPU's for one with a GPU, never fewer than 4 CPUs; numa: fewer, and for "
     "fractions of a CPU too; core: CPUs of its own for a lease with a whole number of them; none: "
     "all."},
    {"scheduler.warn_interval", kDuration, "30s", kSecond, 86400 * kSecond,
     "How often a request that cannot be met is reported to its driver."},
    {"tasks.events_kept", kInt, "10000", 0, 1e8,
     "Finished tasks remembered for `sheaf list tasks` and the timeline."},
    {"log.level", kString, "info", 0, 0,
     "Least severe line that is logged: trace, debug, info, warning, error, off."},
    {"log.max_bytes", kBytes, "64MiB", 4096, kMost, "A log file of this size is rotated."},
    {"log.keep", kInt, "3", 0, 1000, "Rotated log files kept."},
    {"log.lines_per_second", kInt, "1000", 1, 1e9,
     "Lines of one worker's output passed on to the driver in a second; the rest stay in its log "
     "file."},
    {"trace.events", kInt, "16384", 0, 1 << 24,
     "Events kept in a daemon's trace ring; 0 turns tracing off."},
};

constexpr OtherVariable kOther[] = {
    {"SHEAF_ADDRESS", "The cluster that `sheaf.init()` and the command line join."},
    {"SHEAF_AS_RAY", "Set in workers of a driver that runs `as_ray`."},
    {"SHEAF_CLOUD_INSTANCE_ID", "A name of the machine, shown by `list nodes`."},
    {"SHEAF_COLOR", "Colours of log prefixes: 0 turns them off."},
    {"SHEAF_CONFIG", "The configuration file, when none is named on the command line."},
    {"SHEAF_CPP_LIBRARY", "Set for C++ workers: the user's shared library."},
    {"SHEAF_CPP_SLOTS", "Set for C++ workers: tasks run at a time."},
    {"SHEAF_CPP_WORKER", "Set for C++ workers that are the driver's own program, run again."},
    {"SHEAF_DEDUP_LOGS", "0: worker lines that repeat are all passed on to the driver."},
    {"SHEAF_DEMO_CPP", "The demo's C++ driver, where it is not found by itself."},
    {"SHEAF_FAULT", "Fault points for tests, see `core/fault.h`."},
    {"SHEAF_JOB_RUNTIME_ENV",
     "The job's runtime environment, for drivers that are started by the command line."},
    {"SHEAF_SECRET_FILE", "The cluster's secret, for `sheaf start --address`."},
    {"SHEAF_SHEAFD", "The `sheafd` program to start instead of the installed one."},
    {"SHEAF_TESTING_FAULTS", "Faults that tests ask workers for."},
    {"SHEAF_TMPDIR", "Folder that holds session directories."},
    {"SHEAF_WORKER", "Set in worker processes."},
    {"SHEAF_WORKER_PROCESS", "Set in worker processes."},
    {"SHEAF_WORKING_DIR", "Set in workers: the runtime environment's working directory."},
};

}  // namespace

std::span<const OtherVariable> other_variables() { return kOther; }

std::span<const ConfigKey> config_schema() { return kSchema; }

}  // namespace sheaf
