// What this node offers: CPUs, GPUs, memory and labels, as the kernel allows them to us and as the
// user overrides them.
//
// CPUs: the tightest of the affinity mask and the cgroups' quotas (v2 and v1, every ancestor),
// rounded up, at least 1. GPUs: CUDA_VISIBLE_DEVICES if set, else the device files of NVIDIA's
// driver. Read once at start; no state.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/config.h"
#include "scheduler/protocol.h"

namespace sheaf::launchers {

struct NodeSources {
  std::string proc_cgroup = "/proc/self/cgroup";
  std::string cgroup_root = "/sys/fs/cgroup";
  std::string dev = "/dev";
};
uint32_t available_cpus(const NodeSources& sources = {});
uint32_t visible_gpus(const NodeSources& sources = {});

struct NodeOverrides {
  std::optional<double> num_cpus, num_gpus;  // else the configuration's
  std::string resources;                     // JSON object: custom resources, numbers
  std::string labels;                        // JSON object of strings
};
struct NodeOffer {
  protocol::ResourceMap resources;
  protocol::Labels labels;
  std::string hostname;
};
std::string host_name();
// kInvalidArgument names the option. `arena_bytes` are not offered as memory.
Result<NodeOffer> node_offer(const Config& config, const NodeOverrides& overrides,
                             const NodeId& node, uint64_t arena_bytes);

}  // namespace sheaf::launchers
