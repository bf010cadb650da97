// Logging: a Logger is a component's name and a shared sink; lines go to stderr or to a rotated file.
//
// A default-made Logger drops everything, so that a class can take one without its tests caring. A line below the
// sink's level costs one load and a compare. Loggers are values; sinks are shared and thread-safe. Never log on the
// path of a single task: use a metric or a trace event there, or limited().
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "core/status.h"

namespace sheaf {

enum class LogLevel : uint8_t { kTrace = 0, kDebug = 1, kInfo = 2, kWarning = 3, kError = 4, kOff = 5 };

std::string_view to_string(LogLevel level);
// "trace", "debug", "info", "warning", "error", "off".
Result<LogLevel> parse_log_level(std::string_view text);

class LogSink {
 public:
  virtual ~LogSink() = default;
  virtual void write(LogLevel level, std::string_view component, std::string_view text) = 0;
  virtual void flush() = 0;

  LogLevel level() const { return level_.load(std::memory_order_relaxed); }
  void set_level(LogLevel level) { level_.store(level, std::memory_order_relaxed); }

 private:
  std::atomic<LogLevel> level_{LogLevel::kInfo};
};

std::shared_ptr<LogSink> make_stderr_sink(LogLevel level);
// Rotates to <path>.1, .2, ... at `max_bytes`, keeping `keep` old files. Warnings and errors are flushed at once,
// the rest within a second by the next line, or by flush().
Result<std::shared_ptr<LogSink>> make_file_sink(const std::string& path, LogLevel level, size_t max_bytes = 64 << 20,
                                                size_t keep = 3);

// One of these stands beside each call that could flood. Thread-safe.
class LogRateLimit {
 public:
  explicit LogRateLimit(std::chrono::nanoseconds interval) : interval_(interval) {}
  // True at most once an interval; then *suppressed is the number of refusals since the last time.
  bool allow(std::chrono::steady_clock::time_point now, uint64_t* suppressed);

 private:
  const std::chrono::nanoseconds interval_;
  std::atomic<int64_t> next_ns_{0};
  std::atomic<uint64_t> suppressed_{0};
};

class Logger {
 public:
  Logger() = default;
  Logger(std::string component, std::shared_ptr<LogSink> sink)
      : component_(std::move(component)), sink_(std::move(sink)) {}
  // The same sink under another name.
  Logger named(std::string component) const { return Logger(std::move(component), sink_); }

  bool enabled(LogLevel level) const { return sink_ && level >= sink_->level(); }
  void log(LogLevel level, std::string_view text) const {
    if (enabled(level)) sink_->write(level, component_, text);
  }
  void debug(std::string_view text) const { log(LogLevel::kDebug, text); }
  void info(std::string_view text) const { log(LogLevel::kInfo, text); }
  void warning(std::string_view text) const { log(LogLevel::kWarning, text); }
  void error(std::string_view text) const { log(LogLevel::kError, text); }
  // As log(), at most once an interval; the next line says how many were left out.
  void limited(LogRateLimit& limit, LogLevel level, std::string_view text) const;
  void flush() const {
    if (sink_) sink_->flush();
  }

 private:
  std::string component_;
  std::shared_ptr<LogSink> sink_;
};

}  // namespace sheaf

// SHEAF_LOG(log_, kInfo, "worker {} is up after {} ms", pid, ms): formats only when the level is on. The source file
// includes <fmt/core.h> itself.
#define SHEAF_LOG(logger, level, ...)                                          \
  do {                                                                         \
    if ((logger).enabled(::sheaf::LogLevel::level))                            \
      (logger).log(::sheaf::LogLevel::level, ::fmt::format(__VA_ARGS__));      \
  } while (0)
