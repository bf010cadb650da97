// Metrics that processes push, summed up for the node: counters and histograms over all processes
// that ever lived, gauges of those that live, each with a `process` tag. Owned by the loop.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/ids.h"
#include "core/metrics.h"
#include "scheduler/protocol.h"

namespace sheaf::launchers {

inline constexpr size_t kMetricSeriesMax = 20000;  // of all processes; later ones are not taken

// MetricSample::kind.
enum class MetricKind : uint8_t { kCounter = 0, kGauge = 1, kHistogram = 2 };

class MetricTable {
 public:
  // Values are totals since the process began, not differences.
  void add(ProcessId process, const protocol::MetricsPush& push);
  void process_died(ProcessId process);
  // Every sample gets the tags `more`; a tag of that name that the user has given stays.
  void append_text(std::string& out, const MetricTags& more) const;

 private:
  using Key = std::pair<std::string, std::map<std::string, std::string>>;  // name, tags
  struct Series {
    double value = 0;
    std::vector<double> counts;
  };
  struct Family {
    MetricKind kind = MetricKind::kGauge;
    std::string help;
    std::vector<double> bounds;
  };
  static void sum_up(Series& into, const Series& what);

  std::map<std::string, Family> families_;
  std::map<Key, std::map<ProcessId, Series>> series_;  // process 0: the sum of the dead
  size_t size_ = 0;
};

// Texts of several nodes as one: the samples of a family stand together, under the first node's
// words about it.
std::string merge_metric_texts(const std::vector<std::string>& texts);

}  // namespace sheaf::launchers
