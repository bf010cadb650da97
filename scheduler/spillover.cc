#include "scheduler/spillover.h"

#include <algorithm>
#include <utility>

namespace sheaf::scheduler {

void ClusterMap::apply(const ClusterView& view) {
  known_ = true;
  for (const NodeView& node : view.nodes) {
    if (node.number == self_) continue;
    RemoteNode& known = nodes_[node.number];
    known.view = node;
    numbers_[node.node] = node.number;
    set_load(known, node.available);
  }
  for (const NodeLoad& load : view.loads) {
    auto it = nodes_.find(load.number);
    if (it != nodes_.end()) set_load(it->second, load.available);
  }
}

void ClusterMap::set_load(RemoteNode& node, const ResourceMap& available) {
  node.view.available = node.free = available;
  if (available.empty()) with_known_load_.erase(node.view.number);
  else with_known_load_.insert(node.view.number);
}

bool ClusterMap::remove(uint16_t number, uint16_t incarnation) {
  auto it = nodes_.find(number);
  if (it == nodes_.end() || it->second.view.incarnation != incarnation) return false;
  numbers_.erase(it->second.view.node);
  with_known_load_.erase(number);
  nodes_.erase(it);
  return true;
}

const RemoteNode* ClusterMap::find(uint16_t number) const {
  auto it = nodes_.find(number);
  return it == nodes_.end() ? nullptr : &it->second;
}

const RemoteNode* ClusterMap::find(const std::string& hex_node_id) const {
  const auto id = id_from_hex(hex_node_id);
  if (!id) return nullptr;
  auto number = numbers_.find(NodeId{(*id)[0], (*id)[1]});
  return number == numbers_.end() ? nullptr : find(number->second);
}

void ClusterMap::took(uint16_t number, const ResourceMap& resources) {
  if (auto it = nodes_.find(number); it != nodes_.end()) subtract(it->second.free, resources);
}

void ClusterMap::came_back(uint16_t number, const ResourceMap& resources) {
  // Of a node whose load is not told, who takes it next is not told either.
  if (!with_known_load_.contains(number)) return;
  add(nodes_.at(number).free, resources);
}

uint32_t times_it_fits(const ResourceMap& request, const ResourceMap& available, uint32_t most) {
  ResourceAmount times = most;
  for (const auto& [name, amount] : request) {
    if (amount <= 0) continue;
    times = std::min(times, std::max<ResourceAmount>(0, amount_of(available, name)) / amount);
  }
  return static_cast<uint32_t>(times);
}

namespace {

using protocol::StrategyKind;

// A request that this node can never meet waits at so many others at once.
constexpr size_t kWaitingPlaces = 16;

class Planner {
 public:
  Planner(const SpillRequest& request, const ClusterMap& cluster,
          std::map<uint16_t, ResourceMap>& free)
      : request_(request), cluster_(cluster), free_(free), left_(request.backlog) {}

  SpillPlan run() {
    switch (request_.strategy.kind) {
      case StrategyKind::kNodeAffinity:
        if (!to_named_node()) by_default();
        break;
      case StrategyKind::kPlacementGroup: to_group(); break;
      case StrategyKind::kSpread:
        spread();
        wait_elsewhere();
        break;
      default: by_default();
    }
    return std::move(plan_);
  }

 private:
  bool suits(const RemoteNode& node) const {
    return !node.view.draining && !request_.avoid.contains(node.view.number) &&
           labels_match(request_.strategy.hard_labels, node.view.labels) &&
           fits(request_.resources, node.view.total);
  }
  uint32_t room(const RemoteNode& node, uint32_t most) const {
    auto it = free_.find(node.view.number);
    return times_it_fits(request_.resources, it == free_.end() ? node.free : it->second, most);
  }
  void ask(const RemoteNode& node, uint32_t count) {
    if (count == 0) return;
    plan_.asks[node.view.number] += count;
    ResourceMap& left = free_.try_emplace(node.view.number, node.free).first->second;
    for (const auto& [name, amount] : request_.resources) left[name] -= amount * count;
    left_ -= std::min(left_, count);
  }
  // All others, or those that may have room, from the one after this node on: not every node asks
  // the same ones first.
  template <class Nodes, class Visit>
  void in_turn(const Nodes& nodes, Visit visit) const {
    const auto start = nodes.upper_bound(cluster_.self());
    for (auto it = start; it != nodes.end(); ++it) {
      if (!visit(*it)) return;
    }
    for (auto it = nodes.begin(); it != start; ++it) {
      if (!visit(*it)) return;
    }
  }
  template <class Visit>
  void each_node(Visit visit) const {
    in_turn(cluster_.nodes(), [&](const auto& entry) { return visit(entry.second); });
  }
  template <class Visit>
  void each_with_known_load(Visit visit) const {
    in_turn(cluster_.with_known_load(),
            [&](uint16_t number) { return visit(cluster_.nodes().at(number)); });
  }

  // True when there is such a node and it can do it: it is waited for, even by a soft request.
  bool to_named_node() {
    const RemoteNode* node = cluster_.find(request_.strategy.node);
    const bool soft = request_.strategy.soft;
    if (!node) {
      plan_.no_such_node = !soft;
      return !soft;
    }
    if (soft && !suits(*node)) return false;
    plan_.elsewhere_first = left_;
    ask(*node, left_);
    return true;
  }

