// What a C++ driver pays: tasks, actor calls, put and get, beside the floors of this machine in the same run.
//
// Usage: bench_engine [--json] [seconds per line, default 0.5] [rounds]. Its own functions are the tasks: workers run
// this program again.

#include <atomic>
#include <thread>
#include <vector>

#include "perf/report.h"
#include "runtime/sheaf.h"

namespace bench {

void nothing() {}
SHEAF_REMOTE(nothing);

class Actor {
 public:
  int echo(int x) { return x; }
};

}  // namespace bench

SHEAF_ACTOR(bench::Actor, (), echo)

namespace {

using bench::Report;
using bench::Spread;
constexpr double kToUs = 1e6;

// Two threads hand one cache line to and fro, both awake; they yield, as they may share a core.
double round_trip_awake(const Report& report) {
  std::atomic<uint64_t> word{0};
  std::atomic<bool> stop{false};
  std::thread other([&] {
    for (uint64_t expected = 1; !stop; expected += 2) {
      while (word.load(std::memory_order_acquire) != expected && !stop) std::this_thread::yield();
      word.store(expected + 1, std::memory_order_release);
    }
  });
  uint64_t value = 0;
  Spread s = report.measure([&](size_t n) {
    for (size_t i = 0; i < n; ++i) {
      word.store(value + 1, std::memory_order_release);
      value += 2;
      while (word.load(std::memory_order_acquire) != value) std::this_thread::yield();
    }
  });
  stop = true;
  other.join();
  return s.median;
}

double allocation(const Report& report) {
  return report.measure([](size_t n) {
           for (size_t i = 0; i < n; ++i) {
             void* volatile p = std::malloc(256);
             std::free(p);
           }
         }).median;
}

void tasks(const Report& report, double awake, double memory) {
  auto task = sheaf::task(bench::nothing);
  Spread sync = report.measure([&](size_t n) {
    for (size_t i = 0; i < n; ++i) sheaf::get(task.remote());
  });
  report.row("C++ no-op task, sync", "us", bench::scaled(sync, kToUs), "two threads, one cache line", awake * kToUs);
  Spread rate = report.measure([&](size_t n) {
    std::vector<sheaf::ObjectRef<void>> refs;
    refs.reserve(n);
    for (size_t i = 0; i < n; ++i) refs.push_back(task.remote());
    sheaf::get(refs);
  });
  report.row("C++ no-op tasks, pipelined", "/s", bench::rate(rate), "malloc and free", 1 / memory);
}

void actor_calls(const Report& report, double awake, double memory) {
  auto actor = sheaf::actor<bench::Actor>().remote();
  auto echo = actor.task(&bench::Actor::echo);
  Spread sync = report.measure([&](size_t n) {
    for (size_t i = 0; i < n; ++i) sheaf::get(echo.remote(1));
  });
  report.row("C++ actor call, sync", "us", bench::scaled(sync, kToUs), "two threads, one cache line", awake * kToUs);
  Spread rate = report.measure([&](size_t n) {
    std::vector<sheaf::ObjectRef<int>> refs;
    refs.reserve(n);
    for (size_t i = 0; i < n; ++i) refs.push_back(echo.remote(1));
    sheaf::get(refs);
  });
  report.row("C++ actor calls, pipelined", "/s", bench::rate(rate), "malloc and free", 1 / memory);
}

void objects(const Report& report, double memory) {
  Spread put = report.measure([](size_t n) {
    for (size_t i = 0; i < n; ++i) sheaf::put(1);
  });
  report.row("C++ put of an int", "us", bench::scaled(put, kToUs), "malloc and free", memory * kToUs);
  auto held = sheaf::put(1);
  Spread get = report.measure([&](size_t n) {
    for (size_t i = 0; i < n; ++i) sheaf::get(held);
  });
  report.row("C++ get of a held int", "us", bench::scaled(get, kToUs), "malloc and free", memory * kToUs);

  constexpr size_t kBytes = 64 << 20;
  std::vector<double> source(kBytes / sizeof(double), 1.0), target(source.size(), 0.0);
  Spread copy = report.measure([&](size_t n) {
    for (size_t i = 0; i < n; ++i) std::memcpy(target.data(), source.data(), kBytes);
  });
  Spread large = report.measure([&](size_t n) {
    for (size_t i = 0; i < n; ++i) sheaf::put(source);
  });
  report.row("C++ put of 64 MB", "GB/s", bench::rate(large, kBytes / 1e9), "warm memcpy",
             kBytes / copy.median / 1e9);
}

}  // namespace

int main(int argc, char** argv) {
  Report report(argc, argv);
  sheaf::Options options;
  options.num_cpus = std::max(2u, std::thread::hardware_concurrency());
  options.object_store_memory = 1 << 30;
  auto start = bench::Clock::now();
  sheaf::init(options);
  sheaf::get(sheaf::task(bench::nothing).remote());
  double up = bench::seconds_since(start) * 1e3;
  report.row("C++ init to the first result", "ms", {up, up, up});
  double awake = round_trip_awake(report), memory = allocation(report);
  tasks(report, awake, memory);
  actor_calls(report, awake, memory);
  objects(report, memory);
  sheaf::shutdown();
}
