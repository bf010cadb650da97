// protocol_checker: every state that small clusters can reach, breadth first.
//   (nothing)             all plans: small ones to their ends, of the others the first states
//   --plan NAME           one of them
//   --limit N             so many states of each at most; those left out are said
//   --expect INVARIANT    succeeds when that one is violated (for programs built from mutants)
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "tests/checker/explore.h"
#include "tests/checker/model.h"

namespace sheaf::checker {
namespace {

std::vector<Config> plans() {
  std::vector<Config> out;
  const auto add = [&](const char* name, uint64_t limit, std::vector<ActorPlan> actors,
                       std::vector<std::pair<Budget, int>> budget) {
    Config config{name, std::move(actors), {}, std::string_view(name) != "journal", limit};
    for (const auto& [kind, n] : budget) config.budget[kind] = static_cast<uint8_t>(n);
    out.push_back(std::move(config));
  };
  add("incarnations", UINT64_MAX, {{false, 2, "name"}},
      {{kDrivers, 1}, {kDriverDeaths, 1}, {kCrashes, 2}, {kSpawnFailures, 1},
       {kBrokenConstructors, 1}, {kExits, 1}, {kDrops, 1}, {kKills, 1}, {kSoftKills, 1}});
  add("handles", 450000, {{false, 1, "name"}},
      {{kDrivers, 2}, {kDriverDeaths, 2}, {kCrashes, 1}, {kDrops, 2}, {kLookups, 1}, {kKills, 1}});
  add("detached", 350000, {{true, -1, "name"}},
      {{kDrivers, 2}, {kDriverDeaths, 1}, {kCrashes, 1}, {kKills, 1}, {kLookups, 1},
       {kFullDisks, 1}, {kRestarts, 1}});
  add("lives", UINT64_MAX, {{true, 1, "name"}},
      {{kDrivers, 1}, {kCrashes, 2}, {kFullDisks, 1}, {kSoftKills, 1}, {kRestarts, 2}});
  add("journal", 200000, {{true, -1, "name"}},
      {{kDrivers, 2}, {kDriverDeaths, 1}, {kPuts, 3}, {kGets, 1}, {kFunctions, 1}, {kFullDisks, 1},
       {kRestarts, 2}, {kKills, 1}});
  return out;
}

}  // namespace
}  // namespace sheaf::checker

int main(int argc, char** argv) {
  using namespace sheaf::checker;
  std::string plan, expect;
  uint64_t limit = UINT64_MAX;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--plan") plan = argv[i + 1];
    else if (name == "--limit") limit = std::stoull(argv[i + 1]);
    else if (name == "--expect") expect = argv[i + 1];
  }
  const auto begin = std::chrono::steady_clock::now();
  Totals totals;
  bool good = true;
  for (const Config& config : plans()) {
    if (!plan.empty() && plan != config.name) continue;
    const Limits limits{std::min(limit, config.limit), !expect.empty()};
    const std::string violation = Explorer<Model, Step>().run(
        config, limits, totals, [](const Model&, const Hash&) { return std::string(); });
    if (violation.empty()) continue;
    std::printf("%s: %s\n", config.name.c_str(), violation.c_str());
    if (!expect.empty() && violation.starts_with(expect + ":")) return 0;
    good = false;
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  std::printf("checked %lu states, %lu transitions, depth %lu: OneAuthority, JournalPrefix, "
              "NoHang, NoLeak; %.1f s\n",
              static_cast<unsigned long>(totals.states),
              static_cast<unsigned long>(totals.transitions),
              static_cast<unsigned long>(totals.depth), took.count());
  return good && expect.empty() ? 0 : 1;
}
