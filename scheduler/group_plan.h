// Which node each bundle of a placement group goes to. Pure; immutable inputs.
//
// PACK: as few nodes as possible. SPREAD: as many. STRICT_PACK: one. STRICT_SPREAD: all different.
// Nodes with free resources are preferred; when only what is in use would do, the plan counts on
// it, as the agents wait. Device fragmentation is the agents' to judge.
#pragma once

#include <optional>
#include <vector>

#include "scheduler/resources.h"

namespace sheaf::scheduler {

struct PlanNode {
  NodeId node;
  ResourceMap available, total;
  Labels labels;
};

// `placed`: by bundle, nil = to be placed; the others stay. Nothing when the nodes as they are
// can never hold the group.
std::optional<std::vector<NodeId>> plan_group(const protocol::GroupCreate& spec,
                                              const std::vector<NodeId>& placed,
                                              const std::vector<PlanNode>& nodes);

}  // namespace sheaf::scheduler
