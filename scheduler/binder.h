// Which CPUs a worker runs on: the tuple of cores, NUMA nodes and network cards that goes with a
// lease's CPUs and GPUs.
//
// choose() is pure, take() and give_back() keep the books. A lease with GPUs gets the NUMA nodes
// that its GPUs hang off, one with CPUs alone the least used NUMA node, either widened by the
// closest further ones until there are as many CPUs as it has. What would be all of the node's CPUs
// is no binding: on one NUMA node nothing is bound unless single cores are asked for. Part of the
// agent's state; owned by whoever owns the agent.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/resources.h"
#include "scheduler/topology.h"

namespace sheaf::scheduler {

// kAuto: leases with GPUs and those with a whole CPU or more, to NUMA nodes. kNuma: those with a
// fraction of a CPU too. kCore: as kAuto, and a whole number of CPUs gets as many hardware threads
// that no other such lease has, as long as there are enough.
enum class BindingMode : uint8_t { kAuto = 0, kNone = 1, kNuma = 2, kCore = 3 };
Result<BindingMode> parse_binding_mode(std::string_view text);
std::string_view to_string(BindingMode mode);

struct Binding {
  CpuList cpus;                                // empty: all that the node has
  std::vector<uint32_t> numa, nics;            // by index
  bool exclusive = false;                      // counted by CPU
  std::map<uint32_t, ResourceAmount> weight;   // what it adds to which NUMA node's use
};

class Binder {
 public:
  Binder() = default;   // binds nothing
  Binder(std::shared_ptr<const Topology> topology, BindingMode mode);

  // False: choose() never binds. why_not() then says why, for people; else it is empty.
  bool active() const { return active_; }
  std::string why_not() const;
  BindingMode mode() const { return mode_; }
  const Topology* topology() const { return topology_.get(); }

  // For a lease with so many CPUs and these GPUs, as things are now. Changes nothing.
  Binding choose(ResourceAmount cpus, const std::vector<uint32_t>& gpus) const;
  void take(const Binding& binding);
  void give_back(const Binding& binding);
  bool unused() const;

 private:
  struct Candidate;
  using Nodes = std::vector<uint32_t>;

  Nodes beside(const std::vector<uint32_t>& gpus) const;
  size_t room(uint32_t node, bool exclusive) const;
  size_t room(const Nodes& nodes, bool exclusive) const;
  bool widen(Nodes& nodes, size_t cpus, bool exclusive) const;
  Nodes choose_nodes(const Nodes& anchors, size_t cpus, ResourceAmount amount,
                     bool exclusive) const;
  CpuList cores_in(uint32_t node, size_t cpus) const;
  std::vector<uint32_t> nics_beside(const Nodes& nodes, const std::vector<uint32_t>& gpus) const;
  std::map<uint32_t, ResourceAmount> spread(const Nodes& nodes, ResourceAmount amount) const;

  std::shared_ptr<const Topology> topology_;
  BindingMode mode_ = BindingMode::kNone;
  bool active_ = false;
  std::map<uint32_t, ResourceAmount> used_;    // CPUs of bound leases, by NUMA node
  std::map<uint32_t, uint32_t> holders_;       // exclusive leases, by CPU; more than one when
                                               // workers that had lent their CPUs run again
};

}  // namespace sheaf::scheduler
