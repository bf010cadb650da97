// How much memory this process may use: the tightest of its cgroups' limits (v2 and v1, every
// ancestor) and what the machine has available. Read once at start; no state.
#pragma once

#include <cstdint>
#include <string>

namespace sheaf::objstore {

// Where to read; tests point it at a directory of their own.
struct MemoryLimitSources {
  std::string proc_cgroup = "/proc/self/cgroup";
  std::string cgroup_root = "/sys/fs/cgroup";
  std::string meminfo = "/proc/meminfo";
};

// Never 0: 1 GiB when nothing can be read.
uint64_t memory_limit_bytes(const MemoryLimitSources& sources = {});
// 30 % of the limit, at most 200 GB, at least 64 MB, whole 2 MB pages.
uint64_t default_arena_bytes(const MemoryLimitSources& sources = {});

}  // namespace sheaf::objstore
