// The agent's dealings with other nodes: leases of theirs that its clients have, and what it asks
// of them.
#include <algorithm>
#include <bit>
#include <utility>

#include "scheduler/agent.h"

namespace sheaf::scheduler {

using protocol::ErrorKind;
using protocol::ErrorRecord;
using protocol::Strategy;
using protocol::StrategyKind;

namespace {
// Longer than any grant for one of them is under way.
constexpr size_t kDeadClientsKept = 4096;
// In one report.
constexpr size_t kKindsWanted = 4;
constexpr size_t kNodesNamed = 32;
// In waits for a better place.
constexpr int64_t kPatienceForGpus = 10;
}  // namespace

// Processes outside the cluster's numbering belong to this node.
bool Agent::is_remote(ProcessId process) const {
  const uint16_t node = node_of(process);
  return config_.number != 0 && node != 0 && node != config_.number;
}

void Agent::on(const ClusterView& message) {
  cluster_.apply(message);
  dirty_ = true;
}

void Agent::on(const ControllerBack&) {
  asked_.clear();
  group_nodes_.clear();
  for (const auto& [key, flow] : flows_) {
    if (flow.backlog > 0) ask_about_group(flow.spec.strategy);
  }
  for (const auto& [id, actor] : actors_) {
    if (actor.worker == kNoProcess) ask_about_group(actor.spec->placement.strategy);
  }
  reported_total_.clear();
  dirty_ = true;
}

void Agent::on(const RemoteGrant& event) {
  // The other node hears of the client's death too, and ends the lease.
  if (dead_clients_.contains(event.client)) return;
  // Its request may be gone already: the client has the lease all the same, and returns it.
  FlowInfo& flow = flows_[{event.client, event.class_id}];
  remote_leases_[event.lease] = {event.client, event.class_id, event.number, event.worker,
                                 flow.spec.resources};
  cluster_.took(event.number, flow.spec.resources);
  ++flow.held_at[event.number];
  if (auto asked = flow.asked.find(event.number); asked != flow.asked.end()) {
    if (--asked->second == 0) flow.asked.erase(asked);
  }
  if (flow.backlog > 0) --flow.backlog;
  flow.last_grant = next_grant_++;
  flow.waiting_since = flow.last_recall = now_;
  flow.elsewhere_until = std::max(flow.elsewhere_until, now_ + config_.locality_wait);
  spread_turn_ = event.number;
  dirty_ = true;
}

void Agent::on(const RemoteRefused& event) {
  const FlowKey key{event.client, event.class_id};
  auto it = flows_.find(key);
  if (it == flows_.end() || it->second.asked.erase(event.number) == 0) return;
  // A node that cannot start workers is not the request's fault, unless it insists on that node.
  const StrategyKind kind = it->second.spec.strategy.kind;
  const bool bound = kind == StrategyKind::kPlacementGroup ||
                     (kind == StrategyKind::kNodeAffinity && !it->second.spec.strategy.soft);
  if (event.error.kind != ErrorKind::kSystem || bound) return refuse(key, event.error);
  it->second.avoid[event.number] = now_ + config_.avoid_time;
  dirty_ = true;
}

void Agent::on(const NodeGone& message) {
  if (message.number == config_.number) return;
  // Of a head that was started again the later life may be known already: what is its own stays.
  const RemoteNode* known = cluster_.find(message.number);
  const bool succeeded = known != nullptr && known->view.incarnation != message.incarnation;
  cluster_.remove(message.number, message.incarnation);
  absent_nodes_.insert(to_hex(message.node));
  std::vector<uint64_t> ended;
  for (const auto& [id, lease] : remote_leases_) {
    const bool theirs = lease.number == message.number &&
                        (!succeeded || incarnation_of(lease.worker) == message.incarnation);
    if (theirs) ended.push_back(id);
  }
  for (uint64_t id : ended) end_remote_lease(id);
  std::set<ProcessId> clients;
  for (auto& [key, flow] : flows_) {
    if (!succeeded) flow.asked.erase(message.number);
    flow.avoid.erase(message.number);
    const bool theirs = node_of(key.first) == message.number &&
                        incarnation_of(key.first) == message.incarnation;
    if (theirs && is_remote(key.first)) clients.insert(key.first);
  }
  for (ProcessId client : clients) drop_client(client);
  for (auto& [group, nodes] : group_nodes_) {
    if (succeeded) break;
    std::replace(nodes.begin(), nodes.end(), message.number, uint16_t{0});
  }
  dirty_ = true;
}

void Agent::on(const GroupPlaced& message) {
  asked_.erase(message.group);
  if (config_.number == 0) return;
  group_nodes_[message.group] = message.nodes;
  dirty_ = true;
}

void Agent::on(const DrainNode& message) {
  if (message.drain) return on(DrainRequested{});
  draining_ = false;
  dirty_ = true;
}

void Agent::end_remote_lease(uint64_t id) {
  auto lease = remote_leases_.extract(id);
  if (!lease) return;
  const RemoteLease& ended = lease.mapped();
  cluster_.came_back(ended.number, ended.resources);
  const FlowKey key{ended.client, ended.class_id};
  auto flow = flows_.find(key);
  if (flow == flows_.end()) return;
  auto held = flow->second.held_at.find(ended.number);
  if (held != flow->second.held_at.end() && --held->second == 0) flow->second.held_at.erase(held);
  forget_flow_if_done(key);
  dirty_ = true;
}

// As a worker of another node it takes its lease with it; as a client of this one its leases
// elsewhere are ended by those nodes, which hear of its death too.
void Agent::drop_remote_state(ProcessId process) {
  if (config_.number != 0 && !is_remote(process) && dead_clients_.insert(process).second) {
    dead_in_order_.push_back(process);
    if (dead_in_order_.size() > kDeadClientsKept) {
      dead_clients_.erase(dead_in_order_.front());
      dead_in_order_.pop_front();
    }
  }
  std::vector<uint64_t> ended;
  for (const auto& [id, lease] : remote_leases_) {
    if (lease.worker == process || lease.client == process) ended.push_back(id);
  }
  for (uint64_t id : ended) end_remote_lease(id);
}

void Agent::withdraw_asks(const FlowKey& key, FlowInfo& flow) {
  for (const auto& [number, count] : std::exchange(flow.asked, {})) {
    out_.push_back(AskNode{number, {key.first, flow.job, key.second, flow.spec, 0, {}}});
  }
}

// ---- Spilling over ------------------------------------------------------------------------------

// Those whose place matters are planned before this node grants anything, the others get from
// elsewhere what it could not grant.
bool Agent::place_matters(const FlowInfo& flow) const {
  const Strategy& strategy = flow.spec.strategy;
  return strategy.kind == StrategyKind::kSpread || strategy.kind == StrategyKind::kNodeAffinity ||
         strategy.kind == StrategyKind::kPlacementGroup || !strategy.soft_labels.empty() ||
         !flow.bytes_at.empty() || spares_gpus(flow);
}

// It needs no GPU, and this node has some, which others may need.
bool Agent::spares_gpus(const FlowInfo& flow) const {
  return amount_of(pool_.total(), kGpu) > 0 && amount_of(flow.spec.resources, kGpu) == 0;
}

void Agent::look_whether_to_plan() {
  plan_waits_ = now_ < next_plan_;
  if (plan_waits_) return;
  const bool many = cluster_.with_known_load().size() > config_.nodes_planned_at_once;
  next_plan_ = many ? now_ + config_.plan_pace : now_;
}

void Agent::spill_over(bool before_grants, const std::map<FlowKey, uint32_t>& promised,
                       std::map<uint16_t, ResourceMap>& free) {
  if (config_.number == 0 || !cluster_.known()) return;
  ResourceMap here = draining_ ? ResourceMap{} : pool_.available();
  std::vector<FlowKey> unknown_node;
  for (auto it = flows_.begin(); it != flows_.end();) {
    const FlowKey key = it->first;
    FlowInfo& flow = (it++)->second;
    if (flow.backlog == 0 && flow.asked.empty()) continue;
    if (flow.backlog == 0) {   // also of those that were planned before the grants
      withdraw_asks(key, flow);
      forget_flow_if_done(key);
      continue;
    }
    if (plan_waits_ || is_remote(key.first) || place_matters(flow) != before_grants) continue;
    auto waits = promised.find(key);
    const uint32_t wanted = flow.backlog - (waits == promised.end() ? 0 : waits->second);
    if (!plan_flow(key, flow, wanted, here, free)) unknown_node.push_back(key);
    forget_flow_if_done(key);
  }
  for (const FlowKey& key : unknown_node) {
    const std::string& node = flows_.at(key).spec.strategy.node;
    refuse(key, {ErrorKind::kUnschedulable, "node " + node + " is not part of this cluster", "",
                 {}});
  }
}

// False when it has to be refused: the node that it insists on is not there.
bool Agent::plan_flow(const FlowKey& key, FlowInfo& flow, uint32_t wanted, ResourceMap& here,
                      std::map<uint16_t, ResourceMap>& free) {
  const Strategy& strategy = flow.spec.strategy;
  SpillPlan plan;
  std::erase_if(flow.avoid, [&](const auto& entry) { return entry.second <= now_; });
  const bool at_home = strategy.kind == StrategyKind::kNodeAffinity &&
                       strategy.node == to_hex(config_.node) &&
                       (!strategy.soft || feasible(flow.spec.resources, strategy));
  const bool awaited = awaits_its_node(key.first, flow);
  if (wanted > 0 && !at_home && !awaited) {
    SpillRequest request = spill_request(flow, wanted, here);
    plan = plan_spill(request, cluster_, free);
    const bool unknown = strategy.kind == StrategyKind::kNodeAffinity &&
                         !cluster_.find(strategy.node);
    if (unknown) absent_nodes_.insert(strategy.node);   // it is awaited once
  }
  if (plan.no_such_node) return false;
  if (plan.elsewhere_first > 0 && flow.elsewhere_until == Time{0}) {
    // Another node may have to start a worker first: this one's GPUs are worth that long.
    const int64_t patience = spares_gpus(flow) ? kPatienceForGpus : 1;
    flow.elsewhere_until = now_ + config_.locality_wait * patience;
  }
  flow.elsewhere_first = plan.elsewhere_first;
  for (const auto& [number, count] : flow.asked) {
    if (plan.asks.contains(number)) continue;
    out_.push_back(AskNode{number, {key.first, flow.job, key.second, flow.spec, 0, {}}});
  }
  for (const auto& [number, count] : plan.asks) {
    auto before = flow.asked.find(number);
    if (before != flow.asked.end() && before->second == count) continue;
    out_.push_back(
        AskNode{number, {key.first, flow.job, key.second, flow.spec, count, flow.bytes_at}});
  }
  flow.asked = std::move(plan.asks);
  return true;
}

// `here`: what this node has free, less what is counted on by this request afterwards.
SpillRequest Agent::spill_request(const FlowInfo& flow, uint32_t wanted, ResourceMap& here) {
  SpillRequest request;
  request.resources = flow.spec.resources;
  request.strategy = flow.spec.strategy;
  request.backlog = wanted;
  request.local_feasible = !draining_ && feasible(flow.spec.resources, flow.spec.strategy);
  if (request.local_feasible && flow.spec.strategy.kind != StrategyKind::kPlacementGroup) {
    request.local_room = times_it_fits(flow.spec.resources, here, wanted);
    for (const auto& [name, amount] : flow.spec.resources) {
      here[name] -= amount * request.local_room;
    }
  }
  request.local_suits = labels_match(flow.spec.strategy.soft_labels, config_.labels);
  request.spare_local_gpus = spares_gpus(flow);
  request.held = flow.held_at;
  if (flow.held > 0) request.held[config_.number] = flow.held;
  request.bytes_at = flow.bytes_at;
  for (const auto& [number, until] : flow.avoid) request.avoid.insert(number);
  request.turn_after = spread_turn_;
  auto group = group_nodes_.find(flow.spec.strategy.group);
  if (group != group_nodes_.end()) request.group = &group->second;
  return request;
}

// The controller knows of a new node before the next view tells this one.
bool Agent::awaits_its_node(ProcessId client, const FlowInfo& flow) const {
  const Strategy& strategy = flow.spec.strategy;
  return strategy.kind == StrategyKind::kNodeAffinity && config_.number != 0 &&
         !is_remote(client) && strategy.node != to_hex(config_.node) &&
         now_ < flow.waiting_since + config_.unknown_node_grace &&
         !absent_nodes_.contains(strategy.node) && !cluster_.find(strategy.node);
}

// Of the backlog, what this node leaves to others though it might have room.
uint32_t Agent::left_to_others(ProcessId client, const FlowInfo& flow) const {
  if (awaits_its_node(client, flow)) return flow.backlog;
  if (flow.elsewhere_first == 0) return 0;
  // Bound to one other node: no wait makes this one do.
  const bool bound = flow.spec.strategy.kind == StrategyKind::kNodeAffinity;
  return bound || now_ < flow.elsewhere_until ? flow.elsewhere_first : 0;
}

bool Agent::feasible_elsewhere(const ResourceMap& request, const Strategy& strategy) const {
  return std::any_of(cluster_.nodes().begin(), cluster_.nodes().end(), [&](const auto& entry) {
    const NodeView& view = entry.second.view;
    return fits(request, view.total) && labels_match(strategy.hard_labels, view.labels);
  });
}

// ---- Whose load is of use ----------------------------------------------------------------------

bool Agent::knows_all_loads() const { return cluster_.nodes().size() < kNodesInFullViews; }

// What this node's clients lack, by kind. Those bound to certain nodes need to know of no others.
std::vector<WantedRoom> Agent::wanted_room() const {
  std::vector<WantedRoom> out;
  if (knows_all_loads()) return out;
  for (const auto& [key, flow] : flows_) {
    const Strategy& strategy = flow.spec.strategy;
    const bool bound = strategy.kind == StrategyKind::kPlacementGroup ||
                       (strategy.kind == StrategyKind::kNodeAffinity && !strategy.soft);
    if (flow.backlog == 0 || bound || is_remote(key.first)) continue;
    WantedRoom wanted{flow.spec.resources, strategy.hard_labels, 0,
                      strategy.kind == StrategyKind::kSpread};
    auto same = std::find_if(out.begin(), out.end(), [&](const WantedRoom& other) {
      return other.resources == wanted.resources && other.hard_labels == wanted.hard_labels &&
             other.apart == wanted.apart;
    });
    if (same == out.end() && out.size() == kKindsWanted) continue;
    if (same == out.end()) same = out.insert(out.end(), std::move(wanted));
    same->count += flow.backlog;
  }
  for (WantedRoom& wanted : out) wanted.count = std::bit_ceil(wanted.count);
  return out;
}

// Somebody who looked for room may look no more: the next pass says whether anybody does.
void Agent::stop_looking() {
  if (!wanted_.empty() || !named_.empty()) dirty_ = true;
}

// Where arguments are, and what soft labels ask for.
std::vector<uint16_t> Agent::named_nodes() const {
  std::set<uint16_t> named;
  if (knows_all_loads()) return {};
  for (const auto& [key, flow] : flows_) {
    if (flow.backlog == 0 || is_remote(key.first)) continue;
    for (const auto& [number, bytes] : flow.bytes_at) {
      if (bytes >= kBytesThatMatter && cluster_.find(number)) named.insert(number);
    }
    const Labels& labels = flow.spec.strategy.soft_labels;
    if (labels_match(labels, config_.labels)) continue;
    for (const auto& [number, node] : cluster_.nodes()) {
      if (named.size() >= kNodesNamed) break;
      if (labels_match(labels, node.view.labels)) named.insert(number);
    }
  }
  std::vector<uint16_t> out(named.begin(), named.end());
  out.resize(std::min(out.size(), kNodesNamed));
  return out;
}

// ---- For a controller that has restarted --------------------------------------------------------

std::vector<LiveActor> Agent::live_actors() const {
  std::vector<LiveActor> out;
  for (const auto& [id, actor] : actors_) {
    out.push_back({id, actor.incarnation, actor.worker, actor.job, actor.running, actor.spec,
                   actor.restarts});
  }
  return out;
}

std::vector<LiveGroup> Agent::live_groups() const {
  std::vector<LiveGroup> out;
  for (const auto& [id, group] : groups_) {
    if (group.releasing) continue;
    LiveGroup live{id, group.attempt, {}};
    for (const auto& [index, bundle] : group.bundles) live.bundles.push_back(index);
    out.push_back(std::move(live));
  }
  return out;
}

}  // namespace sheaf::scheduler
