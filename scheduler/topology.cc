#include "scheduler/topology.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

namespace sheaf::scheduler {

std::string to_text(const CpuList& cpus) {
  std::string out;
  for (size_t i = 0; i < cpus.size();) {
    size_t last = i;
    while (last + 1 < cpus.size() && cpus[last + 1] == cpus[last] + 1) ++last;
    if (!out.empty()) out += ',';
    out += last == i ? fmt::format("{}", cpus[i]) : fmt::format("{}-{}", cpus[i], cpus[last]);
    i = last + 1;
  }
  return out;
}

uint32_t distance(const Distances& distances, size_t a, size_t b) {
  if (a == b) return 0;
  return a < distances.size() && b < distances[a].size() ? distances[a][b] : kFar;
}

size_t Topology::core_count() const {
  return std::accumulate(numa.begin(), numa.end(), size_t{0},
                         [](size_t sum, const NumaNode& n) { return sum + n.cores.size(); });
}

size_t Topology::cpu_count() const {
  return std::accumulate(numa.begin(), numa.end(), size_t{0},
                         [](size_t sum, const NumaNode& n) { return sum + n.cpus.size(); });
}

Topology flat_topology(const CpuList& cpus, std::string source) {
  Topology flat;
  flat.source = std::move(source);
  NumaNode& node = flat.numa.emplace_back();
  node.memories = {0};
  node.cpus = cpus;
  for (uint32_t cpu : cpus) node.cores.push_back({cpu});
  flat.numa_distance = {{10}};
  return flat;
}

namespace {

// Depth first over the subsets, in ascending order of numbers; a branch whose distances already
// exceed the best is left.
class CloseSearch {
 public:
  CloseSearch(const std::vector<uint32_t>& free, size_t count, const Distances& distances)
      : free_(free), count_(count), distances_(distances) {
    for (uint32_t a : free_) {
      uint64_t sum = 0;
      for (uint32_t b : free_) sum += distance(distances_, a, b);
      to_all_.push_back(sum);
    }
  }

  std::vector<uint32_t> run() {
    // A good first answer cuts most branches: the nearest ones of each device.
    for (size_t start = 0; start < free_.size(); ++start) consider(nearest(start));
    std::vector<size_t> chosen;
    extend(chosen, 0, 0, 0);
    std::vector<uint32_t> out;
    for (size_t i : best_) out.push_back(free_[i]);
    return out;
  }

 private:
  uint64_t between(size_t a, size_t b) const { return distance(distances_, free_[a], free_[b]); }

  std::vector<size_t> nearest(size_t start) const {
    std::vector<size_t> chosen{start};
    while (chosen.size() < count_) {
      size_t best = free_.size();
      uint64_t best_sum = 0;
      for (size_t i = 0; i < free_.size(); ++i) {
        if (std::count(chosen.begin(), chosen.end(), i) > 0) continue;
        uint64_t sum = 0;
        for (size_t c : chosen) sum += between(c, i);
        if (best == free_.size() || sum < best_sum) best = i, best_sum = sum;
      }
      chosen.push_back(best);
    }
    std::sort(chosen.begin(), chosen.end());
    return chosen;
  }

  void consider(const std::vector<size_t>& chosen) {
    uint64_t inside = 0, outside = 0;
    for (size_t i = 0; i < chosen.size(); ++i) {
      outside += to_all_[chosen[i]];
      for (size_t j = 0; j < i; ++j) inside += between(chosen[i], chosen[j]);
    }
    take_if_better(chosen, inside, outside);
  }

  // The sum to all free devices is that to the ones left over plus twice the sum among the chosen.
  void take_if_better(const std::vector<size_t>& chosen, uint64_t inside, uint64_t outside) {
    const bool better =
        best_.empty() || inside < inside_ ||
        (inside == inside_ && (outside > outside_ || (outside == outside_ && chosen < best_)));
    if (!better) return;
    best_ = chosen;
    inside_ = inside;
    outside_ = outside;
  }

  void extend(std::vector<size_t>& chosen, size_t from, uint64_t inside, uint64_t outside) {
    if (chosen.size() == count_) return take_if_better(chosen, inside, outside);
    for (size_t i = from; free_.size() - i >= count_ - chosen.size(); ++i) {
      if (++steps_ > kChoiceSteps && free_.size() > 12) return;
      uint64_t more = inside;
      for (size_t c : chosen) more += between(c, i);
      if (more > inside_) continue;
      chosen.push_back(i);
      extend(chosen, i + 1, more, outside + to_all_[i]);
      chosen.pop_back();
    }
  }

  const std::vector<uint32_t>& free_;
  const size_t count_;
  const Distances& distances_;
  std::vector<uint64_t> to_all_;
  std::vector<size_t> best_;
  uint64_t inside_ = 0, outside_ = 0;
  uint32_t steps_ = 0;
};

}  // namespace

std::vector<uint32_t> choose_close(const std::vector<uint32_t>& free, size_t count,
                                   const Distances& distances) {
  if (count == 0 || count > free.size()) return {};
  if (count == free.size()) return free;
  return CloseSearch(free, count, distances).run();
}

}  // namespace sheaf::scheduler
