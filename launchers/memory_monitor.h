// How full the memory is that this node's processes may use: the worst of the machine and of every
// cgroup above us. Page cache that can be dropped does not count. Reads a few small files; owned by
// the loop.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace sheaf::launchers {

struct MemoryUsage {
  uint64_t used = 0, limit = 0;
  double fraction() const {
    return limit == 0 ? 0 : static_cast<double>(used) / static_cast<double>(limit);
  }
};

class MemoryMonitor {
 public:
  // Finds the cgroups once.
  explicit MemoryMonitor(const std::string& proc_cgroup = "/proc/self/cgroup",
                         const std::string& cgroup_root = "/sys/fs/cgroup",
                         std::string meminfo = "/proc/meminfo");
  MemoryUsage read() const;

 private:
  struct Group {
    std::string usage_file, stat_file, cache_key;
    uint64_t limit;
  };
  void add_group(const std::string& directory, bool v2);

  std::string meminfo_;
  std::vector<Group> groups_;
};

// Bytes resident in memory, without shared object memory; 0 when there is no such process.
uint64_t private_memory_of(pid_t pid);

}  // namespace sheaf::launchers
