#include "objstore/memory_limit.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>

#include "objstore/pages.h"

namespace sheaf::objstore {
namespace {

constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();

// "max", unreadable and absurd values are no limit.
uint64_t read_limit(const std::string& path) {
  std::ifstream in(path);
  uint64_t value = 0;
  return in >> value && value > 0 ? value : kNoLimit;
}

// The tightest limit of `group` and all its ancestors below `mount`.
uint64_t tightest(const std::string& mount, std::string group, const std::string& file) {
  uint64_t limit = read_limit(mount + "/" + file);
  while (!group.empty() && group != "/") {
    limit = std::min(limit, read_limit(mount + group + "/" + file));
    size_t slash = group.rfind('/');
    group.resize(slash == std::string::npos ? 0 : slash);
  }
  return limit;
}

// One line of /proc/self/cgroup: "number:controllers:path".
uint64_t limit_of_line(const std::string& line, const std::string& root) {
  size_t first = line.find(':');
  size_t second = line.find(':', first == std::string::npos ? first : first + 1);
  if (second == std::string::npos) return kNoLimit;
  std::string controllers = line.substr(first + 1, second - first - 1);
  std::string group = line.substr(second + 1);
  if (controllers.empty()) {
    return std::min(tightest(root, group, "memory.max"),
                    tightest(root + "/unified", group, "memory.max"));
  }
  std::stringstream names(controllers);
  for (std::string name; std::getline(names, name, ',');) {
    if (name == "memory") return tightest(root + "/memory", group, "memory.limit_in_bytes");
  }
  return kNoLimit;
}

uint64_t available_bytes(const std::string& path) {
  std::ifstream in(path);
  std::string key, unit;
  for (uint64_t kib = 0; in >> key >> kib; std::getline(in, unit)) {
    if (key == "MemAvailable:") return kib * 1024;
  }
  return kNoLimit;
}

}  // namespace

uint64_t memory_limit_bytes(const MemoryLimitSources& sources) {
  uint64_t limit = available_bytes(sources.meminfo);
  std::ifstream in(sources.proc_cgroup);
  for (std::string line; std::getline(in, line);) {
    limit = std::min(limit, limit_of_line(line, sources.cgroup_root));
  }
  return limit == kNoLimit ? 1ull << 30 : limit;
}

uint64_t default_arena_bytes(const MemoryLimitSources& sources) {
  uint64_t bytes = memory_limit_bytes(sources) / 10 * 3;
  bytes = std::clamp<uint64_t>(bytes, 64ull << 20, 200'000'000'000ull);
  return bytes / kHugePage * kHugePage;
}

}  // namespace sheaf::objstore