  // Nobody here knows how full the bundles are: each node that has one is asked for all, and what
  // one grants is asked of the others no more.
  void to_group() {
    if (!request_.group) return;
    const int32_t bundle = request_.strategy.bundle;
    std::set<uint16_t> numbers;
    for (size_t i = 0; i < request_.group->size(); ++i) {
      if (bundle < 0 || static_cast<size_t>(bundle) == i) numbers.insert((*request_.group)[i]);
    }
    for (uint16_t number : numbers) {
      if (cluster_.find(number) && left_ > 0) plan_.asks[number] = left_;
    }
  }

  // One by one to the place where the flow has least; among equals in turns.
  void spread() {
    struct Place {
      const RemoteNode* node;   // null: here
      uint16_t number;
      uint32_t room, has = 0, given = 0;
    };
    std::vector<Place> places;
    if (request_.local_room > 0) {
      places.push_back({nullptr, cluster_.self(), request_.local_room});
    }
    for (uint16_t number : cluster_.with_known_load()) {
      const RemoteNode& node = cluster_.nodes().at(number);
      const uint32_t there = suits(node) ? room(node, left_) : 0;
      if (there > 0) places.push_back({&node, number, there});
    }
    for (Place& place : places) {
      auto it = request_.held.find(place.number);
      if (it != request_.held.end()) place.has = it->second;
    }
    std::sort(places.begin(), places.end(), [&](const Place& a, const Place& b) {
      const auto turn = [&](const Place& p) {
        return static_cast<uint16_t>(p.number - request_.turn_after - 1);
      };
      return turn(a) < turn(b);
    });
    for (uint32_t given = 0; given < request_.backlog; ++given) {
      Place* best = nullptr;
      for (Place& place : places) {
        if (place.given == place.room) continue;
        if (!best || place.has + place.given < best->has + best->given) best = &place;
      }
      if (!best) break;
      ++best->given;
    }
    for (const Place& place : places) {
      if (place.node) {
        ask(*place.node, place.given);
        plan_.elsewhere_first += place.given;
      } else {
        left_ -= std::min(left_, place.given);
      }
    }
  }

  void by_default() {
    better_places();
    if (request_.local_feasible) left_ -= std::min(left_, request_.local_room);
    const bool cpu_work = amount_of(request_.resources, kGpu) == 0;
    for (const bool with_gpus : {false, true}) {
      if (left_ == 0) break;
      each_with_known_load([&](const RemoteNode& node) {
        const bool its_turn = with_gpus || !cpu_work || amount_of(node.view.total, kGpu) == 0;
        if (its_turn && suits(node)) ask(node, room(node, left_));
        return left_ > 0;
      });
    }
    wait_elsewhere();
  }

  // Where the arguments are, what the soft labels ask for, and, for work that needs no GPU, where
  // there are none; if there is room.
  void better_places() {
    const auto bytes = [&](uint16_t number) {
      auto it = request_.bytes_at.find(number);
      return it == request_.bytes_at.end() ? uint64_t{0} : it->second;
    };
    std::vector<std::pair<uint64_t, const RemoteNode*>> better;
    for (const auto& [number, count] : request_.bytes_at) {
      const RemoteNode* node = cluster_.find(number);
      if (!node || count < bytes(cluster_.self()) + kBytesThatMatter || !suits(*node)) continue;
      better.emplace_back(count, node);
    }
    std::stable_sort(better.begin(), better.end(),
                     [](const auto& a, const auto& b) { return a.first > b.first; });
    if (!request_.local_suits) {
      each_with_known_load([&](const RemoteNode& node) {
        if (suits(node) && labels_match(request_.strategy.soft_labels, node.view.labels)) {
          better.emplace_back(0, &node);
        }
        return true;
      });
    }
    if (request_.spare_local_gpus) {
      each_with_known_load([&](const RemoteNode& node) {
        const bool far = bytes(cluster_.self()) >= bytes(node.view.number) + kBytesThatMatter;
        const bool wished = labels_match(request_.strategy.soft_labels, node.view.labels);
        if (far || !wished || amount_of(node.view.total, kGpu) > 0) return true;
        if (suits(node)) better.emplace_back(0, &node);
        return true;
      });
    }
    for (const auto& [count, node] : better) {
      const uint32_t there = left_ > 0 ? room(*node, left_) : 0;
      ask(*node, there);
      plan_.elsewhere_first += there;
    }
  }

  void wait_elsewhere() {
    if (left_ == 0 || request_.local_feasible) return;
    std::vector<const RemoteNode*> able;
    each_node([&](const RemoteNode& node) {
      if (suits(node)) able.push_back(&node);
      return able.size() < kWaitingPlaces;
    });
    for (size_t i = 0; i < able.size() && left_ > 0; ++i) {
      const auto places = static_cast<uint32_t>(able.size() - i);
      ask(*able[i], (left_ + places - 1) / places);
    }
  }

  const SpillRequest& request_;
  const ClusterMap& cluster_;
  std::map<uint16_t, ResourceMap>& free_;
  uint32_t left_;
  SpillPlan plan_;
};

}  // namespace

SpillPlan plan_spill(const SpillRequest& request, const ClusterMap& cluster,
                     std::map<uint16_t, ResourceMap>& free) {
  return Planner(request, cluster, free).run();
}

}  // namespace sheaf::scheduler
