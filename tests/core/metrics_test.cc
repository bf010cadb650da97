#include "core/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>

namespace sheaf {
namespace {

TEST(MetricsTest, TextIsPrometheusFormat) {
  MetricRegistry registry;
  registry.counter("tasks_total", "Tasks run.", {{"kind", "actor \"x\"\n"}}).add(3);
  registry.gauge("workers", "Worker processes.").set(-2);
  Histogram& h = registry.histogram("wait_us", "Waiting.", {10, 100});
  for (uint64_t v : {1, 10, 11, 1000}) h.observe(v);
  EXPECT_EQ(
      registry.text(),
      "# HELP sheaf_tasks_total Tasks run.\n# TYPE sheaf_tasks_total counter\n"
      "sheaf_tasks_total{kind=\"actor \\\"x\\\"\\n\"} 3\n"
      "# HELP sheaf_wait_us Waiting.\n# TYPE sheaf_wait_us histogram\n"
      "sheaf_wait_us_bucket{le=\"10\"} 2\nsheaf_wait_us_bucket{le=\"100\"} 3\n"
      "sheaf_wait_us_bucket{le=\"+Inf\"} 4\nsheaf_wait_us_sum 1022\nsheaf_wait_us_count 4\n"
      "# HELP sheaf_workers Worker processes.\n# TYPE sheaf_workers gauge\nsheaf_workers -2\n");
}

TEST(MetricsTest, SameNameAndTagsAreOneMetric) {
  MetricRegistry registry;
  Counter& a = registry.counter("x_total", "");
  Counter& b = registry.counter("x_total", "");
  EXPECT_EQ(&a, &b);
  EXPECT_NE(&a, &registry.counter("x_total", "", {{"k", "v"}}));
}

TEST(MetricsTest, ConcurrentUpdatesAreNotLost) {
  MetricRegistry registry;
  Counter& counter = registry.counter("n_total", "");
  Histogram& histogram = registry.histogram("h", "", doubling_bounds(1, 10));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (uint64_t i = 0; i < 10000; ++i) {
        counter.add();
        histogram.observe(i);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(counter.value(), 40000u);
  uint64_t total = 0;
  for (uint64_t c : histogram.counts()) total += c;
  EXPECT_EQ(total, 40000u);
}

TEST(MetricsTest, NumbersThatAreNone) {
  std::string out;
  append_metric_sample(out, "x", {}, std::nan(""));
  append_metric_sample(out, "x", {}, -INFINITY);
  append_metric_sample(out, "x", {}, 0.1);
  EXPECT_EQ(out, "sheaf_x NaN\nsheaf_x -Inf\nsheaf_x 0.10000000000000001\n");
}

TEST(MetricsDeathTest, OneNameHasOneKind) {
  MetricRegistry registry;
  registry.counter("x", "");
  EXPECT_DEATH(registry.gauge("x", ""), "check failed");
}

}  // namespace
}  // namespace sheaf
