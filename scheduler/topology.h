// A node's hardware as the scheduler sees it: NUMA nodes with their cores, GPUs, network cards, and
// how far apart they are.
//
// Plain data and pure choices; what is in it was found by launchers/discover_topology.h, or written
// by a test. A "NUMA node" is a set of CPUs with the memories that are theirs: two memories of the
// same CPUs are one node, memories without CPUs are none. CPUs that this process may not use are
// left out. Values; immutable once handed out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sheaf::scheduler {

// Logical CPUs by the operating system's numbers, ascending.
using CpuList = std::vector<uint32_t>;
// "0-3,8".
std::string to_text(const CpuList& cpus);

// Square, by index; smaller is closer. What lies outside counts as kFar.
using Distances = std::vector<std::vector<uint32_t>>;
inline constexpr uint32_t kFar = 1000;
uint32_t distance(const Distances& distances, size_t a, size_t b);

// Of two devices: the place that both are in.
inline constexpr uint32_t kSameSwitch = 1, kSameRoot = 2, kSameNuma = 3, kOtherNuma = 10;

struct NumaNode {
  std::vector<uint32_t> memories;       // the operating system's numbers
  uint64_t memory_bytes = 0;            // 0: not known
  std::vector<CpuList> cores;           // the hardware threads of each
  CpuList cpus;                         // of all cores
};

struct DevicePlace {
  std::string name;                     // "NVIDIA H100", "eth0"
  std::string kind;                     // of a network card: "network", "openfabrics"
  std::string pci;                      // "0000:3b:00.0"; empty: not on PCI, or not known
  std::vector<uint32_t> numa;           // the NUMA nodes it hangs off, by index; empty: not known
  std::vector<uint32_t> nics;           // of a GPU: the closest network cards
};

struct Topology {
  std::string source;                   // who says so
  std::string caution;                  // why it may be less than there is; empty: it is all
  std::vector<NumaNode> numa;
  std::vector<DevicePlace> gpus;        // by the index that the resource GPU has for them
  std::vector<DevicePlace> nics;
  Distances numa_distance, gpu_distance;

  size_t core_count() const;
  size_t cpu_count() const;
};

// One NUMA node in which every CPU is a core of its own: what is known when nothing is.
Topology flat_topology(const CpuList& cpus, std::string source);

// `count` of the devices `free` that are as close to one another as any: the least sum of
// distances; among equals those far from the free devices that are left, so that close ones stay
// together; then the lowest numbers. Exact up to 12 free devices and wherever kChoiceSteps suffice,
// else the best that was found in so many.
inline constexpr uint32_t kChoiceSteps = 20000;
std::vector<uint32_t> choose_close(const std::vector<uint32_t>& free, size_t count,
                                   const Distances& distances);

}  // namespace sheaf::scheduler
