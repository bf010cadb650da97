// What a C++ driver pays: tasks, actor calls, put and get, beside the floors of this machine in the same run.
//
// Usage: bench_engine [seconds per line, default 0.5]. Its own functions are the tasks: workers run this program again.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

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

using Clock = std::chrono::steady_clock;
constexpr int kRepeats = 5;
double g_seconds = 0.5;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

struct Spread {
  double median, low, high;
};

// Seconds of one operation; `body(n)` does n of them.
template <class F>
Spread measure(F body) {
  body(10);
  size_t n = 1;
  for (;; n *= 2) {   // as many as fill a share of the time
    auto start = Clock::now();
    body(n);
    if (seconds_since(start) > g_seconds / kRepeats / 2) break;
  }
  std::vector<double> each;
  for (int i = 0; i < kRepeats; ++i) {
    auto start = Clock::now();
    body(n);
    each.push_back(seconds_since(start) / static_cast<double>(n));
  }
  std::sort(each.begin(), each.end());
  return {each[kRepeats / 2], each.front(), each.back()};
}

void print_time(const char* name, const Spread& s, const char* floor_name, double floor) {
  std::printf("%-34s %9.2f us  (%.2f..%.2f)   floor %9.2f us  %s\n", name, s.median * 1e6, s.low * 1e6, s.high * 1e6,
              floor * 1e6, floor_name);
}

void print_rate(const char* name, const Spread& s, const char* floor_name, double floor) {
  std::printf("%-34s %9.0f /s  (%.0f..%.0f)   floor %9.0f /s  %s\n", name, 1 / s.median, 1 / s.high, 1 / s.low,
              1 / floor, floor_name);
}

// Two threads hand one cache line to and fro, both awake; they yield, as they may share a core.
double round_trip_awake() {
  std::atomic<uint64_t> word{0};
  std::atomic<bool> stop{false};
  std::thread other([&] {
    for (uint64_t expected = 1; !stop; expected += 2) {
      while (word.load(std::memory_order_acquire) != expected && !stop) std::this_thread::yield();
      word.store(expected + 1, std::memory_order_release);
    }
  });
  uint64_t value = 0;
  Spread s = measure([&](size_t n) {
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

double allocation() {
  return measure([](size_t n) {
           for (size_t i = 0; i < n; ++i) {
             void* volatile p = std::malloc(256);
             std::free(p);
           }
         }).median;
}

void tasks(double awake, double memory) {
  auto task = sheaf::task(bench::nothing);
  Spread sync = measure([&](size_t n) {
    for (size_t i = 0; i < n; ++i) sheaf::get(task.remote());
  });
  print_time("no-op task, sync", sync, "two threads, one cache line", awake);
  Spread rate = measure([&](size_t n) {
    std::vector<sheaf::ObjectRef<void>> refs;
    refs.reserve(n);
    for (size_t i = 0; i < n; ++i) refs.push_back(task.remote());
    sheaf::get(refs);
  });
  print_rate("no-op tasks, pipelined", rate, "malloc and free", memory);
}

void actor_calls(double awake, double memory) {
  auto actor = sheaf::actor<bench::Actor>().remote();
  auto echo = actor.task(&bench::Actor::echo);
  Spread sync = measure([&](size_t n) {
    for (size_t i = 0; i < n; ++i) sheaf::get(echo.remote(1));
  });
  print_time("actor call, sync", sync, "two threads, one cache line", awake);
  Spread rate = measure([&](size_t n) {
    std::vector<sheaf::ObjectRef<int>> refs;
    refs.reserve(n);
    for (size_t i = 0; i < n; ++i) refs.push_back(echo.remote(1));
    sheaf::get(refs);
  });
  print_rate("actor calls, pipelined", rate, "malloc and free", memory);
}

void objects(double memory) {
  Spread put = measure([](size_t n) {
    for (size_t i = 0; i < n; ++i) sheaf::put(1);
  });
  print_time("put of an int", put, "malloc and free", memory);
  auto held = sheaf::put(1);
  Spread get = measure([&](size_t n) {
    for (size_t i = 0; i < n; ++i) sheaf::get(held);
  });
  print_time("get of a held int", get, "malloc and free", memory);

  constexpr size_t kBytes = 64 << 20;
  std::vector<double> source(kBytes / sizeof(double), 1.0), target(source.size(), 0.0);
  Spread copy = measure([&](size_t n) {
    for (size_t i = 0; i < n; ++i) std::memcpy(target.data(), source.data(), kBytes);
  });
  Spread large = measure([&](size_t n) {
    for (size_t i = 0; i < n; ++i) sheaf::put(source);
  });
  std::printf("%-34s %9.2f GB/s                floor %9.2f GB/s  warm memcpy\n", "put of 64 MB", kBytes / large.median / 1e9,
              kBytes / copy.median / 1e9);
}

}  // namespace

int main(int argc, char** argv) {
  sheaf::Options options;
  options.num_cpus = std::max(2u, std::thread::hardware_concurrency());
  options.object_store_memory = 1 << 30;
  auto start = Clock::now();
  sheaf::init(options);
  sheaf::get(sheaf::task(bench::nothing).remote());
  double up = seconds_since(start);
  if (argc > 1) g_seconds = std::max(0.01, std::atof(argv[1]));
  std::printf("%u CPUs; median (least..most) of %d runs of %.2f s\n", std::thread::hardware_concurrency(), kRepeats,
              g_seconds / kRepeats);
  std::printf("%-34s %9.1f ms\n", "init to the first result", up * 1e3);
  double awake = round_trip_awake(), memory = allocation();
  tasks(awake, memory);
  actor_calls(awake, memory);
  objects(memory);
  sheaf::shutdown();
}
