#include "core/log.h"

#include <spdlog/sinks/rotating_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace sheaf {
namespace {

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kTrace: return spdlog::level::trace;
    case LogLevel::kDebug: return spdlog::level::debug;
    case LogLevel::kInfo: return spdlog::level::info;
    case LogLevel::kWarning: return spdlog::level::warn;
    case LogLevel::kError: return spdlog::level::err;
    case LogLevel::kOff: return spdlog::level::off;
  }
  return spdlog::level::off;
}

// Wraps one spdlog sink; spdlog's own registry of loggers and its global settings are not used.
class SpdlogSink : public LogSink {
 public:
  SpdlogSink(std::shared_ptr<spdlog::sinks::sink> sink, LogLevel level) : sink_(std::move(sink)) {
    sink_->set_pattern("%Y-%m-%dT%H:%M:%S.%f%z %P %L %n: %v");
    set_level(level);
  }
  void write(LogLevel level, std::string_view component, std::string_view text) override {
    spdlog::details::log_msg message(spdlog::string_view_t(component.data(), component.size()),
                                     to_spdlog(level),
                                     spdlog::string_view_t(text.data(), text.size()));
    try {
      sink_->log(message);
      if (level >= LogLevel::kWarning || due_for_flush(message.time)) sink_->flush();
    } catch (const std::exception&) {
      // A full disk must not stop a daemon: the line is lost.
    }
  }
  void flush() override {
    try {
      sink_->flush();
    } catch (const std::exception&) {
    }
  }

 private:
  bool due_for_flush(spdlog::log_clock::time_point now) {
    int64_t second =
        std::chrono::duration_cast<std::chrono::seconds>(now.time_since_epoch()).count();
    return flushed_second_.exchange(second, std::memory_order_relaxed) != second;
  }

  std::shared_ptr<spdlog::sinks::sink> sink_;
  std::atomic<int64_t> flushed_second_{0};
};

}  // namespace

std::string_view to_string(LogLevel level) {
  switch (level) {
    case LogLevel::kTrace: return "trace";
    case LogLevel::kDebug: return "debug";
    case LogLevel::kInfo: return "info";
    case LogLevel::kWarning: return "warning";
    case LogLevel::kError: return "error";
    case LogLevel::kOff: return "off";
  }
  return "unknown";
}

Result<LogLevel> parse_log_level(std::string_view text) {
  for (LogLevel level : {LogLevel::kTrace, LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarning,
                         LogLevel::kError, LogLevel::kOff}) {
    if (text == to_string(level)) return level;
  }
  return Status(StatusCode::kInvalidArgument,
                "unknown log level '" + std::string(text) +
                    "': use trace, debug, info, warning, error or off");
}

std::shared_ptr<LogSink> make_stderr_sink(LogLevel level) {
  return std::make_shared<SpdlogSink>(std::make_shared<spdlog::sinks::stderr_sink_mt>(), level);
}

Result<std::shared_ptr<LogSink>> make_file_sink(const std::string& path, LogLevel level,
                                                size_t max_bytes, size_t keep) {
  try {
    auto sink = std::make_shared<spdlog::sinks::rotating_file_sink_mt>(path, max_bytes, keep);
    return std::shared_ptr<LogSink>(std::make_shared<SpdlogSink>(std::move(sink), level));
  } catch (const std::exception& error) {
    return Status(StatusCode::kInvalidArgument,
                  "cannot open log file " + path + ": " + error.what());
  }
}

bool LogRateLimit::allow(std::chrono::steady_clock::time_point now, uint64_t* suppressed) {
  int64_t now_ns = std::chrono::nanoseconds(now.time_since_epoch()).count();
  int64_t next = next_ns_.load(std::memory_order_relaxed);
  if (now_ns < next || !next_ns_.compare_exchange_strong(next, now_ns + interval_.count(),
                                                         std::memory_order_relaxed)) {
    suppressed_.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
  *suppressed = suppressed_.exchange(0, std::memory_order_relaxed);
  return true;
}

void Logger::limited(LogRateLimit& limit, LogLevel level, std::string_view text) const {
  if (!enabled(level)) return;
  uint64_t suppressed = 0;
  if (!limit.allow(std::chrono::steady_clock::now(), &suppressed)) return;
  if (suppressed == 0) {
    log(level, text);
  } else {
    log(level, std::string(text) + " (and " + std::to_string(suppressed) + " like it before)");
  }
}

}  // namespace sheaf
