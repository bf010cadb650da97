// Machines as the scheduler knows them, for tests.
#pragma once

#include <memory>

#include "scheduler/topology.h"

namespace sheaf::scheduler::testing {

// `nodes` NUMA nodes on a ring of distances, each with cores of `threads` CPUs and with GPUs in
// pairs behind a switch that has a network card.
inline std::shared_ptr<const Topology> machine(uint32_t nodes, uint32_t cores, uint32_t threads = 1,
                                               uint32_t gpus = 0) {
  auto out = std::make_shared<Topology>();
  uint32_t cpu = 0;
  for (uint32_t n = 0; n < nodes; ++n) {
    NumaNode& node = out->numa.emplace_back();
    node.memories = {n};
    for (uint32_t c = 0; c < cores; ++c) {
      CpuList& core = node.cores.emplace_back();
      for (uint32_t t = 0; t < threads; ++t) {
        core.push_back(cpu);
        node.cpus.push_back(cpu++);
      }
    }
    for (uint32_t g = 0; g < gpus; ++g) {
      if (g % 2 == 0) out->nics.push_back({"eth", "network", "", {n}, {}});
      const auto nic = static_cast<uint32_t>(out->nics.size() - 1);
      out->gpus.push_back({"gpu", "", "", {n}, {nic}});
    }
  }
  out->numa_distance.assign(nodes, std::vector<uint32_t>(nodes));
  for (uint32_t a = 0; a < nodes; ++a) {
    for (uint32_t b = 0; b < nodes; ++b) {
      const uint32_t apart = a > b ? a - b : b - a;
      out->numa_distance[a][b] = 10 + 5 * std::min(apart, nodes - apart);
    }
  }
  const uint32_t all = nodes * gpus;
  out->gpu_distance.assign(all, std::vector<uint32_t>(all));
  for (uint32_t a = 0; a < all; ++a) {
    for (uint32_t b = 0; b < all; ++b) {
      if (a == b) continue;
      const uint32_t at_a = a / gpus, at_b = b / gpus;
      out->gpu_distance[a][b] = at_a != at_b ? kOtherNuma + out->numa_distance[at_a][at_b]
                                : a / 2 == b / 2 ? kSameSwitch
                                                 : kSameRoot;
    }
  }
  return out;
}

}  // namespace sheaf::scheduler::testing
