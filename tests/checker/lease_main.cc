// lease_checker: every interleaving of heartbeats, delays, pauses, deaths and restarts of two nodes
// and the head, within small plans.
//   (nothing)             all plans
//   --plan NAME           one of them
//   --limit N             so many states of each at most
//   --expect INVARIANT    succeeds when that one is violated (for programs built from mutants)
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "tests/checker/explore.h"
#include "tests/checker/lease_model.h"

namespace {

using sheaf::checker::LeasePlan;

// From one state in so many the cluster is let recover.
constexpr uint64_t kLivenessEach = 64;

std::vector<LeasePlan> plans() {
  std::vector<LeasePlan> out;
  const auto plan = [&](const char* name) -> LeasePlan& {
    out.emplace_back();
    out.back().name = name;
    return out.back();
  };
  LeasePlan& one = plan("one node");
  one.nodes = 1;
  one.steps = 8;
  one.pauses = one.head_pauses = one.kills = one.lives = 1;
  one.limit = 200000;
  LeasePlan& two = plan("two nodes");
  two.steps = 7;
  two.pauses = 1;
  two.kills = 1;
  two.limit = 60000;
  LeasePlan& takeover = plan("take-over");
  takeover.nodes = 1;
  takeover.steps = 9;
  takeover.crashes = 2;
  takeover.pauses = takeover.lives = 1;
  takeover.limit = 60000;
  LeasePlan& both = plan("two restart");
  both.steps = 6;
  both.crashes = 1;
  both.lives = 1;
  both.kills = 1;
  both.limit = 60000;
  LeasePlan& numbers = plan("numbers");
  numbers.steps = 1;
  numbers.crashes = 2;
  numbers.lives = 1;
  numbers.kills = 1;
  numbers.joined = false;
  numbers.slow_disk = true;
  numbers.limit = 60000;
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace sheaf::checker;   // NOLINT
  std::string only, expect;
  uint64_t limit = UINT64_MAX;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--plan") only = argv[i + 1];
    else if (name == "--limit") limit = std::stoull(argv[i + 1]);
    else if (name == "--expect") expect = argv[i + 1];
  }
  const auto begin = std::chrono::steady_clock::now();
  Totals totals;
  uint64_t recoveries = 0;
  bool good = true;
  for (const LeasePlan& plan : plans()) {
    if (!only.empty() && only != plan.name) continue;
    const std::string violation = Explorer<LeaseModel, LeaseStep>().run(
        plan, {std::min(limit, plan.limit), !expect.empty()}, totals,
        [&](const LeaseModel& model, const Hash& hash) {
          if (hash.hi % kLivenessEach != 0) return std::string();
          ++recoveries;
          return model.check_liveness();
        });
    if (violation.empty()) continue;
    fmt::print("{}: {}\n", plan.name, violation);
    if (!expect.empty() && violation.starts_with(expect + ":")) return 0;
    good = false;
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  fmt::print("checked {} states, {} transitions, depth {}, {} recoveries: Fence, OneAuthority, "
             "NumbersUnique, Barrier, NoHang; {:.1f} s\n",
             totals.states, totals.transitions, totals.depth, recoveries, took.count());
  return good && expect.empty() ? 0 : 1;
}
