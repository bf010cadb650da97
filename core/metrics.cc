#include "core/metrics.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "core/status.h"

namespace sheaf {
namespace {

constexpr std::string_view kNamePrefix = "sheaf_";

std::string escape(std::string_view text, bool quotes) {
  std::string out;
  for (char c : text) {
    if (c == '\\')
      out += "\\\\";
    else if (c == '\n')
      out += "\\n";
    else if (c == '"' && quotes)
      out += "\\\"";
    else
      out += c;
  }
  return out;
}

std::string format_number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  char buffer[40];
  bool whole = std::abs(value) < 1e15 && value == std::floor(value);
  std::snprintf(buffer, sizeof buffer, whole ? "%.0f" : "%.17g", value);
  return buffer;
}

void append_histogram(std::string& out, const std::string& name, MetricTags tags,
                      const Histogram& h) {
  uint64_t cumulative = 0;
  std::vector<uint64_t> counts = h.counts();
  for (size_t i = 0; i < counts.size(); ++i) {
    cumulative += counts[i];
    tags["le"] = i < h.bounds().size() ? std::to_string(h.bounds()[i]) : "+Inf";
    append_metric_sample(out, name + "_bucket", tags, static_cast<double>(cumulative));
  }
  tags.erase("le");
  append_metric_sample(out, name + "_sum", tags, static_cast<double>(h.sum()));
  append_metric_sample(out, name + "_count", tags, static_cast<double>(cumulative));
}

}  // namespace

Histogram::Histogram(std::vector<uint64_t> bounds)
    : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {
  SHEAF_CHECK(std::is_sorted(bounds_.begin(), bounds_.end()));
}

void Histogram::observe(uint64_t value) {
  auto it = std::lower_bound(bounds_.begin(), bounds_.end(), value);
  counts_[static_cast<size_t>(it - bounds_.begin())].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

std::vector<uint64_t> Histogram::counts() const {
  std::vector<uint64_t> out;
  for (const auto& c : counts_) out.push_back(c.load(std::memory_order_relaxed));
  return out;
}

std::vector<uint64_t> doubling_bounds(uint64_t first, size_t count) {
  std::vector<uint64_t> bounds;
  for (size_t i = 0; i < count; ++i) bounds.push_back(first << i);
  return bounds;
}

MetricRegistry::Family& MetricRegistry::family(const std::string& name, const std::string& help,
                                               Kind kind) {
  auto [it, added] = families_.try_emplace(name, Family{kind, help, {}});
  SHEAF_CHECK(it->second.kind == kind);
  return it->second;
}

Counter& MetricRegistry::counter(const std::string& name, const std::string& help,
                                 const MetricTags& tags) {
  std::lock_guard lock(mutex_);
  auto [it, added] = family(name, help, Kind::kCounter).members.try_emplace(tags, counters_.size());
  return added ? counters_.emplace_back() : counters_[it->second];
}

Gauge& MetricRegistry::gauge(const std::string& name, const std::string& help,
                             const MetricTags& tags) {
  std::lock_guard lock(mutex_);
  auto [it, added] = family(name, help, Kind::kGauge).members.try_emplace(tags, gauges_.size());
  return added ? gauges_.emplace_back() : gauges_[it->second];
}

Histogram& MetricRegistry::histogram(const std::string& name, const std::string& help,
                                     std::vector<uint64_t> bounds, const MetricTags& tags) {
  std::lock_guard lock(mutex_);
  auto [it, added] =
      family(name, help, Kind::kHistogram).members.try_emplace(tags, histograms_.size());
  return added ? histograms_.emplace_back(std::move(bounds)) : histograms_[it->second];
}

std::string MetricRegistry::text() const {
  std::lock_guard lock(mutex_);
  std::string out;
  for (const auto& [name, family] : families_) {
    const char* type = family.kind == Kind::kCounter ? "counter"
                       : family.kind == Kind::kGauge ? "gauge"
                                                     : "histogram";
    append_metric_family(out, name, family.help, type);
    for (const auto& [tags, index] : family.members) {
      switch (family.kind) {
        case Kind::kCounter:
          append_metric_sample(out, name, tags, static_cast<double>(counters_[index].value()));
          break;
        case Kind::kGauge:
          append_metric_sample(out, name, tags, static_cast<double>(gauges_[index].value()));
          break;
        case Kind::kHistogram: append_histogram(out, name, tags, histograms_[index]); break;
      }
    }
  }
  return out;
}

void append_metric_family(std::string& out, std::string_view name, std::string_view help,
                          std::string_view type) {
  std::string full = std::string(kNamePrefix) + std::string(name);
  out += "# HELP " + full + " " + escape(help, false) + "\n# TYPE " + full + " " +
         std::string(type) + "\n";
}

void append_metric_sample(std::string& out, std::string_view name, const MetricTags& tags,
                          double value) {
  out += kNamePrefix;
  out += name;
  if (!tags.empty()) {
    char separator = '{';
    for (const auto& [key, text] : tags) {
      out += separator;
      out += key + "=\"" + escape(text, true) + "\"";
      separator = ',';
    }
    out += '}';
  }
  out += ' ' + format_number(value) + '\n';
}

}  // namespace sheaf
