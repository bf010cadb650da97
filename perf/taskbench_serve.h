// What the Task Bench programs share: the compute-bound kernel, and the requests that the suite makes of them, a line of
// text each, answered by one ("ok ..." or "error ...").
//
//   graph PATTERN WIDTH STEPS ITERATIONS   -> ok SECONDS TASKS     runs it; every task checks its inputs
//   calibrate SECONDS THREADS              -> ok ITERATIONS_PER_S  the kernel alone on so many threads
//   inputs PATTERN WIDTH STEPS             -> ok i,j;k;...         every point's inputs, row by row
//   end
#pragma once

#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "perf/taskbench_graph.h"

namespace taskbench {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// `iterations` rounds of 64 multiply-adds on data in the first-level cache. Not to be optimised away.
inline double compute(int64_t iterations) {
  double a[64];
  for (double& x : a) x = 0.5;
  for (int64_t n = 0; n < iterations; ++n) {
    for (double& x : a) x = x * 0.999 + 0.0005;
    asm volatile("" : : "r"(a) : "memory");
  }
  return a[0];
}

inline double calibrate(double seconds, int threads) {
  constexpr int64_t kBatch = 1000;
  std::atomic<int64_t> total{0};
  std::vector<std::thread> all;
  auto start = Clock::now();
  for (int i = 0; i < threads; ++i) {
    all.emplace_back([&] {
      while (seconds_since(start) < seconds) {
        compute(kBatch);
        total += kBatch;
      }
    });
  }
  for (auto& t : all) t.join();
  return static_cast<double>(total.load()) / seconds_since(start);
}

// Runs a graph; seconds it took, or a negative number when a task found wrong inputs.
using RunGraph = std::function<double(const Shape& shape, int64_t iterations)>;

inline std::string all_inputs(const Shape& shape) {
  std::ostringstream out;
  for (int64_t t = 0; t < shape.steps; ++t) {
    for (int64_t i = 0; i < shape.width_at(t); ++i) {
      int64_t found[kMaxInputs];
      int n = shape.inputs(t, i, found);
      for (int k = 0; k < n; ++k) out << (k ? "," : "") << found[k];
      out << ';';
    }
  }
  return out.str();
}

inline int64_t count_tasks(const Shape& shape) {
  int64_t n = 0;
  for (int64_t t = 0; t < shape.steps; ++t) n += shape.width_at(t);
  return n;
}

inline std::string answer(const std::string& request, const RunGraph& run) {
  std::istringstream words(request);
  std::string what, pattern;
  words >> what;
  std::ostringstream out;
  out.precision(9);
  if (what == "calibrate") {
    double seconds = 0;
    int threads = 0;
    words >> seconds >> threads;
    out << "ok " << calibrate(seconds, threads);
    return out.str();
  }
  Shape shape;
  int64_t iterations = 0;
  words >> pattern >> shape.width >> shape.steps;
  if (!words || !parse_pattern(pattern, &shape.pattern) || shape.width < 1) return "error not a request";
  if (what == "inputs") return "ok " + all_inputs(shape);
  words >> iterations;
  if (what != "graph" || !words) return "error not a request";
  double seconds = run(shape, iterations);
  if (seconds < 0) return "error a task found wrong inputs";
  out << "ok " << seconds << ' ' << count_tasks(shape);
  return out.str();
}

inline void serve(const RunGraph& run) {
  for (std::string line; std::getline(std::cin, line) && line != "end";) {
    std::cout << answer(line, run) << std::endl;
  }
}

}  // namespace taskbench
