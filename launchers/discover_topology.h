// Finds this node's hardware with hwloc: NUMA nodes, cores, GPUs and network cards, and what is
// close to what.
//
// Only CPUs that this process may use (affinity mask, and with it the cpuset) are in the answer.
// hwloc is optional at build time; without it, and where it fails, all CPUs are one NUMA node and
// Topology::caution says so. Its plugins are not loaded: what they would add (OpenCL, X) is not
// wanted in a daemon. CUDA and NVML are not used: the driver's files under /proc say which GPU is
// which. Call before there are other threads: hwloc reads the environment.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/status.h"
#include "scheduler/binder.h"
#include "scheduler/topology.h"

namespace sheaf::launchers {

struct TopologySources {
  // "": this machine. Else a file in hwloc's XML format (lstopo --of xml), or "synthetic:" and
  // hwloc's short description ("synthetic:numa:2 core:4 pu:2").
  std::string description;
  scheduler::CpuList allowed;
  // PCI devices are looked at even where nothing is decided by them: on one NUMA node without GPUs.
  bool all_devices = false;
  std::string nvidia = "/proc/driver/nvidia/gpus";
  std::string dev = "/dev";
  std::string nodes_with_cpus = "/sys/devices/system/node/has_cpu";
};

// kInvalidArgument: the description cannot be read; kUnsupported: it needs hwloc. This machine
// always has an answer.
Result<scheduler::Topology> discover_topology(const TopologySources& sources);

// An NVIDIA GPU as the driver names it.
struct GpuAddress {
  std::string pci;    // "0000:3b:00.0"
  std::string uuid;   // "GPU-..."; empty or made of question marks where a container hides it
  std::string model;
};
// In the order in which CUDA_VISIBLE_DEVICES of this process shows them, else by PCI address: the
// order of the indices of the resource GPU. An entry that cannot be told has no address.
std::vector<GpuAddress> visible_gpu_addresses(const TopologySources& sources);
std::vector<GpuAddress> pick_visible(const std::vector<GpuAddress>& all, const char* visible);

// For people: one JSON object with the hardware and what is made of it. "{}" when nothing is known.
std::string topology_json(const scheduler::Binder& binder);

}  // namespace sheaf::launchers
