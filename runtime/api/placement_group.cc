#include "runtime/api/placement_group.h"

#include <algorithm>
#include <cmath>
#include <thread>

#include "runtime/api/engine.h"
#include "runtime/api/error.h"

namespace sheaf {

using internal::check;
using internal::connected;
using protocol::GroupState;

PlacementGroup placement_group(const std::vector<Bundle>& bundles, PlacementStrategy strategy,
                               const std::string& name) {
  if (bundles.empty()) internal::throw_argument("a placement group needs at least one bundle");
  auto* c = check(connected());
  protocol::GroupCreate request;
  request.group = c->runtime->new_group_id();
  request.strategy = strategy;
  request.name = name;
  request.name_space = c->name_space;
  for (const Bundle& bundle : bundles) {
    protocol::ResourceMap map;
    for (const auto& [resource, amount] : bundle) {
      auto units = std::llround(amount * protocol::kResourceUnit);
      if (units <= 0) internal::throw_argument("the amount of " + resource + " in a bundle must be positive");
      map[resource] = units;
    }
    if (map.empty()) internal::throw_argument("a bundle of a placement group is empty");
    request.bundles.push_back(std::move(map));
  }
  request.bundle_labels.resize(bundles.size());
  check(c->runtime->request(protocol::MessageType::kGroupCreate, wire::encode(request)));
  return PlacementGroup(request.group);
}

bool PlacementGroup::wait(std::optional<std::chrono::nanoseconds> timeout) const {
  auto* c = check(connected());
  auto deadline = internal::deadline_after(timeout);
  auto pause = std::chrono::microseconds(20);
  for (;;) {
    switch (c->runtime->group_state(id_)) {
      case GroupState::kCreated: return true;
      case GroupState::kRemoved:
        internal::throw_record({ErrorKind::kPlacementGroupRemoved, "the placement group was removed", {}, {}});
      default: break;
    }
    auto now = runtime::Clock::now();
    if (now >= deadline) return false;
    std::this_thread::sleep_for(std::min<runtime::Clock::duration>(pause, deadline - now));
    pause = std::min(pause * 2, std::chrono::microseconds(5000));
  }
}

void PlacementGroup::remove() const {
  protocol::GroupRemove request{id_};
  runtime::Runtime& rt = *check(connected())->runtime;
  check(rt.request(protocol::MessageType::kGroupRemove, wire::encode(request)));
  rt.group_removed(id_);
}

}  // namespace sheaf
