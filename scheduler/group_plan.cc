#include "scheduler/group_plan.h"

#include <algorithm>

namespace sheaf::scheduler {

namespace {

using protocol::GroupCreate;
using protocol::GroupStrategy;

struct Room {
  NodeId node;
  ResourceMap free;
  const Labels* labels;
  uint32_t bundles = 0;   // of this group, kept ones included
};

bool accepts(const Room& room, const GroupCreate& spec, size_t bundle) {
  if (bundle < spec.bundle_labels.size() && !labels_match(spec.bundle_labels[bundle],
                                                          *room.labels)) {
    return false;
  }
  return fits(spec.bundles[bundle], room.free);
}

// All bundles still to be placed on `room`.
bool all_on(Room room, const GroupCreate& spec, std::vector<NodeId>& plan) {
  std::vector<NodeId> result = plan;
  for (size_t i = 0; i < plan.size(); ++i) {
    if (!plan[i].is_nil()) continue;
    if (!accepts(room, spec, i)) return false;
    subtract(room.free, spec.bundles[i]);
    result[i] = room.node;
  }
  plan = std::move(result);
  return true;
}

bool one_by_one(std::vector<Room> rooms, const GroupCreate& spec, std::vector<NodeId>& plan) {
  const bool spread = spec.strategy == GroupStrategy::kSpread ||
                      spec.strategy == GroupStrategy::kStrictSpread;
  for (size_t i = 0; i < plan.size(); ++i) {
    if (!plan[i].is_nil()) continue;
    Room* best = nullptr;
    for (Room& room : rooms) {
      if (!accepts(room, spec, i)) continue;
      if (spec.strategy == GroupStrategy::kStrictSpread && room.bundles > 0) continue;
      if (!best || (spread ? room.bundles < best->bundles : room.bundles > best->bundles)) {
        best = &room;
      }
    }
    if (!best) return false;
    subtract(best->free, spec.bundles[i]);
    ++best->bundles;
    plan[i] = best->node;
  }
  return true;
}

bool plan_with(std::vector<Room> rooms, const GroupCreate& spec, std::vector<NodeId>& plan) {
  const NodeId* kept = nullptr;
  for (const NodeId& node : plan) {
    if (node.is_nil()) continue;
    kept = &node;
    for (Room& room : rooms) room.bundles += room.node == node;
  }
  if (spec.strategy == GroupStrategy::kStrictPack || spec.strategy == GroupStrategy::kPack) {
    for (const Room& room : rooms) {
      if (kept && room.node != *kept) continue;
      if (all_on(room, spec, plan)) return true;
    }
    if (spec.strategy == GroupStrategy::kStrictPack) return false;
  }
  return one_by_one(std::move(rooms), spec, plan);
}

}  // namespace

std::optional<std::vector<NodeId>> plan_group(const GroupCreate& spec,
                                              const std::vector<NodeId>& placed,
                                              const std::vector<PlanNode>& nodes) {
  for (const bool by_total : {false, true}) {
    std::vector<Room> rooms;
    for (const PlanNode& node : nodes) {
      rooms.push_back({node.node, by_total ? node.total : node.available, &node.labels, 0});
    }
    std::vector<NodeId> plan = placed;
    if (plan_with(std::move(rooms), spec, plan)) return plan;
  }
  return std::nullopt;
}

}  // namespace sheaf::scheduler
