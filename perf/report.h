// How the benchmark programs print a figure: a line for people, or JSON (--json) for the suite, which reads
// {name, unit, median, low, high, n, floor, floor_name}.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace bench {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Spread {
  double median = 0, low = 0, high = 0;
};

inline Spread spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {values[values.size() / 2], values.front(), values.back()};
}

// `program [--json] [seconds a round] [rounds]`.
struct Report {
  bool json = false;
  double seconds = 0.5;
  int rounds = 5;

  Report(int argc, char** argv) {
    for (int i = 1, place = 0; i < argc; ++i) {
      if (std::strcmp(argv[i], "--json") == 0) json = true;
      else if (place++ == 0) seconds = std::max(0.01, std::atof(argv[i]));
      else rounds = std::max(1, std::atoi(argv[i]));
    }
  }

  // `floor_name` null: there is none.
  void row(const char* name, const char* unit, const Spread& s, const char* floor_name = nullptr,
           double floor = 0) const {
    if (json) {
      std::printf("{\"name\": \"%s\", \"unit\": \"%s\", \"median\": %.9g, \"low\": %.9g, \"high\": %.9g, \"n\": %d", name,
                  unit, s.median, s.low, s.high, rounds);
      if (floor_name) std::printf(", \"floor\": %.9g, \"floor_name\": \"%s\"", floor, floor_name);
      std::printf("}\n");
    } else {
      std::printf("%-46s %11.3f %-5s (%.3f..%.3f)", name, s.median, unit, s.low, s.high);
      if (floor_name) std::printf("   floor %.3f %s, %s", floor, unit, floor_name);
      std::printf("\n");
    }
    std::fflush(stdout);
  }

  // Seconds of one operation; `body(n)` does n of them.
  template <class F>
  Spread measure(F body) const {
    body(10);
    size_t n = 1;
    for (;; n *= 2) {   // as many as fill a share of the time
      auto start = Clock::now();
      body(n);
      if (seconds_since(start) > seconds / rounds / 2) break;
    }
    std::vector<double> each;
    for (int i = 0; i < rounds; ++i) {
      auto start = Clock::now();
      body(n);
      each.push_back(seconds_since(start) / static_cast<double>(n));
    }
    return spread(each);
  }
};

inline Spread scaled(const Spread& s, double by) { return {s.median * by, s.low * by, s.high * by}; }
// Of a time: how many a second, in units of `each`.
inline Spread rate(const Spread& s, double each = 1) { return {each / s.median, each / s.high, each / s.low}; }

}  // namespace bench
