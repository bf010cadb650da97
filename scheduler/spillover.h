// Spill-over: how much of a flow's backlog is asked of which other node.
//
// ClusterMap is a node's picture of the others: the controller's views, less what has been granted
// from there since. plan_spill() is pure policy: local first, and what the node cannot grant now
// goes where there is room; arguments' bytes, soft labels and affinity come before that, SPREAD
// deals out one by one, hard constraints filter. Asks wait at the other node like its own
// requests, so a plan made from an old view costs time and nothing else: the next view moves them.
// Values, owned by the agent.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "scheduler/node_messages.h"
#include "scheduler/resources.h"

namespace sheaf::scheduler {

// More argument bytes elsewhere than this, and moving the task is worth more than staying.
inline constexpr uint64_t kBytesThatMatter = 64 * 1024;

struct RemoteNode {
  NodeView view;
  ResourceMap free;   // by the last view, and less what was granted to us or planned since
};

class ClusterMap {
 public:
  // `self`: this node's number, which is left out; 0: there are no others.
  explicit ClusterMap(uint16_t self = 0) : self_(self) {}

  void apply(const ClusterView& view);
  // True when it was that life.
  bool remove(uint16_t number, uint16_t incarnation);
  // Whether the first view has come: before that nothing is known to be missing.
  bool known() const { return known_; }
  uint16_t self() const { return self_; }
  const std::map<uint16_t, RemoteNode>& nodes() const { return nodes_; }
  // Those whose load is known: all of a small cluster.
  const std::set<uint16_t>& with_known_load() const { return with_known_load_; }
  const RemoteNode* find(uint16_t number) const;
  // Nothing when no live node has this id.
  const RemoteNode* find(const std::string& hex_node_id) const;
  // Optimistic until the next view of that node.
  void took(uint16_t number, const ResourceMap& resources);
  void came_back(uint16_t number, const ResourceMap& resources);

 private:
  uint16_t self_;
  bool known_ = false;
  void set_load(RemoteNode& node, const ResourceMap& available);
  std::map<uint16_t, RemoteNode> nodes_;
  std::map<NodeId, uint16_t> numbers_;
  std::set<uint16_t> with_known_load_;
};

struct SpillRequest {
  ResourceMap resources;
  protocol::Strategy strategy;
  uint32_t backlog = 0;                    // leases wanted beyond those held
  uint32_t local_room = 0;                 // as many could be granted here now
  bool local_feasible = true;              // here, when others have given theirs back
  bool local_suits = true;                 // by soft labels
  bool spare_local_gpus = false;           // it needs no GPU, and this node has some
  std::map<uint16_t, uint32_t> held;       // leases that the flow has, by node
  std::map<uint16_t, uint64_t> bytes_at;   // protocol::LeaseRequest
  std::set<uint16_t> avoid;                // could not make a worker lately
  uint16_t turn_after = 0;                 // SPREAD: the node that had the last turn
  const std::vector<uint16_t>* group = nullptr;   // nodes by bundle; null: not known
};
struct SpillPlan {
  std::map<uint16_t, uint32_t> asks;
  // So much of the backlog this node should leave to `asks`, for a while, though it has room.
  uint32_t elsewhere_first = 0;
  // The node that it insists on is not there.
  bool no_such_node = false;
};
// `free` has what earlier plans of the same pass left, and gets less by this plan.
SpillPlan plan_spill(const SpillRequest& request, const ClusterMap& cluster,
                     std::map<uint16_t, ResourceMap>& free);

// How often `request` fits, at most `most`.
uint32_t times_it_fits(const ResourceMap& request, const ResourceMap& available, uint32_t most);

}  // namespace sheaf::scheduler
