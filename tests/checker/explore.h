// Every state that a model can reach, breadth first, and how one came about that must not be.
//
// A model is copied, stepped and hashed: steps(), apply(step), hash(), violation(). States with one
// hash (128 bits) count as one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace sheaf::checker {

struct Hash {
  uint64_t lo = 0, hi = 0;
  bool operator==(const Hash&) const = default;
};
struct HashOfHash {
  size_t operator()(const Hash& hash) const { return hash.lo; }
};

struct Totals {
  uint64_t states = 0, transitions = 0, depth = 0, left_out = 0;
};

struct Limits {
  uint64_t states = UINT64_MAX;
  bool quiet = false;          // says nothing of how a violation came about
};

template <class Model, class Step>
class Explorer {
 public:
  // The violation found, or nothing. `visit` looks at each new state: what it says is one too.
  template <class Config, class Visit>
  std::string run(const Config& config, Limits limits, Totals& totals, Visit visit) {
    std::deque<std::pair<Hash, Model>> frontier;
    Model first(config);
    const Hash root = first.hash();
    seen_.emplace(root, Origin{root, {}});
    frontier.emplace_back(root, std::move(first));
    Totals own;
    for (; !frontier.empty() && seen_.size() < limits.states; ++own.depth) {
      for (size_t n = frontier.size(); n > 0 && seen_.size() < limits.states; --n) {
        const auto [hash, model] = std::move(frontier.front());
        frontier.pop_front();
        for (const Step& step : model.steps()) {
          ++own.transitions;
          Model next = model;
          next.apply(step);
          const Hash reached = next.hash();
          std::string wrong = next.violation();
          const bool fresh = seen_.emplace(reached, Origin{hash, step}).second;
          if (wrong.empty() && fresh) wrong = visit(next, reached);
          if (!wrong.empty()) {
            if (!limits.quiet) print_path(hash, step);
            return wrong;
          }
          if (fresh) frontier.emplace_back(reached, std::move(next));
        }
      }
    }
    own.states = seen_.size();
    own.left_out = frontier.size();   // looked at, but not what follows from them
    std::printf("%-21s %8lu states, %9lu transitions, depth %lu%s\n", config.name.c_str(),
                static_cast<unsigned long>(own.states),
                static_cast<unsigned long>(own.transitions),
                static_cast<unsigned long>(own.depth), own.left_out ? ", not to the end" : "");
    std::fflush(stdout);
    totals.states += own.states;
    totals.transitions += own.transitions;
    totals.depth = std::max(totals.depth, own.depth);
    totals.left_out += own.left_out;
    return {};
  }

 private:
  struct Origin {
    Hash before;
    Step step;
  };

  // One step a line.
  void print_path(Hash at, const Step& last) const {
    std::vector<std::string> lines{to_text(last)};
    for (auto it = seen_.find(at); it != seen_.end() && !(it->second.before == at);
         it = seen_.find(it->second.before)) {
      lines.push_back(to_text(it->second.step));
      at = it->second.before;
    }
    for (size_t i = lines.size(); i-- > 0;) std::printf("  %s\n", lines[i].c_str());
  }

  std::unordered_map<Hash, Origin, HashOfHash> seen_;
};

}  // namespace sheaf::checker
