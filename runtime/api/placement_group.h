// Placement groups: resources that are reserved together, in bundles.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/ids.h"
#include "scheduler/protocol.h"

namespace sheaf {

using PlacementStrategy = protocol::GroupStrategy;

// A name for a group; copies mean the same one. It lives until remove() or the end of its job.
class PlacementGroup {
 public:
  explicit PlacementGroup(PlacementGroupId id = {}) : id_(id) {}
  PlacementGroupId id() const { return id_; }
  // Waits until all bundles are reserved; false at the timeout. Throws UnschedulableError when it was removed.
  bool wait(std::optional<std::chrono::nanoseconds> timeout = std::nullopt) const;
  // Gives the bundles back; what runs in them is killed.
  void remove() const;

 private:
  PlacementGroupId id_;
};

using Bundle = std::map<std::string, double>;
// Returns at once; the reservation may take a while.
PlacementGroup placement_group(const std::vector<Bundle>& bundles,
                               PlacementStrategy strategy = PlacementStrategy::kPack, const std::string& name = "");

}  // namespace sheaf
