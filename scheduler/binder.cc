#include "scheduler/binder.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <tuple>

namespace sheaf::scheduler {

namespace {

constexpr std::pair<std::string_view, BindingMode> kModes[] = {{"auto", BindingMode::kAuto},
                                                               {"none", BindingMode::kNone},
                                                               {"numa", BindingMode::kNuma},
                                                               {"core", BindingMode::kCore}};

// Fewer CPUs are a trap: whatever else runs on one of them (the driver that waits for results, the
// threads of a library) stops the task, and it may not go elsewhere.
constexpr size_t kCpusMin = 4;

template <class K, class V>
V value_of(const std::map<K, V>& map, K key) {
  auto it = map.find(key);
  return it == map.end() ? V{} : it->second;
}

void insert_once(std::vector<uint32_t>& into, uint32_t value) {
  if (std::count(into.begin(), into.end(), value) == 0) into.push_back(value);
}

}  // namespace

Result<BindingMode> parse_binding_mode(std::string_view text) {
  for (const auto& [name, mode] : kModes) {
    if (name == text) return mode;
  }
  return Status(StatusCode::kInvalidArgument,
                fmt::format("scheduler.binding: '{}' is not auto, none, numa or core", text));
}

std::string_view to_string(BindingMode mode) {
  for (const auto& [name, known] : kModes) {
    if (known == mode) return name;
  }
  return "unknown";
}

Binder::Binder(std::shared_ptr<const Topology> topology, BindingMode mode)
    : topology_(std::move(topology)), mode_(mode) {
  if (topology_ == nullptr || mode == BindingMode::kNone) return;
  size_t smallest = topology_->cpu_count();
  for (const NumaNode& node : topology_->numa) smallest = std::min(smallest, node.cpus.size());
  const size_t widest = topology_->cpu_count() - smallest;   // all nodes but one
  active_ = widest >= (mode == BindingMode::kAuto ? kCpusMin : 1) ||
            (mode == BindingMode::kCore && topology_->cpu_count() > 1);
}

std::string Binder::why_not() const {
  if (active_) return {};
  if (mode_ == BindingMode::kNone) return "scheduler.binding is none";
  if (topology_ == nullptr) return "the hardware is not known";
  if (topology_->cpu_count() <= 1) return "there is one CPU";
  if (topology_->numa.size() > 1) return "the NUMA nodes have few CPUs";
  return "there is one NUMA node: no CPU is closer than another";
}

// Those that the GPUs hang off, the first GPU's first.
Binder::Nodes Binder::beside(const std::vector<uint32_t>& gpus) const {
  Nodes nodes;
  for (uint32_t gpu : gpus) {
    if (gpu >= topology_->gpus.size()) continue;
    for (uint32_t node : topology_->gpus[gpu].numa) insert_once(nodes, node);
  }
  return nodes;
}

size_t Binder::room(uint32_t node, bool exclusive) const {
  const CpuList& cpus = topology_->numa[node].cpus;
  if (!exclusive) return cpus.size();
  return static_cast<size_t>(std::count_if(cpus.begin(), cpus.end(), [&](uint32_t cpu) {
    return value_of(holders_, cpu) == 0;
  }));
}

size_t Binder::room(const Nodes& nodes, bool exclusive) const {
  size_t sum = 0;
  for (uint32_t node : nodes) sum += room(node, exclusive);
  return sum;
}

// Adds the closest nodes that have room until there is enough; false when there is not.
bool Binder::widen(Nodes& nodes, size_t cpus, bool exclusive) const {
  while (room(nodes, exclusive) < cpus) {
    std::optional<std::tuple<uint64_t, size_t, uint32_t>> best;
    for (uint32_t node = 0; node < topology_->numa.size(); ++node) {
      if (std::count(nodes.begin(), nodes.end(), node) > 0) continue;
      const size_t more = room(node, exclusive);
      if (more == 0) continue;
      uint64_t away = 0;
      for (uint32_t other : nodes) away += distance(topology_->numa_distance, other, node);
      const std::tuple rank(away, topology_->cpu_count() - more, node);
      if (!best || rank < *best) best = rank;
    }
    if (!best) return false;
    nodes.push_back(std::get<2>(*best));
  }
  return true;
}

// Without anchors each node is tried as the first. Fewest nodes, then the closest together; then
// for whole nodes the least used, for single CPUs the fullest that still has room.
Binder::Nodes Binder::choose_nodes(const Nodes& anchors, size_t cpus, ResourceAmount amount,
                                   bool exclusive) const {
  if (!anchors.empty()) {
    Nodes nodes = anchors;
    return widen(nodes, cpus, exclusive) ? nodes : Nodes{};
  }
  Nodes best;
  std::tuple<size_t, uint64_t, double> best_rank;
  for (uint32_t first = 0; first < topology_->numa.size(); ++first) {
    Nodes nodes{first};
    if (room(first, exclusive) == 0 || !widen(nodes, cpus, exclusive)) continue;
    uint64_t away = 0;
    double use = static_cast<double>(amount);
    for (size_t i = 0; i < nodes.size(); ++i) {
      use += static_cast<double>(value_of(used_, nodes[i]));
      for (size_t j = 0; j < i; ++j) {
        away += distance(topology_->numa_distance, nodes[j], nodes[i]);
      }
    }
    const double last = exclusive ? static_cast<double>(room(nodes, true))
                                  : use / static_cast<double>(room(nodes, false));
    const std::tuple rank(nodes.size(), away, last);
    if (!best.empty() && !(rank < best_rank)) continue;
    best = nodes;
    best_rank = rank;
  }
  return best;
}

// Whole free cores while as many threads are wanted, then the remains of cores in use, so that
// whole ones stay whole.
CpuList Binder::cores_in(uint32_t node, size_t cpus) const {
  std::vector<CpuList> free;
  for (const CpuList& core : topology_->numa[node].cores) {
    CpuList left;
    for (uint32_t cpu : core) {
      if (value_of(holders_, cpu) == 0) left.push_back(cpu);
    }
    if (!left.empty()) free.push_back(std::move(left));
  }
  CpuList taken;
  while (taken.size() < cpus && !free.empty()) {
    const size_t want = cpus - taken.size();
    // The largest that is wanted whole; if all are larger, the smallest.
    auto pick = free.begin();
    for (auto it = free.begin(); it != free.end(); ++it) {
      const bool fits = it->size() <= want, pick_fits = pick->size() <= want;
      const bool better = fits ? it->size() > pick->size() : it->size() < pick->size();
      if (fits == pick_fits ? better : fits) pick = it;
    }
    const auto n = static_cast<ptrdiff_t>(std::min(want, pick->size()));
    taken.insert(taken.end(), pick->begin(), pick->begin() + n);
    free.erase(pick);
  }
  return taken;
}

std::vector<uint32_t> Binder::nics_beside(const Nodes& nodes,
                                          const std::vector<uint32_t>& gpus) const {
  std::vector<uint32_t> nics;
  for (uint32_t gpu : gpus) {
    if (gpu >= topology_->gpus.size()) continue;
    for (uint32_t nic : topology_->gpus[gpu].nics) insert_once(nics, nic);
  }
  if (!nics.empty()) return nics;
  for (uint32_t nic = 0; nic < topology_->nics.size(); ++nic) {
    const std::vector<uint32_t>& at = topology_->nics[nic].numa;
    const bool close = std::any_of(at.begin(), at.end(), [&](uint32_t node) {
      return std::count(nodes.begin(), nodes.end(), node) > 0;
    });
    if (close) nics.push_back(nic);
  }
  return nics;
}

// In proportion to their CPUs; the first takes what does not divide.
std::map<uint32_t, ResourceAmount> Binder::spread(const Nodes& nodes, ResourceAmount amount) const {
  std::map<uint32_t, ResourceAmount> weight;
  const auto total = static_cast<ResourceAmount>(room(nodes, false));
  ResourceAmount left = amount;
  for (uint32_t node : nodes) {
    weight[node] = amount / total * static_cast<ResourceAmount>(room(node, false));
    left -= weight[node];
  }
  weight[nodes.front()] += left;
  return weight;
}

Binding Binder::choose(ResourceAmount cpus, const std::vector<uint32_t>& gpus) const {
  if (!active_ || cpus < 0) return {};
  const Nodes anchors = beside(gpus);
  const bool wanted = cpus >= kResourceUnit || (mode_ == BindingMode::kNuma && cpus > 0);
  if (anchors.empty() && !wanted) return {};
  const auto need = static_cast<size_t>(
      std::max<ResourceAmount>(1, (cpus + kResourceUnit - 1) / kResourceUnit));
  const bool whole = cpus >= kResourceUnit && cpus % kResourceUnit == 0;
  Binding binding;
  binding.exclusive = mode_ == BindingMode::kCore && whole;
  Nodes nodes = choose_nodes(anchors, need, cpus, binding.exclusive);
  if (nodes.empty() && binding.exclusive) {   // others run again that had lent their cores
    binding.exclusive = false;
    nodes = choose_nodes(anchors, need, cpus, false);
  }
  if (nodes.empty()) return {};               // more CPUs than there are
  if (!binding.exclusive) {
    const bool narrow = mode_ != BindingMode::kNuma && room(nodes, false) < kCpusMin;
    if (narrow || nodes.size() == topology_->numa.size()) return {};
  }
  if (binding.exclusive) {
    for (uint32_t node : nodes) {
      const CpuList cores = cores_in(node, need - binding.cpus.size());
      if (cores.empty()) continue;
      binding.numa.push_back(node);
      binding.weight[node] = static_cast<ResourceAmount>(cores.size()) * kResourceUnit;
      binding.cpus.insert(binding.cpus.end(), cores.begin(), cores.end());
    }
  } else {
    binding.numa = nodes;
    binding.weight = spread(nodes, cpus);
    for (uint32_t node : nodes) {
      const CpuList& all = topology_->numa[node].cpus;
      binding.cpus.insert(binding.cpus.end(), all.begin(), all.end());
    }
  }
  binding.nics = nics_beside(binding.numa, gpus);
  std::sort(binding.numa.begin(), binding.numa.end());
  std::sort(binding.cpus.begin(), binding.cpus.end());
  return binding;
}

void Binder::take(const Binding& binding) {
  for (const auto& [node, amount] : binding.weight) used_[node] += amount;
  if (!binding.exclusive) return;
  for (uint32_t cpu : binding.cpus) ++holders_[cpu];
}

void Binder::give_back(const Binding& binding) {
  for (const auto& [node, amount] : binding.weight) {
    used_[node] -= amount;
    SHEAF_CHECK(used_[node] >= 0);
  }
  if (!binding.exclusive) return;
  for (uint32_t cpu : binding.cpus) {
    SHEAF_CHECK(holders_[cpu] > 0);
    --holders_[cpu];
  }
}

bool Binder::unused() const {
  return std::all_of(used_.begin(), used_.end(), [](const auto& e) { return e.second == 0; }) &&
         std::all_of(holders_.begin(), holders_.end(), [](const auto& e) { return e.second == 0; });
}

}  // namespace sheaf::scheduler
