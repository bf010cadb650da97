// cluster_sim: runs many seeds of clusters and says what it saw.
//   --seeds N [--first F]   seeds F .. F+N-1; every tenth runs twice and must leave the same trace
//   --seed S [--trace]      replays one
//   --nodes N --tasks T [--submitters S]
//                           one run without faults: what control costs at that size
//   --most M                with it: fails when a task costs more than M control messages
//   --expect ORACLE         succeeds when that oracle is violated
//   --defect NAME           has that defect (in cluster_sim_defects)
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <string>

#include "tests/sim/cluster.h"
#include "tests/sim/defect.h"

namespace {

using sheaf::sim::Cluster;
using sheaf::sim::ClusterOptions;
using sheaf::sim::ClusterStats;

struct Arguments {
  uint64_t first = 1, seeds = 100;
  uint32_t nodes = 0, tasks = 0, submitters = 0;
  double most = 0;
  bool trace = false;
  std::string expect;
};

Arguments parse(int argc, char** argv) {
  Arguments out;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const auto value = [&] { return i + 1 < argc ? std::string(argv[++i]) : std::string("0"); };
    if (name == "--seeds") out.seeds = std::stoull(value());
    else if (name == "--first") out.first = std::stoull(value());
    else if (name == "--nodes") out.nodes = static_cast<uint32_t>(std::stoul(value()));
    else if (name == "--tasks") out.tasks = static_cast<uint32_t>(std::stoul(value()));
    else if (name == "--submitters") out.submitters = static_cast<uint32_t>(std::stoul(value()));
    else if (name == "--most") out.most = std::stod(value());
    else if (name == "--trace") out.trace = true;
    else if (name == "--expect") out.expect = value();
    else if (name == "--defect" && i + 1 < argc) sheaf::sim::chosen_defect = argv[++i];
    else if (name == "--seed") {
      out.first = std::stoull(value());
      out.seeds = 1;
    }
  }
  return out;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

int scale_run(const Arguments& arguments) {
  const auto start = std::chrono::steady_clock::now();
  ClusterOptions options;
  options.nodes = arguments.nodes;
  options.tasks = arguments.tasks;
  options.submitters = arguments.submitters;
  options.faults = false;
  options.count_bytes = true;
  Cluster cluster(options);
  const bool good = cluster.run();
  const ClusterStats& s = cluster.stats();
  const auto seconds = [](sheaf::scheduler::Time time) {
    return static_cast<double>(time.count()) * 1e-9;
  };
  const double span = seconds(s.tasks_done - s.begun), nodes = static_cast<double>(s.nodes);
  const double tasks = static_cast<double>(s.tasks);
  fmt::print("{} nodes: {} tasks ({} elsewhere) in {:.2f} s of cluster time, CPUs {:.1f} % busy, "
             "nine tenths of them after {:.0f} ms; control a task: {:.2f} messages, {:.0f} bytes; "
             "a node and second: {:.1f} messages, {:.0f} bytes; the head: {:.0f} messages/s, "
             "{:.0f} kB/s, views {:.0f} kB/s; {} events, {:.1f} s to simulate{}\n",
             s.nodes, s.tasks, s.remote_tasks, span,
             seconds(s.work_done) / (span * nodes * 8) * 100,
             s.filled_at.count() ? seconds(s.filled_at - s.begun) * 1e3 : -1.0,
             static_cast<double>(s.control_messages) / tasks, static_cast<double>(s.bytes) / tasks,
             static_cast<double>(s.control_messages) / nodes / span,
             static_cast<double>(s.bytes) / nodes / span,
             static_cast<double>(s.head_messages) / span,
             static_cast<double>(s.head_bytes) / span / 1000,
             static_cast<double>(s.view_bytes) / span / 1000, s.events, seconds_since(start),
             good ? "" : "; " + cluster.violation());
  const bool cheap = arguments.most == 0 ||
                     static_cast<double>(s.control_messages) <= arguments.most * tasks;
  return good && cheap && s.tasks > 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const Arguments arguments = parse(argc, argv);
  if (arguments.tasks > 0) return scale_run(arguments);
  const auto start = std::chrono::steady_clock::now();
  ClusterStats sum;
  uint64_t violations = 0, repeated = 0;
  for (uint64_t seed = arguments.first; seed < arguments.first + arguments.seeds; ++seed) {
    ClusterOptions options;
    options.seed = seed;
    options.nodes = arguments.nodes;
    options.trace = arguments.trace;
    Cluster cluster(options);
    bool good = cluster.run();
    if (good && seed % 10 == 0) {
      Cluster again(options);
      ++repeated;
      again.run();
      if (again.trace_hash() != cluster.trace_hash()) {
        good = false;
        fmt::print("seed {}: two runs differ\n", seed);
      }
    }
    const ClusterStats& s = cluster.stats();
    sum.events += s.events;
    sum.faults += s.faults;
    sum.node_deaths += s.node_deaths;
    sum.partings += s.partings;
    sum.head_deaths += s.head_deaths;
    sum.messages += s.messages;
    sum.tasks += s.tasks;
    sum.remote_tasks += s.remote_tasks;
    sum.calls += s.calls;
    sum.checks += s.checks;
    sum.nodes += s.nodes;
    if (!arguments.expect.empty()) {
      if (cluster.oracle() != arguments.expect) continue;
      fmt::print("caught at seed {} by {}: {}\n", seed, cluster.oracle(), cluster.violation());
      return 0;
    }
    if (good) continue;
    ++violations;
    fmt::print("{} violated: {}\n  replay: cluster_sim --seed {}\n", cluster.oracle(),
               cluster.violation(), seed);
    std::fflush(stdout);
    if (violations >= 5) break;
  }
  if (!arguments.expect.empty()) {
    fmt::print("not caught in {} seeds\n", arguments.seeds);
    return 1;
  }
  fmt::print("simulated {} clusters ({} twice) of {} nodes in all: {} events, {} messages, {} "
             "faults, {} deaths of nodes, {} of heads, {} partings of members, {} tasks ({} "
             "elsewhere), {} actor calls; {} checks of LeaseConservation, OneAuthority, Fence, "
             "Barrier, NoFlap, NoHang, NoLeak: {} violations; {:.1f} s\n",
             arguments.seeds, repeated, sum.nodes, sum.events, sum.messages, sum.faults,
             sum.node_deaths, sum.head_deaths, sum.partings, sum.tasks, sum.remote_tasks, sum.calls,
             sum.checks, violations, seconds_since(start));
  return violations == 0 ? 0 : 1;
}
