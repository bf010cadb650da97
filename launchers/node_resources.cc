#include "launchers/node_resources.h"

#include <dirent.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

#include "core/json.h"
#include "launchers/cpu_affinity.h"
#include "objstore/memory_limit.h"

namespace sheaf::launchers {

namespace {

using protocol::kResourceUnit;

constexpr double kUnlimited = 1e18;  // no quota
constexpr double kAmountMax = 1e12;

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// CPUs allowed by one cgroup directory; kUnlimited when it sets no quota.
double quota_in(const std::string& directory, bool v2) {
  double quota = -1, period = 0;
  if (v2) {
    std::istringstream line(first_line(directory + "/cpu.max"));
    std::string first;
    line >> first >> period;
    if (!first.empty() && first != "max") quota = atof(first.c_str());
  } else {
    std::string text = first_line(directory + "/cpu.cfs_quota_us");
    if (!text.empty()) quota = atof(text.c_str());
    period = atof(first_line(directory + "/cpu.cfs_period_us").c_str());
  }
  return quota > 0 && period > 0 ? quota / period : kUnlimited;
}

double quota_with_ancestors(const std::string& root, std::string path, bool v2) {
  double least = quota_in(root, v2);
  while (path.size() > 1) {
    least = std::min(least, quota_in(root + path, v2));
    path.resize(path.rfind('/'));
  }
  return least;
}

Result<std::map<std::string, JsonValue>> object_option(const std::string& text,
                                                       std::string_view option) {
  if (text.empty()) return std::map<std::string, JsonValue>();
  auto json = parse_json(text);
  if (!json)
    return Status(json.status().code(), fmt::format("{}: {}", option, json.status().message()));
  if (json->as_object() == nullptr) {
    return Status(StatusCode::kInvalidArgument, fmt::format("{} must be a JSON object", option));
  }
  return *json->as_object();
}

}  // namespace

std::string host_name() {
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  return name;
}

uint32_t available_cpus(const NodeSources& sources) {
  double cpus = static_cast<double>(allowed_cpus().size());
  std::ifstream file(sources.proc_cgroup);
  for (std::string line; std::getline(file, line);) {
    size_t a = line.find(':'), b = line.find(':', a + 1);
    if (a == std::string::npos || b == std::string::npos) continue;
    std::string controllers = line.substr(a + 1, b - a - 1), path = line.substr(b + 1);
    if (controllers.empty()) {
      cpus = std::min(cpus, quota_with_ancestors(sources.cgroup_root, path, true));
      cpus = std::min(cpus, quota_with_ancestors(sources.cgroup_root + "/unified", path, true));
    } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
      cpus = std::min(cpus,
                      quota_with_ancestors(sources.cgroup_root + "/" + controllers, path, false));
      cpus = std::min(cpus, quota_with_ancestors(sources.cgroup_root + "/cpu", path, false));
    }
  }
  return std::max(1u, static_cast<uint32_t>(std::ceil(cpus)));
}

uint32_t visible_gpus(const NodeSources& sources) {
  if (const char* visible = getenv("CUDA_VISIBLE_DEVICES")) {
    std::string list = visible;
    if (list.empty() || list == "-1" || list == "NoDevFiles") return 0;
    return static_cast<uint32_t>(std::count(list.begin(), list.end(), ',')) + 1;
  }
  uint32_t count = 0;
  DIR* dir = opendir(sources.dev.c_str());
  if (dir == nullptr) return 0;
  while (dirent* e = readdir(dir)) {
    std::string_view name = e->d_name;
    if (!name.starts_with("nvidia") || name.size() == 6) continue;
    if (name.find_first_not_of("0123456789", 6) == std::string_view::npos) ++count;
  }
  closedir(dir);
  return count;
}

Result<NodeOffer> node_offer(const Config& config, const NodeOverrides& overrides,
                             const NodeId& node, uint64_t arena_bytes) {
  NodeOffer offer;
  offer.hostname = host_name();
  int64_t cpus = config.get_int("node.cpus"), gpus = config.get_int("node.gpus");
  uint64_t memory = config.get_bytes("node.memory");
  if (memory == 0) {
    uint64_t limit = objstore::memory_limit_bytes();
    memory = limit > arena_bytes ? limit - arena_bytes : 0;
  }
  for (auto [option, amount] :
       {std::pair("--num-cpus", overrides.num_cpus), {"--num-gpus", overrides.num_gpus}}) {
    if (amount && (!(*amount >= 0) || *amount > kAmountMax)) {
      return Status(StatusCode::kInvalidArgument,
                    fmt::format("{} must be a number from 0", option));
    }
  }
  auto units = [](double amount) {
    return static_cast<protocol::ResourceAmount>(std::llround(amount * kResourceUnit));
  };
  offer.resources["CPU"] =
      units(overrides.num_cpus.value_or(static_cast<double>(cpus >= 0 ? cpus : available_cpus())));
  offer.resources["GPU"] =
      units(overrides.num_gpus.value_or(static_cast<double>(gpus >= 0 ? gpus : visible_gpus())));
  offer.resources["memory"] = static_cast<protocol::ResourceAmount>(memory) * kResourceUnit;
  offer.resources["object_store_memory"] =
      static_cast<protocol::ResourceAmount>(arena_bytes) * kResourceUnit;
  offer.resources[fmt::format("node:{}", host_name())] = kResourceUnit;
  SHEAF_ASSIGN(auto custom, object_option(overrides.resources, "--resources"));
  for (const auto& [name, value] : custom) {
    double amount = 0;
    if (name.empty() || !value.as_number(&amount) || amount < 0 || amount > kAmountMax) {
      return Status(StatusCode::kInvalidArgument,
                    fmt::format("--resources: '{}' must be a number from 0", name));
    }
    offer.resources[name] = std::llround(amount * kResourceUnit);
  }
  std::erase_if(offer.resources, [](const auto& entry) { return entry.second == 0; });

  offer.labels["sheaf.io/node-id"] = offer.labels["ray.io/node-id"] = to_hex(node);
  offer.labels["sheaf.io/host"] = host_name();
  std::istringstream pairs(config.get_string("node.labels"));
  for (std::string pair; std::getline(pairs, pair, ',');) {
    size_t equals = pair.find('=');
    if (equals == 0 || equals == std::string::npos) {
      return Status(StatusCode::kInvalidArgument,
                    fmt::format("node.labels: '{}' is not key=value", pair));
    }
    offer.labels[pair.substr(0, equals)] = pair.substr(equals + 1);
  }
  SHEAF_ASSIGN(auto labels, object_option(overrides.labels, "--labels"));
  for (const auto& [name, value] : labels) {
    if (value.as_string() == nullptr) {
      return Status(StatusCode::kInvalidArgument,
                    fmt::format("--labels: '{}' must be a string", name));
    }
    offer.labels[name] = *value.as_string();
  }
  return offer;
}

}  // namespace sheaf::launchers
