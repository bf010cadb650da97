// What the nodes are told of each other.
//
// Facts (who there is, with what) go to everybody. Loads go to everybody in a small cluster only;
// in a large one that would grow with the square of the nodes. There a node that looks for room is
// told of nodes that have it: as many as it needs, no node's load to more than a few at once, and
// each in its turn, so that what is sent grows with the nodes and those who look do not all ask the
// same ones. What a node was told of is kept true until it has no room any more, or is not looked
// for.
#include <algorithm>

#include "scheduler/controller.h"
#include "scheduler/spillover.h"

namespace sheaf::scheduler {

namespace {

// Who is told of one node's room at a time.
constexpr uint32_t kListeners = 4;
// In one round, for each node that there is.
constexpr size_t kLooksPerNode = 16;
// Outside of the rounds.
constexpr size_t kLooksAtOnce = 64;

// How many of the leases that `seeker` wants fit there now.
uint64_t places_for(const NodeInfo& seeker, const NodeInfo& node) {
  if (node.draining) return 0;
  uint64_t places = 0;
  for (const WantedRoom& wanted : seeker.wanted) {
    if (!labels_match(wanted.hard_labels, node.labels)) continue;
    const uint32_t fit = times_it_fits(wanted.resources, node.reported, wanted.count);
    places = std::max<uint64_t>(places, wanted.apart ? std::min(fit, 1u) : fit);
  }
  return places;
}

uint64_t wanted_by(const NodeInfo& seeker) {
  uint64_t sum = 0;
  for (const WantedRoom& wanted : seeker.wanted) sum += wanted.count;
  return sum;
}

}  // namespace

struct Controller::Seeker {
  NodeInfo* node;
  ClusterView view;
  uint64_t known;   // leases for which it knows of room
};

NodeView Controller::view_of(const NodeInfo& node) const {
  return {node.node, node.number, node.incarnation, node.address, node.hostname, node.total,
          dealing_ ? ResourceMap{} : node.available, node.labels, node.draining};
}

void Controller::send_first_view(const NodeId& node) {
  ClusterView view;
  for (const auto& [id, info] : nodes_) view.nodes.push_back(view_of(info));
  send(node, std::move(view));
}

void Controller::changed(const NodeInfo& node, bool load_only) {
  if (nodes_.size() < 2) return;
  (load_only ? new_loads_ : new_facts_).insert(node.number);
  if (std::exchange(view_planned_, true)) return;
  set_timer(std::max(now_, last_view_ + paced(config_.view_interval, nodes_.size())),
            Timer::Kind::kView, 0, 0);
}

void Controller::send_views() {
  view_planned_ = false;
  last_view_ = now_;
  std::set<uint16_t> loads = std::exchange(new_loads_, {});
  choose_who_hears(loads);
  ClusterView view;
  for (uint16_t number : new_facts_) {
    if (const NodeInfo* node = member(number)) view.nodes.push_back(view_of(*node));
  }
  if (!dealing_) {
    for (uint16_t number : loads) {
      const NodeInfo* node = member(number);
      if (node && !new_facts_.contains(number)) view.loads.push_back({number, node->reported});
    }
  } else {
    // A fact says nothing of the load, to those either who knew it.
    loads.insert(new_facts_.begin(), new_facts_.end());
  }
  new_facts_.clear();
  if (!view.nodes.empty() || !view.loads.empty()) send_to_all(view);
  if (dealing_) deal_room(loads);
}

// When the cluster has become a large one, or a small one again.
void Controller::choose_who_hears(std::set<uint16_t>& loads) {
  const bool large = nodes_.size() > kNodesInFullViews;
  if (large == dealing_) return;
  dealing_ = large;
  listeners_.clear();
  ClusterView nothing;
  for (auto& [id, node] : nodes_) {
    node.told.clear();
    nothing.loads.push_back({node.number, {}});
    if (!large) loads.insert(node.number);
  }
  if (large) send_to_all(nothing);
}

// The changes of what it was told of; what no longer helps it is taken from it. How much room it
// knows of then.
uint64_t Controller::update_told(NodeInfo& seeker, const std::set<uint16_t>& loads,
                                 ClusterView& view) {
  uint64_t room = 0;
  for (auto it = seeker.told.begin(); it != seeker.told.end();) {
    const uint16_t number = *it;
    const NodeInfo* node = member(number);
    const uint64_t places = node ? places_for(seeker, *node) : 0;
    const bool named = std::count(seeker.named.begin(), seeker.named.end(), number) > 0;
    if (places == 0 && (!named || !node)) {
      if (node) view.loads.push_back({number, {}});
      if (auto count = listeners_.find(number); count != listeners_.end() && count->second > 0) {
        --count->second;
      }
      it = seeker.told.erase(it);
      continue;
    }
    if (loads.contains(number)) view.loads.push_back({number, node->reported});
    room += places;
    ++it;
  }
  for (uint16_t number : seeker.named) {
    const NodeInfo* node = member(number);
    if (!node || number == seeker.number || !seeker.told.insert(number).second) continue;
    ++listeners_[number];
    view.loads.push_back({number, node->reported});
    room += places_for(seeker, *node);
  }
  return room;
}

void Controller::deal_room(const std::set<uint16_t>& loads) {
  std::vector<Seeker> seekers;
  ResourceAmount least = INT64_MAX;   // CPUs that anybody looks for
  for (const auto& [number, id] : numbers_) {
    NodeInfo& node = nodes_.at(id);
    if (node.wanted.empty() && node.named.empty() && node.told.empty()) continue;
    Seeker& seeker = seekers.emplace_back(Seeker{&node, {}, 0});
    seeker.known = update_told(node, loads, seeker.view);
    for (const WantedRoom& wanted : node.wanted) {
      least = std::min(least, amount_of(wanted.resources, kCpu));
    }
  }
  std::vector<const NodeInfo*> room;
  for (const auto& [number, id] : numbers_) {
    const NodeInfo& node = nodes_.at(id);
    auto listeners = listeners_.find(number);
    const bool all_know = listeners != listeners_.end() && listeners->second >= kListeners;
    if (!node.draining && !all_know && amount_of(node.reported, kCpu) >= least) {
      room.push_back(&node);
    }
  }
  const auto begin_with = [](auto& entries, uint16_t number, auto number_in) {
    auto first = std::find_if(entries.begin(), entries.end(), [&](const auto& entry) {
      return number_in(entry) >= number;
    });
    std::rotate(entries.begin(), first, entries.end());
  };
  begin_with(seekers, next_seeker_, [](const Seeker& seeker) { return seeker.node->number; });
  begin_with(room, next_room_, [](const NodeInfo* node) { return node->number; });
  size_t at = 0, looks = kLooksPerNode * nodes_.size();
  for (Seeker& seeker : seekers) {
    const uint64_t wanted = wanted_by(*seeker.node);
    for (size_t n = room.size(); n > 0 && seeker.known < wanted && looks > 0; --n, --looks) {
      if (!tell_of_room(seeker, *room[at++ % room.size()])) continue;
      next_seeker_ = static_cast<uint16_t>(seeker.node->number + 1);
    }
    if (!seeker.view.loads.empty()) send(seeker.node->node, std::move(seeker.view));
  }
  if (looks > 0 || view_planned_) return;
  view_planned_ = true;   // not everybody had a turn
  set_timer(now_ + paced(config_.view_interval, nodes_.size()), Timer::Kind::kView, 0, 0);
}

// To one that begins to look: the first of what it needs. The rest comes with the next round.
void Controller::deal_at_once(NodeInfo& node) {
  Seeker seeker{&node, {}, 0};
  seeker.known = update_told(node, {}, seeker.view);
  const uint64_t wanted = wanted_by(node);
  auto it = numbers_.lower_bound(next_room_);
  for (size_t n = std::min(kLooksAtOnce, numbers_.size()); n > 0 && seeker.known < wanted; --n) {
    if (it == numbers_.end()) it = numbers_.begin();
    tell_of_room(seeker, nodes_.at((it++)->second));
  }
  if (!seeker.view.loads.empty()) send(node.node, std::move(seeker.view));
}

bool Controller::tell_of_room(Seeker& seeker, const NodeInfo& node) {
  NodeInfo& self = *seeker.node;
  if (node.number == self.number || self.told.contains(node.number)) return false;
  uint32_t& listeners = listeners_[node.number];
  const uint64_t places = listeners < kListeners ? places_for(self, node) : 0;
  if (places == 0) return false;
  ++listeners;
  self.told.insert(node.number);
  seeker.view.loads.push_back({node.number, node.reported});
  seeker.known += places;
  next_room_ = static_cast<uint16_t>(node.number + 1);
  return true;
}

void Controller::forget_told(NodeInfo& node) {
  for (uint16_t number : std::exchange(node.told, {})) {
    if (auto count = listeners_.find(number); count != listeners_.end() && count->second > 0) {
      --count->second;
    }
  }
  listeners_.erase(node.number);
}

}  // namespace sheaf::scheduler
