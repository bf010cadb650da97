#include "core/log.h"

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace sheaf {
namespace {

using namespace std::chrono_literals;

struct Lines : LogSink {
  void write(LogLevel level, std::string_view component, std::string_view text) override {
    out.push_back(std::string(to_string(level)) + " " + std::string(component) + ": " +
                  std::string(text));
  }
  void flush() override {}
  std::vector<std::string> out;
};

std::string read_file(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

struct TempDir {
  TempDir() : path(testing::TempDir() + "sheaf_log_test_" + std::to_string(::getpid())) {
    std::filesystem::create_directories(path);
  }
  ~TempDir() { std::filesystem::remove_all(path); }
  std::string path;
};

TEST(LogTest, LinesBelowTheLevelAreNeverFormatted) {
  auto sink = std::make_shared<Lines>();
  Logger log("agent", sink);
  int formatted = 0;
  auto expensive = [&] { return ++formatted; };
  SHEAF_LOG(log, kDebug, "n = {}", expensive());
  SHEAF_LOG(log, kInfo, "n = {}", expensive());
  log.named("store").warning("full");
  EXPECT_EQ(formatted, 1);
  EXPECT_EQ(sink->out, (std::vector<std::string>{"info agent: n = 1", "warning store: full"}));
  Logger().error("goes nowhere");
}

TEST(LogTest, FloodBecomesOneLineWithACount) {
  LogRateLimit limit(1h);
  auto now = std::chrono::steady_clock::time_point(1000h);
  uint64_t suppressed = 99;
  EXPECT_TRUE(limit.allow(now, &suppressed));
  EXPECT_EQ(suppressed, 0u);
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(limit.allow(now + 59min, &suppressed));
  EXPECT_TRUE(limit.allow(now + 1h, &suppressed));
  EXPECT_EQ(suppressed, 5u);
}

TEST(LogTest, FileSinkWritesTimeLevelAndComponentAndRotates) {
  TempDir dir;
  std::string path = dir.path + "/sheafd.log";
  auto sink = make_file_sink(path, LogLevel::kInfo, 4096, 2);
  ASSERT_TRUE(sink.has_value()) << sink.status().to_string();
  Logger log("store", *sink);
  log.warning("first line");
  EXPECT_NE(read_file(path).find(" W store: first line\n"), std::string::npos);
  for (int i = 0; i < 200; ++i) log.info(std::string(100, 'x'));
  log.flush();
  EXPECT_LE(std::filesystem::file_size(path), 4096u);
  EXPECT_TRUE(std::filesystem::exists(dir.path + "/sheafd.1.log"));
  EXPECT_FALSE(std::filesystem::exists(dir.path + "/sheafd.3.log"));
}

TEST(LogTest, UnwritableFileIsAnError) {
  EXPECT_FALSE(make_file_sink("/proc/no/such/file.log", LogLevel::kInfo).has_value());
}

TEST(LogTest, LevelsHaveNamesBothWays) {
  for (LogLevel level : {LogLevel::kTrace, LogLevel::kWarning, LogLevel::kOff}) {
    EXPECT_EQ(*parse_log_level(to_string(level)), level);
  }
  EXPECT_FALSE(parse_log_level("loud").has_value());
}

}  // namespace
}  // namespace sheaf
