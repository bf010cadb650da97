#include "launchers/memory_monitor.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

namespace sheaf::launchers {

namespace {

constexpr uint64_t kNoLimit = uint64_t{1}
                              << 60;  // cgroup v1 writes its "unlimited" as a number near 2^63

uint64_t number_in(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  file >> text;
  return text.empty() || text == "max" ? 0 : strtoull(text.c_str(), nullptr, 10);
}

// The number after `key` at the start of a line.
uint64_t keyed_number(const std::string& path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key)) return strtoull(line.c_str() + key.size(), nullptr, 10);
  }
  return 0;
}

}  // namespace

MemoryMonitor::MemoryMonitor(const std::string& proc_cgroup, const std::string& cgroup_root,
                             std::string meminfo)
    : meminfo_(std::move(meminfo)) {
  std::ifstream file(proc_cgroup);
  for (std::string line; std::getline(file, line);) {
    size_t a = line.find(':'), b = line.find(':', a + 1);
    if (a == std::string::npos || b == std::string::npos) continue;
    std::string controllers = line.substr(a + 1, b - a - 1), path = line.substr(b + 1);
    bool v2 = controllers.empty();
    if (!v2 && controllers != "memory") continue;
    std::string root = v2 ? cgroup_root : cgroup_root + "/memory";
    add_group(root, v2);
    for (; path.size() > 1; path.resize(path.rfind('/'))) add_group(root + path, v2);
  }
}

void MemoryMonitor::add_group(const std::string& directory, bool v2) {
  uint64_t limit = number_in(directory + (v2 ? "/memory.max" : "/memory.limit_in_bytes"));
  if (limit == 0 || limit >= kNoLimit) return;
  groups_.push_back({directory + (v2 ? "/memory.current" : "/memory.usage_in_bytes"),
                     directory + "/memory.stat", v2 ? "inactive_file " : "total_inactive_file ",
                     limit});
}

MemoryUsage MemoryMonitor::read() const {
  uint64_t total = keyed_number(meminfo_, "MemTotal:") * 1024;
  uint64_t available = keyed_number(meminfo_, "MemAvailable:") * 1024;
  MemoryUsage worst{total - std::min(total, available), total};
  for (const Group& g : groups_) {
    uint64_t used = number_in(g.usage_file), cache = keyed_number(g.stat_file, g.cache_key);
    MemoryUsage usage{used - std::min(used, cache), g.limit};
    if (usage.fraction() > worst.fraction()) worst = usage;
  }
  return worst;
}

uint64_t private_memory_of(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/statm", pid));
  uint64_t size = 0, resident = 0, shared = 0;
  file >> size >> resident >> shared;
  return (resident - std::min(resident, shared)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace sheaf::launchers
