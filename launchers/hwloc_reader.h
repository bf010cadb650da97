// A topology as hwloc sees it, in the scheduler's terms. Built only where hwloc was found.
//
// Blocks for as long as hwloc reads /sys: 1 ms and 0.1 ms for each CPU. Stateless; see
// discover_topology.h.
#pragma once

#include <string>
#include <vector>

#include "launchers/discover_topology.h"

namespace sheaf::launchers {

// `gpus`: which PCI devices are the node's GPUs, in order; empty: those that hwloc shows, by PCI
// address. NUMA nodes without a CPU of `allowed` are left out. Without `pci` network cards are
// found, GPUs not; it takes 0.1 ms for each device, 2 ms where a hypervisor plays it.
Result<scheduler::Topology> read_hwloc(const std::string& description,
                                       const scheduler::CpuList& allowed,
                                       const std::vector<GpuAddress>& gpus, bool pci);

}  // namespace sheaf::launchers
