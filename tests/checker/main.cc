// protocol_checker: every state that small clusters can reach, breadth first. See driver.h.
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/checker/driver.h"
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
  return check_plans<Model, Step>(argc, argv, plans(),
                                  "OneAuthority, JournalPrefix, NoHang, NoLeak");
}
