// scheduler_sim: runs many seeds and says what it saw.
//   --seeds N [--first F]   seeds F .. F+N-1; every tenth runs twice and must leave the same trace
//   --seed S [--trace]      replays one
//   --expect ORACLE         succeeds when that oracle is violated (for programs built from mutants)
//   --mutants P:O,P:O,...   such programs and the oracle that must catch each
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/sim/world.h"

namespace {

using sheaf::sim::Options;
using sheaf::sim::Stats;
using sheaf::sim::World;

struct Arguments {
  uint64_t first = 1, seeds = 100;
  bool trace = false;
  std::string expect, mutants;
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
    else if (name == "--mutants") out.mutants = value(i);
  }
  return out;
}

// Returns how many of the mutants were caught; names those that were not.
int run_mutants(const std::string& list, const char* seeds, int& total) {
  int caught = 0;
  for (size_t at = 0; at < list.size();) {
    const size_t end = std::min(list.find(',', at), list.size());
    const std::string entry = list.substr(at, end - at);
    at = end + 1;
    const size_t colon = entry.rfind(':');
    const std::string command = fmt::format("'{}' --seeds {} --expect {}", entry.substr(0, colon),
                                            seeds, entry.substr(colon + 1));
    ++total;
    if (std::system(command.c_str()) == 0) ++caught;
    else std::printf("NOT CAUGHT: %s\n", command.c_str());
    std::fflush(stdout);
  }
  return caught;
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
    if (!arguments.expect.empty()) {
      if (world.oracle() == arguments.expect) return 0;
      continue;
    }
    if (good) continue;
    ++violations;
    std::printf("%s violated: %s\n  replay: scheduler_sim --seed %lu\n", world.oracle().c_str(),
                world.violation().c_str(), static_cast<unsigned long>(seed));
    if (violations >= 5) break;
  }
  if (!arguments.expect.empty()) return 1;
  int mutants = 0;
  const int caught = run_mutants(arguments.mutants, "200", mutants);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  std::printf(
      "simulated %lu seeds (%lu twice): %lu events, %lu faults, %lu daemon restarts, %lu tasks, "
      "%lu actor calls, %lu acknowledged writes; %lu violations; %d of %d mutants caught; %.1f s\n",
      static_cast<unsigned long>(arguments.seeds), static_cast<unsigned long>(repeated),
      static_cast<unsigned long>(sum.events), static_cast<unsigned long>(sum.faults),
      static_cast<unsigned long>(sum.restarts), static_cast<unsigned long>(sum.tasks),
      static_cast<unsigned long>(sum.calls), static_cast<unsigned long>(sum.acked_writes),
      static_cast<unsigned long>(violations), caught, mutants, took.count());
  return violations == 0 && caught == mutants ? 0 : 1;
}
