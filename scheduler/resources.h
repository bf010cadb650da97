// Resource arithmetic: amounts in fixed point, device indices, label selectors.
//
// A ResourceMap never holds zero or negative requests after validate(); a pool's `available` may
// go negative while blocked workers that lent their CPUs run again. Units of kDeviceResources have
// indices: a request of a whole number gets that many untouched devices, as close to one another as
// the pool knows (topology.h), a fraction below one shares a device with other fractions. Values;
// owned by the state machine that holds them; no thread affinity.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/status.h"
#include "scheduler/node_messages.h"
#include "scheduler/protocol.h"

namespace sheaf::scheduler {

struct Topology;

using protocol::Labels;
using protocol::ResourceAmount;
using protocol::ResourceMap;
using protocol::kResourceUnit;

inline constexpr std::string_view kCpu = "CPU";
inline constexpr std::string_view kGpu = "GPU";

// Resources whose units are distinct devices with an index.
bool is_device_resource(std::string_view name);

// kInvalidArgument: a negative or absurd amount, an empty name, a device amount above one that is
// not whole. Drops zero entries.
Status validate_resources(ResourceMap& request);
bool fits(const ResourceMap& request, const ResourceMap& available);
// What `available` lacks for `request`; empty when it fits.
ResourceMap shortage(const ResourceMap& request, const ResourceMap& available);
void add(ResourceMap& to, const ResourceMap& what);
void subtract(ResourceMap& from, const ResourceMap& what);   // may go negative
ResourceAmount amount_of(const ResourceMap& map, std::string_view name);
bool is_empty(const ResourceMap& map);                        // nothing, or zeros only
// "{CPU: 1, GPU: 0.5}"
std::string to_text(const ResourceMap& map);

// What was taken from a pool, and what goes back to it: `shares` says how much of which device.
struct Allocation {
  ResourceMap resources;
  std::map<std::string, std::map<uint32_t, ResourceAmount>> shares;
  Devices devices() const;
};

// A node's resources, or those of a placement group's bundle.
class ResourcePool {
 public:
  ResourcePool() = default;
  // Every unit of a device resource in `total` gets an index from 0.
  explicit ResourcePool(ResourceMap total);
  // A pool made of an allocation: a bundle. It knows no distances yet.
  explicit ResourcePool(const Allocation& from);

  const ResourceMap& total() const { return total_; }
  const ResourceMap& available() const { return available_; }
  // Could ever hold `request` when empty.
  bool feasible(const ResourceMap& request) const;
  bool can_take(const ResourceMap& request) const;
  std::optional<Allocation> take(const ResourceMap& request);
  void give_back(const Allocation& allocation);
  // Plain resources only (no devices): lending, and taking back what was lent even when that
  // overdraws.
  void lend(std::string_view name, ResourceAmount amount);
  void take_back(std::string_view name, ResourceAmount amount);
  // Capacity that appears or goes while the node runs. Devices can only be added.
  void change_total(const ResourceMap& total);
  bool unused() const;   // everything has come back
  // How far apart the GPUs are, by index. Nothing: their numbers tell.
  void set_distances(std::shared_ptr<const Topology> topology) { topology_ = std::move(topology); }

 private:
  std::vector<uint32_t> closest(const std::vector<uint32_t>& free, size_t count) const;
  std::optional<std::map<uint32_t, ResourceAmount>> pick(const std::string& name,
                                                         ResourceAmount amount) const;

  ResourceMap total_, available_;
  std::map<std::string, std::map<uint32_t, ResourceAmount>> shares_;         // free share by device
  std::map<std::string, std::map<uint32_t, ResourceAmount>> total_shares_;
  std::shared_ptr<const Topology> topology_;
};

// Ray's label selector: every key's expression holds. "v": equal; "!v": not equal or absent;
// "in(a,b)"; "!in(a,b)".
bool labels_match(const Labels& selector, const Labels& labels);

}  // namespace sheaf::scheduler
