// objects_checker: every state that a small cluster's object tables can reach, breadth first.
//   (nothing)             all plans; of large ones the first states
//   --plan NAME           one of them
//   --limit N             so many states of each at most
//   --expect INVARIANT    succeeds when that one is violated (for programs built from mutants)
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>

#include "tests/checker_objects/model.h"

namespace sheaf::objstore::checker {
namespace {

std::vector<Config> plans() {
  return {
      {.name = "hand-offs", .home = 1, .sends = 3},
      {.name = "owner-elsewhere", .home = 2, .sends = 3},
      {.name = "arguments", .home = 2, .sends = 1, .calls = 2, .keeps = 2},
      {.name = "holder-dies", .home = 1, .sends = 3, .crashes = 1},
      {.name = "holders-die", .home = 1, .sends = 3, .crashes = 2},
      {.name = "caller-dies", .home = 1, .sends = 1, .calls = 2, .keeps = 2, .crashes = 1},
      {.name = "copies", .home = 2, .maker = 3, .sends = 2, .gets = 2, .evictions = 1},
      {.name = "maker-dies", .home = 1, .maker = 3, .sends = 1, .gets = 2, .evictions = 1,
       .crashes = 1},
      {.name = "owner-dies", .home = 2, .maker = 3, .sends = 2, .gets = 1, .crashes = 1},
      {.name = "nested", .home = 2, .maker = 3, .inner_home = 1, .sends = 1, .decodes = 2},
      {.name = "nested-deaths", .home = 2, .maker = 3, .inner_home = 3, .sends = 1, .gets = 1,
       .decodes = 1, .crashes = 1},
      {.name = "broadcast", .home = 1, .maker = 1, .broadcast = true, .sends = 2, .gets = 2,
       .evictions = 1, .crashes = 1},
      {.name = "promotion", .home = 1, .maker = 3, .sends = 1, .gets = 1, .evictions = 1,
       .crashes = 1},
      {.name = "four-nodes", .nodes = 4, .home = 3, .sends = 2, .crashes = 1},
      {.name = "four-nodes-two-deaths", .nodes = 4, .home = 1, .sends = 2, .crashes = 2},
      {.name = "reports", .nodes = 4, .home = 2, .maker = 3, .sends = 1, .crashes = 1},
      {.name = "two-deaths", .home = 1, .maker = 2, .sends = 2, .gets = 1, .crashes = 2,
       .limit = 300000},
  };
}

struct HashOfHash {
  size_t operator()(const Hash& hash) const { return hash.lo; }
};
struct Origin {
  Hash before;
  Step step;
};
using Seen = std::unordered_map<Hash, Origin, HashOfHash>;

// How a state came about, one step a line.
void print_path(const Seen& seen, Hash at, const Step& last) {
  std::vector<std::string> lines{to_text(last)};
  for (auto it = seen.find(at); it != seen.end() && !(it->second.before == at);
       it = seen.find(it->second.before)) {
    lines.push_back(to_text(it->second.step));
    at = it->second.before;
  }
  for (size_t i = lines.size(); i-- > 0;) std::printf("  %s\n", lines[i].c_str());
}

struct Totals {
  uint64_t states = 0, transitions = 0;
};

// The violation found, or nothing.
std::string explore(const Config& config, uint64_t limit, bool quiet, Totals& totals) {
  Seen seen;
  std::deque<std::pair<Hash, Model>> frontier;
  Model first(config);
  const Hash root = first.hash();
  seen.emplace(root, Origin{root, {}});
  frontier.emplace_back(root, std::move(first));
  uint64_t transitions = 0;
  for (; !frontier.empty() && seen.size() < limit; frontier.pop_front()) {
    const auto& [hash, model] = frontier.front();
    for (const Step& step : model.steps()) {
      ++transitions;
      Model next = model;
      next.apply(step);
      if (!next.violation().empty()) {
        if (!quiet) print_path(seen, hash, step);
        return next.violation();
      }
      const Hash reached = next.hash();
      if (seen.emplace(reached, Origin{hash, step}).second)
        frontier.emplace_back(reached, std::move(next));
    }
  }
  std::printf("%-16s %8lu states, %9lu transitions%s\n", config.name.c_str(),
              static_cast<unsigned long>(seen.size()), static_cast<unsigned long>(transitions),
              frontier.empty() ? "" : ", not to the end");
  std::fflush(stdout);
  totals.states += seen.size();
  totals.transitions += transitions;
  return {};
}

}  // namespace
}  // namespace sheaf::objstore::checker

int main(int argc, char** argv) {
  using namespace sheaf::objstore::checker;
  std::string plan, expect;
  uint64_t limit = UINT64_MAX;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    if (name == "--plan") plan = argv[i + 1];
    else if (name == "--limit") limit = std::stoull(argv[i + 1]);
    else if (name == "--expect") expect = argv[i + 1];
  }
  const auto begin = std::chrono::steady_clock::now();
  Totals totals;
  bool good = true;
  for (const Config& config : plans()) {
    if (!plan.empty() && plan != config.name) continue;
    const std::string violation =
        explore(config, std::min(limit, config.limit), !expect.empty(), totals);
    if (violation.empty()) continue;
    std::printf("%s: %s\n", config.name.c_str(), violation.c_str());
    if (!expect.empty() && violation.starts_with(expect + ":")) return 0;
    good = false;
  }
  if (totals.states == 0 && good) {
    std::printf("no such plan\n");
    return 2;
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  std::printf("checked %lu states, %lu transitions: NoDangling, OneOwner, NoLeak, NoHang; "
              "%.1f s\n",
              static_cast<unsigned long>(totals.states),
              static_cast<unsigned long>(totals.transitions), took.count());
  return good && expect.empty() ? 0 : 1;
}
