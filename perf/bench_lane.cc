// Lanes between two processes, with the floor of this machine beside each figure: medians over
// repeated runs, and their spread. `bench_lane [--json] [seconds] [rounds]`: half a second is full length.
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "perf/report.h"
#include "transport/bell.h"
#include "transport/lane.h"
#include "transport/lane_region.h"
#include "transport/wake_cost.h"

namespace {

using namespace sheaf;             // NOLINT: a small main
using namespace sheaf::transport;  // NOLINT
using bench::Clock;
using bench::Report;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr nanoseconds kNone{0};
constexpr SpinPolicy kSleepAtOnce{kNone, kNone};
constexpr SpinPolicy kNeverSleep{seconds(20), kNone};
constexpr uint16_t kPing = 1;
constexpr uint16_t kStop = 2;

double ns_since(Clock::time_point start) {
  return static_cast<double>(nanoseconds(Clock::now() - start).count());
}

// Where the two processes run; -1 leaves it to the kernel.
struct Placement {
  int parent = -1, child = -1;
};

void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (cpu >= 0) {
    CPU_SET(cpu, &set);
  } else {
    for (long i = 0; i < sysconf(_SC_NPROCESSORS_CONF); ++i) CPU_SET(i, &set);
  }
  sched_setaffinity(0, sizeof set, &set);
}

struct Side {
  Side(const LaneRegion& region, RegionOffset bell_block, const LaneInfo& info, SpinPolicy policy)
      : bell(region.at<BellBlock>(bell_block), policy), lane(*Lane::open(region, info)) {}
  // Takes one message; its type.
  uint16_t take() {
    for (;;) {
      if (auto message = lane.peek()) {
        uint16_t type = message->type;
        lane.pop();
        return type;
      }
      lane.flush();
      bell.for_each_ready([this](uint32_t) { return lane.flush(), lane.rx_empty(); });
      if (lane.rx_empty()) bell.wait(Clock::now() + seconds(5));
    }
  }
  Bell bell;
  Lane lane;
};

// Runs `parent` here and `child` in another process, with a lane between them; what `parent`
// returns.
double between(Placement where, SpinPolicy policy, const std::function<double(Side&)>& parent,
               const std::function<void(Side&)>& child) {
  auto region = LaneRegion::create(1 << 20);
  RegionOffset bells[2] = {*region->allocate(sizeof(BellBlock)),
                           *region->allocate(sizeof(BellBlock))};
  RegionOffset rings[2] = {*region->allocate(sizeof(RingBlock)),
                           *region->allocate(sizeof(RingBlock))};
  LaneInfo here{rings[0], rings[1], bells[1], 0, 0}, there{rings[1], rings[0], bells[0], 0, 0};
  pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    pin(where.child);
    Side side(*region, bells[1], there, policy);
    child(side);
    _exit(0);
  }
  pin(where.parent);
  Side side(*region, bells[0], here, policy);
  double result = parent(side);
  waitpid(pid, nullptr, 0);
  pin(-1);
  return result;
}

void echo(Side& side) {
  std::string payload(24, 'x');
  while (side.take() != kStop) side.lane.send(kPing, wire::as_bytes(payload));
}

// Mean time of a round trip; `gap` lets the other side fall asleep before each.
double round_trip_ns(Placement where, SpinPolicy policy, int count, nanoseconds gap) {
  return between(
      where, policy,
      [&](Side& side) {
        std::string payload(24, 'x');
        double total = 0;
        for (int i = 0; i < count; ++i) {
          if (gap.count() > 0) usleep(static_cast<unsigned>(gap.count() / 1000));
          auto start = Clock::now();
          side.lane.send(kPing, wire::as_bytes(payload));
          side.take();
          total += ns_since(start);
        }
        side.lane.send(kStop, {});
        return total / count;
      },
      echo);
}

double pipelined_per_s(Placement where, SpinPolicy policy, size_t size, int count) {
  return between(
      where, policy,
      [&](Side& side) {
        side.take();
        auto start = Clock::now();
        for (int i = 1; i < count; ++i) side.take();
        return (count - 1) / ns_since(start) * 1e9;
      },
      [&](Side& side) {
        std::string payload(size, 'x');
        auto relax = [&](size_t limit) {
          while (side.lane.overflow_bytes() > limit && !side.lane.flush()) {
            side.bell.for_each_ready([&](uint32_t) { return side.lane.flush(), true; });
            if (side.lane.overflow_bytes() > limit) {
              side.bell.wait(Clock::now() + std::chrono::milliseconds(100));
            }
          }
        };
        for (int i = 0; i < count; ++i) {
          side.lane.send(kPing, wire::as_bytes(payload));
          relax(64 * 1024);
        }
        relax(0);
      });
}

