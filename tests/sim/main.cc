// scheduler_sim: runs many seeds and says what it saw.
//   --seeds N [--first F]   seeds F .. F+N-1; every tenth runs twice and must leave the same trace
//   --seed S [--trace]      replays one
//   --expect ORACLE         succeeds when that oracle is violated
//   --defect NAME           has that defect (in scheduler_sim_defects)
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/sim/defect.h"
#include "tests/sim/world.h"

namespace {

using sheaf::sim::Options;
using sheaf::sim::Stats;
using sheaf::sim::World;

struct Arguments {
  uint64_t first = 1, seeds = 100;
  bool trace = false;
  std::string expect;
};

Arguments parse(int argc, char** argv) {
  Arguments out;
  const auto value = [&](int& i) { return i + 1 < argc ? std::string(argv[++i]) : std::string(); };
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--seeds") out.seeds = std::stoull(value(i));
    else if (name == "--first") out.first = std::stoull(value(i));
    else if (name == "--seed") {
      out.first = std::stoull(value(i));
      out.seeds = 1;
    } else if (name == "--trace") out.trace = true;
    else if (name == "--expect") out.expect = value(i);
    else if (name == "--defect" && i + 1 < argc) sheaf::sim::chosen_defect = argv[++i];
  }
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  const Arguments arguments = parse(argc, argv);
  const auto start = std::chrono::steady_clock::now();
  Stats sum;
  uint64_t violations = 0, repeated = 0;
  for (uint64_t seed = arguments.first; seed < arguments.first + arguments.seeds; ++seed) {
    World world(Options{.seed = seed, .trace = arguments.trace});
    bool good = world.run();
    if (good && seed % 10 == 0) {
      World again(Options{.seed = seed});
      ++repeated;
      again.run();
      if (again.trace_hash() != world.trace_hash()) {
        good = false;
        std::printf("seed %lu: two runs differ\n", static_cast<unsigned long>(seed));
      }
    }
    sum.events += world.stats().events;
    sum.faults += world.stats().faults;
    sum.tasks += world.stats().tasks;
    sum.calls += world.stats().calls;
    sum.restarts += world.stats().restarts;
    sum.acked_writes += world.stats().acked_writes;
    sum.checks += world.stats().checks;
    if (!arguments.expect.empty()) {
      if (world.oracle() != arguments.expect) continue;
      std::printf("caught at seed %lu by %s: %s\n", static_cast<unsigned long>(seed),
                  world.oracle().c_str(), world.violation().c_str());
      return 0;
    }
    if (good) continue;
    ++violations;
    std::printf("%s violated: %s\n  replay: scheduler_sim --seed %lu\n", world.oracle().c_str(),
                world.violation().c_str(), static_cast<unsigned long>(seed));
    std::fflush(stdout);
    if (violations >= 5) break;
  }
  if (!arguments.expect.empty()) {
    std::printf("not caught in %lu seeds\n", static_cast<unsigned long>(arguments.seeds));
    return 1;
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  std::printf(
      "simulated %lu seeds (%lu twice): %lu events, %lu faults, %lu daemon restarts, %lu tasks, "
      "%lu actor calls, %lu acknowledged writes; %lu checks of LeaseConservation, OneAuthority, "
      "JournalPrefix, NoHang, NoLeak: %lu violations; %.1f s\n",
      static_cast<unsigned long>(arguments.seeds), static_cast<unsigned long>(repeated),
      static_cast<unsigned long>(sum.events), static_cast<unsigned long>(sum.faults),
      static_cast<unsigned long>(sum.restarts), static_cast<unsigned long>(sum.tasks),
      static_cast<unsigned long>(sum.calls), static_cast<unsigned long>(sum.acked_writes),
      static_cast<unsigned long>(sum.checks), static_cast<unsigned long>(violations),
      took.count());
  return violations == 0 ? 0 : 1;
}
