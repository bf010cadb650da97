// Metrics of one process: counters, gauges and histograms, printed as Prometheus text on request.
//
// A metric is registered once and updated through the returned reference, which lives as long as the registry;
// registering the same name and tags again returns the same metric. Updates are lock-free and thread-safe;
// registration and text() take a lock. Names are snake_case with the unit last (spill_bytes_total); every name gets
// the prefix "sheaf_" in the text.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace sheaf {

using MetricTags = std::map<std::string, std::string>;

class Counter {
 public:
  void add(uint64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

class Gauge {
 public:
  void set(int64_t v) { value_.store(v, std::memory_order_relaxed); }
  void add(int64_t n) { value_.fetch_add(n, std::memory_order_relaxed); }
  int64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{0};
};

// Counts of values at or under each bound. The sum is kept in whole units of the observed quantity.
class Histogram {
 public:
  explicit Histogram(std::vector<uint64_t> bounds);
  void observe(uint64_t value);
  const std::vector<uint64_t>& bounds() const { return bounds_; }
  // bounds().size() + 1 counts, the last one for values above every bound. Not cumulative.
  std::vector<uint64_t> counts() const;
  uint64_t sum() const { return sum_.load(std::memory_order_relaxed); }

 private:
  const std::vector<uint64_t> bounds_;  // ascending
  std::vector<std::atomic<uint64_t>> counts_;
  std::atomic<uint64_t> sum_{0};
};

// 1, 2, 4, ... `count` bounds starting at `first`.
std::vector<uint64_t> doubling_bounds(uint64_t first, size_t count);

class MetricRegistry {
 public:
  MetricRegistry() = default;
  MetricRegistry(const MetricRegistry&) = delete;
  // A name keeps its kind and help for ever: a second registration with another kind is a defect and stops the process.
  Counter& counter(const std::string& name, const std::string& help, const MetricTags& tags = {});
  Gauge& gauge(const std::string& name, const std::string& help, const MetricTags& tags = {});
  Histogram& histogram(const std::string& name, const std::string& help, std::vector<uint64_t> bounds,
                       const MetricTags& tags = {});
  std::string text() const;

 private:
  enum class Kind { kCounter, kGauge, kHistogram };
  struct Family {
    Kind kind;
    std::string help;
    std::map<MetricTags, size_t> members;  // index into the deque of its kind
  };
  Family& family(const std::string& name, const std::string& help, Kind kind);

  mutable std::mutex mutex_;  // guards everything below; the metrics themselves are atomic
  std::map<std::string, Family> families_;
  std::deque<Counter> counters_;  // deques: references stay valid
  std::deque<Gauge> gauges_;
  std::deque<Histogram> histograms_;
};

// The text format, for other sources of samples (metrics that users push).
void append_metric_family(std::string& out, std::string_view name, std::string_view help, std::string_view type);
void append_metric_sample(std::string& out, std::string_view name, const MetricTags& tags, double value);

}  // namespace sheaf
