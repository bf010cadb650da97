#include "launchers/metric_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace sheaf::launchers {

void MetricTable::sum_up(Series& into, const Series& what) {
  into.value += what.value;
  if (into.counts.size() < what.counts.size()) into.counts.resize(what.counts.size());
  for (size_t i = 0; i < what.counts.size(); ++i) into.counts[i] += what.counts[i];
}

void MetricTable::add(ProcessId process, const protocol::MetricsPush& push) {
  for (const protocol::MetricSample& s : push.samples) {
    Family& family = families_[s.name];
    family.kind = static_cast<MetricKind>(s.kind);
    family.help = s.help;
    family.bounds = s.bounds;
    auto& by_process = series_[{s.name, s.tags}];
    if (!by_process.contains(process)) {
      if (size_ >= kMetricSeriesMax) continue;
      ++size_;
    }
    by_process[process] = {s.value, s.counts};
  }
}

void MetricTable::process_died(ProcessId process) {
  for (auto& [key, by_process] : series_) {
    auto it = by_process.find(process);
    if (it == by_process.end()) continue;
    if (families_[key.first].kind != MetricKind::kGauge) {
      if (!by_process.contains(0)) ++size_;
      sum_up(by_process[0], it->second);
    }
    by_process.erase(process);
    --size_;
  }
  std::erase_if(series_, [](const auto& entry) { return entry.second.empty(); });
}

void MetricTable::append_text(std::string& out, const MetricTags& more) const {
  static constexpr std::string_view kTypes[] = {"counter", "gauge", "histogram"};
  std::string last;
  for (const auto& [key, by_process] : series_) {
    const std::string& name = key.first;
    MetricTags tags = key.second;
    tags.insert(more.begin(), more.end());
    const Family& family = families_.at(name);
    if (name != last)
      append_metric_family(out, name, family.help, kTypes[static_cast<size_t>(family.kind) % 3]);
    last = name;
    if (family.kind == MetricKind::kGauge) {
      for (const auto& [process, series] : by_process) {
        MetricTags with = tags;
        with["process"] = std::to_string(process);
        append_metric_sample(out, name, with, series.value);
      }
      continue;
    }
    Series total;
    for (const auto& [process, series] : by_process) sum_up(total, series);
    if (family.kind == MetricKind::kCounter) {
      append_metric_sample(out, name, tags, total.value);
      continue;
    }
    double seen = 0;
    for (size_t i = 0; i < total.counts.size(); ++i) {
      seen += total.counts[i];
      MetricTags with = tags;
      with["le"] = i < family.bounds.size() ? fmt::format("{}", family.bounds[i]) : "+Inf";
      append_metric_sample(out, name + "_bucket", with, seen);
    }
    append_metric_sample(out, name + "_sum", tags, total.value);
    append_metric_sample(out, name + "_count", tags, seen);
  }
}

std::string merge_metric_texts(const std::vector<std::string>& texts) {
  struct Family {
    std::string_view name;
    std::string words, samples;
  };
  std::vector<Family> families;   // as they come
  std::map<std::string_view, size_t> known;
  for (const std::string& text : texts) {
    size_t current = SIZE_MAX;
    bool told = false;            // its words are those of an earlier text
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size() - 1);
      const std::string_view line = std::string_view(text).substr(at, end + 1 - at);
      at = end + 1;
      if (line.starts_with("# ")) {
        const size_t from = line.find(' ', 2) + 1;
        const std::string_view name = line.substr(from, line.find(' ', from) - from);
        auto [it, fresh] = known.try_emplace(name, families.size());
        if (fresh) families.push_back({name, {}, {}});
        if (fresh || it->second != current) told = !fresh;
        current = it->second;
        if (!told) families[current].words += line;
      } else if (current != SIZE_MAX) {
        families[current].samples += line;
      }
    }
  }
  std::string out;
  for (const Family& family : families) out.append(family.words).append(family.samples);
  return out;
}

}  // namespace sheaf::launchers
