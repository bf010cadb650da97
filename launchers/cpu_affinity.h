// The CPUs that processes may run on: ours, and those of workers, from outside.
//
// What is set here is what os.sched_getaffinity() shows in the worker; the kernel keeps it inside
// the cpuset. A worker's own memory needs nothing: the kernel's default policy is the memory of the
// CPU that touches it first. Stateless; any thread.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <vector>

#include "core/status.h"
#include "scheduler/topology.h"

namespace sheaf::launchers {

// Of this process, however many CPUs the machine has.
scheduler::CpuList allowed_cpus();

// Every thread of `pid`, those it starts meanwhile too: threads get their maker's CPUs, so looking
// again until a look finds none that is new ends. Threads that have ended are no error. kNotFound:
// the process is gone; kInvalidArgument: none of the CPUs may be used.
Status run_on(pid_t pid, const scheduler::CpuList& cpus);

// Pages of this shared mapping that have no memory yet get it from these NUMA memories in turn,
// whichever process touches them or allocates them for the file behind it: the policy is the
// file's. What many read is then no one's neighbour and no one's burden.
Status interleave(std::span<std::byte> shared, const std::vector<uint32_t>& memories);

}  // namespace sheaf::launchers