// The floor: the same ping and pong on two bare futex words.
double futex_round_trip_ns(Placement where, int count, nanoseconds gap) {
  auto* words = static_cast<std::atomic<uint32_t>*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  auto await = [](std::atomic<uint32_t>& word, uint32_t value) {
    for (uint32_t seen; (seen = word.load()) != value;) {
      timespec limit{1, 0};
      syscall(SYS_futex, &word, FUTEX_WAIT, seen, &limit, nullptr, 0);
    }
  };
  auto tell = [](std::atomic<uint32_t>& word, uint32_t value) {
    word.store(value);
    syscall(SYS_futex, &word, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  };
  pid_t pid = fork();
  uint32_t last = static_cast<uint32_t>(count);
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    pin(where.child);
    for (uint32_t i = 1; i <= last; ++i) await(words[0], i), tell(words[64], i);
    _exit(0);
  }
  pin(where.parent);
  double total = 0;
  for (uint32_t i = 1; i <= last; ++i) {
    if (gap.count() > 0) usleep(static_cast<unsigned>(gap.count() / 1000));
    auto start = Clock::now();
    tell(words[0], i);
    await(words[64], i);
    total += ns_since(start);
  }
  waitpid(pid, nullptr, 0);
  pin(-1);
  munmap(words, 4096);
  return total / count;
}

// The floor of a message between two awake cores: one cache line there and one back.
double cache_line_round_trip_ns(Placement where, int count) {
  auto* words = static_cast<std::atomic<uint32_t>*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  uint32_t last = static_cast<uint32_t>(count);
  auto await = [](std::atomic<uint32_t>& word, uint32_t value) {
    for (int spins = 0; word.load(std::memory_order_acquire) != value;) {
      if (++spins % 4096 == 0) sched_yield();
    }
  };
  pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    pin(where.child);
    for (uint32_t i = 1; i <= last; ++i) {
      await(words[0], i);
      words[64].store(i, std::memory_order_release);
    }
    _exit(0);
  }
  pin(where.parent);
  auto start = Clock::now();
  for (uint32_t i = 1; i <= last; ++i) {
    words[0].store(i, std::memory_order_release);
    await(words[64], i);
  }
  double total = ns_since(start);
  waitpid(pid, nullptr, 0);
  pin(-1);
  munmap(words, 4096);
  return total / count;
}

// A figure beside its floor, taken in turn so that both meet the same weather.
void row(const Report& report, const char* name, const char* unit, double scale,
         const std::function<double()>& measure, const char* floor_name,
         const std::function<double()>& floor) {
  std::vector<double> values, floors;
  for (int i = 0; i < report.rounds; ++i) {
    values.push_back(measure() * scale);
    if (floor) floors.push_back(floor() * scale);
  }
  std::string full = std::string("lane ") + name;
  double least = floor ? bench::spread(floors).median : 0;
  report.row(full.c_str(), unit, bench::spread(values), floor ? floor_name : nullptr, least);
}

}  // namespace

int main(int argc, char** argv) {
  Report report(argc, argv);
  double share = std::min(1.0, report.seconds / 0.5);
  auto times = [share](int full) { return std::max(50, static_cast<int>(full * share)); };
  SpinPolicy usual;
  usual.yield_spin = measure_wake_cost();
  double wake = static_cast<double>(usual.yield_spin.count()) / 1e3;
  report.row("lane wake cost, as measured at start", "us", {wake, wake, wake});

  Placement apart{0, 1}, together{0, 0}, free_choice{};
  constexpr double kHalfNsToUs = 0.5e-3, kNsToUs = 1e-3, kToMillions = 1e-6;
  auto lane = [&](Placement where, SpinPolicy policy, int count, nanoseconds gap = kNone) {
    return [=] { return round_trip_ns(where, policy, times(count), gap); };
  };
  auto futex = [&](Placement where, int count, nanoseconds gap = kNone) {
    return [=] { return futex_round_trip_ns(where, times(count), gap); };
  };
  auto trip = [&](const char* name, const std::function<double()>& measured,
                  const std::function<double()>& floor) {
    row(report, name, "us", kNsToUs, measured, "futex", floor);
  };
  if (sysconf(_SC_NPROCESSORS_ONLN) > 1) {
    row(report, "one way, both awake, two cores", "us", kHalfNsToUs,
        lane(apart, kNeverSleep, 200'000), "cache line",
        [&] { return cache_line_round_trip_ns(apart, times(200'000)); });
    trip("round trip, both asleep, two cores", lane(apart, kSleepAtOnce, 5000), futex(apart, 5000));
    constexpr std::chrono::milliseconds kGap{1};
    trip("round trip, asleep after 1 ms", lane(apart, usual, 300, kGap), futex(apart, 300, kGap));
  }
  trip("round trip, both asleep, one core", lane(together, kSleepAtOnce, 5000), futex(together, 5000));
  trip("round trip, usual spin, one core", lane(together, usual, 20'000), futex(together, 5000));
  trip("round trip, usual spin", lane(free_choice, usual, 50'000), futex(free_choice, 5000));
  for (size_t size : {size_t{24}, size_t{200}, size_t{4000}, size_t{64} << 10}) {
    std::string name = "pipelined, " + std::to_string(size) + " B each";
    int count = times(size < 1000 ? 2'000'000 : size < 10'000 ? 200'000 : 20'000);
    row(report, name.c_str(), "M/s", kToMillions,
        [&] { return pipelined_per_s(free_choice, usual, size, count); }, "", nullptr);
  }
}
