// Where the controller puts actors: by hard constraints, their wishes, room and load.
#include <algorithm>
#include <tuple>

#include "scheduler/controller.h"

namespace sheaf::scheduler {

using protocol::ActorState;
using protocol::StrategyKind;

namespace {

// Up to this share of its node in use, in thousandths, an actor stays with its creator.
constexpr ResourceAmount kStayBelow = 500;
// At actors that wait elsewhere, for each time that a node has room.
constexpr size_t kLooksAtCrowded = 256;

}  // namespace

// Until its constructor has run; as the agent reckons it.
ResourceMap Controller::creation_request(const protocol::ActorSpec& spec) {
  ResourceMap request = spec.placement.resources;
  for (const auto& [name, amount] : spec.creation_resources) {
    request[name] = std::max(request[name], amount);
  }
  return request;
}

bool Controller::has_room(const NodeInfo& node, const ActorInfo& actor) const {
  return fits(creation_request(*actor.spec), node.available);
}

// Thousandths of the CPUs in use. Actors that hold no CPU count a little, as they do run.
ResourceAmount Controller::load_of(const NodeInfo& node) {
  const ResourceAmount cpus = std::max<ResourceAmount>(amount_of(node.total, kCpu), kResourceUnit);
  const ResourceAmount used = amount_of(node.total, kCpu) - amount_of(node.available, kCpu);
  return (used + node.actors * kResourceUnit / 4) * 1000 / cpus;
}

// Nil when no node suits now. Among those that do: the named one, soft labels, room; no GPUs when
// none are needed; then the creator's own node while it is half empty, else the emptiest. SPREAD
// takes the emptiest, whatever devices it has.
NodeId Controller::choose_node(ActorId id, const ActorInfo& actor) const {
  const protocol::Strategy& strategy = actor.spec->placement.strategy;
  if (strategy.kind == StrategyKind::kPlacementGroup) {
    auto group = groups_.find(strategy.group);
    if (group == groups_.end() || group->second.state != protocol::GroupState::kCreated) return {};
    return choose_in_group(actor, group->second);
  }
  const NodeId home = node_with(node_of(id.process()));
  const bool spread = strategy.kind == StrategyKind::kSpread;
  NodeId best;
  const bool cpu_work = amount_of(actor.spec->placement.resources, kGpu) == 0;
  std::tuple<int, bool, ResourceAmount> best_rank{-1, false, 0};
  for (const auto& [node_id, node] : nodes_) {
    if (!node_suits(node, actor)) continue;
    int wishes = has_room(node, actor) ? 1 : 0;
    if (labels_match(strategy.soft_labels, node.labels)) wishes += 2;
    const bool named = strategy.kind == StrategyKind::kNodeAffinity;
    if (named && strategy.node == to_hex(node_id)) wishes += 4;
    ResourceAmount load = load_of(node);
    if (spread) load = node.actors;
    else if (node_id == home && load <= kStayBelow) load = -1;
    const bool spares_gpus = !spread && cpu_work && amount_of(node.total, kGpu) == 0;
    const std::tuple rank(wishes, spares_gpus, -load);
    if (rank > best_rank) {
      best = node_id;
      best_rank = rank;
    }
  }
  return best;
}

// Any bundle will do unless it names one: a node where the group's actors leave room.
NodeId Controller::choose_in_group(const ActorInfo& actor, const GroupInfo& group) const {
  const protocol::SchedulingClass& placement = actor.spec->placement;
  const int32_t bundle = placement.strategy.bundle;
  if (bundle >= 0 && static_cast<size_t>(bundle) >= group.placed.size()) return {};
  if (bundle >= 0) return group.placed[static_cast<size_t>(bundle)];
  std::map<NodeId, ResourceMap> left;
  NodeId able;   // the bundle is large enough, whoever is in it now
  for (size_t i = group.placed.size(); i > 0; --i) {
    const NodeId& node = group.placed[i - 1];
    add(left[node], group.spec.bundles[i - 1]);
    if (fits(placement.resources, group.spec.bundles[i - 1])) able = node;
  }
  for (const ActorId& id : group.actors) {
    auto other = actors_.find(id);
    if (other == actors_.end() || other->second.node.is_nil()) continue;
    const protocol::ActorSpec& spec = *other->second.spec;
    const bool running = other->second.state == ActorState::kAlive;
    auto where = left.find(other->second.node);
    if (where == left.end() || &other->second == &actor) continue;
    subtract(where->second, running ? spec.placement.resources : creation_request(spec));
  }
  for (size_t i = 0; i < group.placed.size(); ++i) {
    const bool large = fits(placement.resources, group.spec.bundles[i]);
    if (large && fits(creation_request(*actor.spec), left[group.placed[i]])) return group.placed[i];
  }
  return able;
}

// ---- What was placed, until the node's next report tells of it ----------------------------------

void Controller::settle_on(ActorId id, ActorInfo& actor, const NodeId& node) {
  NodeInfo& info = nodes_.at(node);
  const bool in_group = actor.spec->placement.strategy.kind == StrategyKind::kPlacementGroup;
  if (!in_group && nodes_.size() > 1 && !has_room(info, actor)) crowded_.insert(id);
  actor.node = node;
  actor.counted = true;
  actor.asked_back = false;
  ++info.actors;
  info.placing.insert(id);
  if (!in_group) subtract(info.available, creation_request(*actor.spec));
}

void Controller::leave_node(ActorId id, ActorInfo& actor) {
  crowded_.erase(id);
  if (!std::exchange(actor.counted, false)) return;
  auto node = nodes_.find(actor.node);
  if (node == nodes_.end()) return;
  --node->second.actors;
  const bool in_group = actor.spec->placement.strategy.kind == StrategyKind::kPlacementGroup;
  if (node->second.placing.erase(id) > 0 && !in_group) {
    add(node->second.available, creation_request(*actor.spec));
  }
}

// Those that wait at other nodes while this one has room. An actor is never told to two nodes: it
// goes on when the first has given it back.
void Controller::relieve_crowded(const NodeInfo& node) {
  ResourceMap left = node.available;
  auto it = crowded_.upper_bound(last_relieved_);
  for (size_t looks = std::min(kLooksAtCrowded, crowded_.size()); looks > 0; --looks) {
    if (it == crowded_.end()) it = crowded_.begin();
    last_relieved_ = *it++;
    ActorInfo& actor = actors_.at(last_relieved_);
    const ResourceMap request = creation_request(*actor.spec);
    if (actor.asked_back || actor.node == node.node || !node_suits(node, actor)) continue;
    if (!fits(request, left)) continue;
    subtract(left, request);
    actor.asked_back = true;
    send(actor.node, TakeBackActor{last_relieved_, actor.incarnation});
  }
}

// It will start nobody any more. Those that are bound to it by their group stay.
void Controller::take_back_from(const NodeInfo& node) {
  for (const ActorId& id : node.placing) {
    ActorInfo& actor = actors_.at(id);
    if (actor.spec->placement.strategy.kind == StrategyKind::kPlacementGroup) continue;
    if (std::exchange(actor.asked_back, true)) continue;
    send(node.node, TakeBackActor{id, actor.incarnation});
  }
}

void Controller::on_report(const NodeId& node, const ActorTakenBack& report) {
  auto it = actors_.find(report.actor);
  if (it == actors_.end() || it->second.node != node) return;
  if (it->second.incarnation != report.incarnation || it->second.state == ActorState::kDead) return;
  if (it->second.process == kNoProcess) place(it->first, it->second);
}

}  // namespace sheaf::scheduler
