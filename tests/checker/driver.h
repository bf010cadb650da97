// What all checkers' programs have in common: their command lines, plan after plan, and the totals.
//   (nothing)             all plans: small ones to their ends, of the others the first states
//   --plan NAME           one of them
//   --limit N             so many states of each at most; those left out are said
//   --expect INVARIANT    succeeds when that one is violated
//   --defect NAME         has that defect (in the program whose name ends in _defects)
// A plan is a Model's configuration with a name and a limit of its own.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "tests/checker/explore.h"
#include "tests/sim/defect.h"

namespace sheaf::checker {

struct NothingMore {
  template <class Model>
  std::string operator()(const Model&, const Hash&) const {
    return {};
  }
};

// The program's exit status. `invariants`: their names. `visit`: as for Explorer::run().
template <class Model, class Step, class Plan, class Visit = NothingMore>
int check_plans(int argc, char** argv, const std::vector<Plan>& plans, const char* invariants,
                Visit visit = {}) {
  std::string only, expect;
  uint64_t limit = UINT64_MAX;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    if (name == "--plan") only = argv[i + 1];
    else if (name == "--limit") limit = std::stoull(argv[i + 1]);
    else if (name == "--expect") expect = argv[i + 1];
    else if (name == "--defect") sim::chosen_defect = argv[i + 1];
  }
  const auto begin = std::chrono::steady_clock::now();
  Totals totals;
  bool good = true;
  for (const Plan& plan : plans) {
    if (!only.empty() && only != plan.name) continue;
    const Limits limits{std::min(limit, plan.limit), !expect.empty()};
    const std::string violation = Explorer<Model, Step>().run(plan, limits, totals, visit);
    if (violation.empty()) continue;
    std::printf("%s: %s\n", plan.name.c_str(), violation.c_str());
    if (!expect.empty() && violation.starts_with(expect + ":")) return 0;
    good = false;
  }
  if (totals.states == 0 && good) {
    std::printf("no such plan\n");
    return 2;
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  std::printf("checked %lu states, %lu transitions, depth %lu: %s; %.1f s\n",
              static_cast<unsigned long>(totals.states),
              static_cast<unsigned long>(totals.transitions),
              static_cast<unsigned long>(totals.depth), invariants, took.count());
  return good && expect.empty() ? 0 : 1;
}

}  // namespace sheaf::checker
