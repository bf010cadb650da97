// The daemon's small parts by themselves.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "launchers/clients.h"
#include "launchers/join.h"
#include "launchers/log_router.h"
#include "launchers/memory_monitor.h"
#include "launchers/metric_table.h"
#include "launchers/node_resources.h"
#include "launchers/session.h"
#include "launchers/task_table.h"
#include "launchers/worker_spawner.h"

namespace sheaf::launchers {
namespace {

class FilesTest : public ::testing::Test {
 protected:
  FilesTest() {
    char path[] = "/tmp/sheaf-parts-XXXXXX";
    root = mkdtemp(path);
  }
  ~FilesTest() override { remove_tree(root); }
  void write(const std::string& name, const std::string& text) {
    for (size_t at = 1; (at = name.find('/', at)) != std::string::npos; ++at) {
      mkdir((root + "/" + name.substr(0, at)).c_str(), 0700);
    }
    std::ofstream(root + "/" + name) << text;
  }
  std::string root;
};

TEST(LaneNumbersTest, GivesTheLowestFreeNumberAndNeverZero) {
  LaneNumbers numbers;
  EXPECT_EQ(numbers.take(), 1u);
  EXPECT_EQ(numbers.take(), 2u);
  numbers.give_back(1);
  EXPECT_EQ(numbers.take(), 1u);
  while (numbers.take() != 0) {
  }
  numbers.give_back(4095);
  EXPECT_EQ(numbers.take(), 4095u);
  EXPECT_EQ(numbers.take(), 0u);
}

TEST(WaitStatusTest, SaysHowAProcessEnded) {
  EXPECT_EQ(describe_wait_status(9), "was killed by signal 9 (Killed)");
  EXPECT_EQ(describe_wait_status(3 << 8), "exited with code 3");
}

TEST_F(FilesTest, CpusFollowTheTightestQuota) {
  NodeSources sources{root + "/cgroup", root + "/fs", root + "/dev"};
  write("cgroup", "0::/a/b\n");
  write("fs/a/cpu.max", "50000 100000\n");
  write("fs/a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(available_cpus(sources), 1u);
  write("cgroup", "4:cpu,cpuacct:/a\n");
  write("fs/cpu,cpuacct/a/cpu.cfs_quota_us", "-1\n");
  write("fs/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
  EXPECT_GE(available_cpus(sources), 1u);
}

TEST_F(FilesTest, GpusAreCountedByDeviceFile) {
  unsetenv("CUDA_VISIBLE_DEVICES");
  for (const char* name :
       {"dev/nvidia0", "dev/nvidia1", "dev/nvidiactl", "dev/nvidia-uvm", "dev/null"})
    write(name, "");
  NodeSources sources;
  sources.dev = root + "/dev";
  EXPECT_EQ(visible_gpus(sources), 2u);
  setenv("CUDA_VISIBLE_DEVICES", "3,5,7", 1);
  EXPECT_EQ(visible_gpus(sources), 3u);
  setenv("CUDA_VISIBLE_DEVICES", "", 1);
  EXPECT_EQ(visible_gpus(sources), 0u);
  unsetenv("CUDA_VISIBLE_DEVICES");
}

TEST(NodeOfferTest, TakesOverridesAndRefusesNonsense) {
  Config config;
  NodeOverrides overrides;
  overrides.num_cpus = 2.5;
  overrides.num_gpus = 0;
  overrides.resources = R"({"special": 3, "half": 0.5})";
  overrides.labels = R"({"zone": "a"})";
  auto offer = node_offer(config, overrides, NodeId{1, 2}, 1 << 20);
  ASSERT_TRUE(offer) << offer.status().to_string();
  EXPECT_EQ(offer->resources.at("CPU"), 25000);
  EXPECT_EQ(offer->resources.at("half"), 5000);
  EXPECT_FALSE(offer->resources.contains("GPU"));
  EXPECT_EQ(offer->labels.at("zone"), "a");
  for (const char* bad : {"[1]", "{\"a\": -1}", "{\"a\": \"x\"}", "{"}) {
    overrides.resources = bad;
    EXPECT_FALSE(node_offer(config, overrides, NodeId{1, 2}, 0)) << bad;
  }
}

TEST_F(FilesTest, MemoryIsMeasuredAgainstTheTightestLimit) {
  write("meminfo", "MemTotal: 1000 kB\nMemAvailable: 900 kB\n");
  write("cgroup", "0::/a\n");
  write("fs/a/memory.max", "100000\n");
  write("fs/a/memory.current", "99000\n");
  write("fs/a/memory.stat", "anon 1\ninactive_file 9000\n");
  MemoryUsage usage = MemoryMonitor(root + "/cgroup", root + "/fs", root + "/meminfo").read();
  EXPECT_EQ(usage.limit, 100000u);
  EXPECT_EQ(usage.used, 90000u);
  write("fs/a/memory.max", "max\n");
  usage = MemoryMonitor(root + "/cgroup", root + "/fs", root + "/meminfo").read();
  EXPECT_EQ(usage.limit, 1000u * 1024);
  EXPECT_DOUBLE_EQ(usage.fraction(), 0.1);
}

protocol::TaskEvents event(uint64_t n, protocol::TaskEventState state, int64_t start, int64_t end) {
  protocol::TaskEvents events;
  events.events.push_back({TaskId{1, n}, state, 0, 0, start, end, {}, "f", ""});
  return events;
}

TEST(TaskTableTest, PutsEventsTogetherWhateverTheirOrder) {
  TaskTable table(10);
  table.add(event(1, protocol::TaskEventState::kFinished, 5, 9), 7, 70, 1, true);
  table.add(event(1, protocol::TaskEventState::kSubmitted, 2, 0), 3, 30, 1, false);
  ASSERT_EQ(table.rows().size(), 1u);
  const TaskRow& row = table.rows().front();
  EXPECT_EQ(row.state, protocol::TaskEventState::kFinished);
  EXPECT_EQ(row.submitted_ns, 2);
  EXPECT_EQ(row.start_ns, 5);
  EXPECT_EQ(row.worker, 7u);
  EXPECT_EQ(table.finished_total(), 1u);
}

TEST(TaskTableTest, KeepsTheNewestAndCountsTheRest) {
  TaskTable table(3);
  for (uint64_t n = 1; n <= 5; ++n)
    table.add(event(n, protocol::TaskEventState::kRunning, 1, 0), 7, 70, 1, true);
  EXPECT_EQ(table.rows().size(), 3u);
  EXPECT_EQ(table.rows().front().task.lo, 5u);
  EXPECT_EQ(table.dropped(), 2u);
  table.worker_died(7, "gone");
  EXPECT_EQ(table.failed_total(), 3u);
}

TEST(MetricTableTest, CountersOutliveTheirProcessAndGaugesDoNot) {
  MetricTable table;
  protocol::MetricsPush push;
  push.samples.push_back({"n", "count", 0, {}, 5, {}, {}});
  push.samples.push_back({"g", "gauge", 1, {}, 7, {}, {}});
  push.samples.push_back({"h", "histogram", 2, {}, 3, {1, 2}, {1, 0, 2}});
  table.add(2, push);
  table.add(3, push);
  table.process_died(2);
  std::string text;
  table.append_text(text, {{"node_id", "a"}});
  EXPECT_NE(text.find("n{node_id=\"a\"} 10"), std::string::npos) << text;
  EXPECT_EQ(text.find("process=\"2\""), std::string::npos) << text;
  EXPECT_NE(text.find("le=\"+Inf\",node_id=\"a\"} 6"), std::string::npos) << text;
}

TEST(MetricTableTest, ATagOfTheUsersStays) {
  MetricTable table;
  protocol::MetricsPush push;
  push.samples.push_back({"n", "count", 0, {{"node_id", "mine"}}, 5, {}, {}});
  table.add(2, push);
  std::string text;
  table.append_text(text, {{"node_id", "a"}});
  EXPECT_NE(text.find("n{node_id=\"mine\"} 5"), std::string::npos) << text;
}

// What a scraper refuses: a family whose samples stand in two places, or that is described twice.
TEST(MetricTableTest, AFamilyOfSeveralNodesStandsTogether) {
  const std::string one = "# HELP x Of x.\n# TYPE x gauge\nx{n=\"1\"} 1\n"
                          "# HELP y Of y.\n# TYPE y counter\ny{n=\"1\"} 2\n";
  const std::string two = "# HELP y Else.\n# TYPE y counter\ny{n=\"2\"} 3\n"
                          "# HELP x Of x.\n# TYPE x gauge\nx{n=\"2\"} 4\nx{n=\"2\",k=\"v\"} 5\n"
                          "# HELP z Of z.\n# TYPE z gauge\nz{n=\"2\"} 6";
  EXPECT_EQ(merge_metric_texts({one, two, ""}),
            "# HELP x Of x.\n# TYPE x gauge\nx{n=\"1\"} 1\nx{n=\"2\"} 4\nx{n=\"2\",k=\"v\"} 5\n"
            "# HELP y Of y.\n# TYPE y counter\ny{n=\"1\"} 2\ny{n=\"2\"} 3\n"
            "# HELP z Of z.\n# TYPE z gauge\nz{n=\"2\"} 6");
  EXPECT_EQ(merge_metric_texts({one}), one);
  EXPECT_EQ(merge_metric_texts({}), "");
}

// ---- Addresses

TEST(ListenAddressTest, PortsAndIPv6AreTakenApart) {
  const auto read = [](const std::string& text) -> std::string {
    auto address = listen_address(text, "");
    return address ? to_string(*address) : address.status().to_string();
  };
  EXPECT_EQ(read("10.0.0.1:4711"), "10.0.0.1:4711");
  EXPECT_EQ(read("10.0.0.1:0"), "10.0.0.1:0");
  EXPECT_EQ(read("10.0.0.1"), "10.0.0.1:0");
  for (const char* any_port : {"::1", "[::1]", "[::1]:0"}) EXPECT_EQ(read(any_port), "[::1]:0");
  EXPECT_EQ(read("[::1]:4711"), "[::1]:4711");
  EXPECT_EQ(read("fd00::1:2"), "[fd00::1:2]:0");   // nothing says that 2 is a port
  EXPECT_NE(read("fd00:::0").find("'fd00:::0' is no address"), std::string::npos);
  for (const char* wrong :
       {"host", "host:1", ":1", "[::1]:", "[::1]:70000", "[]:1", "10.0.0.1:x"}) {
    EXPECT_NE(read(wrong).find("is no address"), std::string::npos) << wrong;
  }
  EXPECT_FALSE(transport::parse_fabric_address("::1:4711"));
}

TEST(ListenAddressTest, OurOwnIsOfTheOtherSidesKind) {
  EXPECT_EQ(own_address_towards("127.0.0.1"), "127.0.0.1");
  EXPECT_EQ(own_address_towards("::1"), "::1");
  EXPECT_TRUE(transport::to_socket_address({own_address_towards(""), 1}));
}

constexpr uint32_t kLinesPerSecond = 1000;

class LogRouterTest : public FilesTest {
 protected:
  LogRouterTest() {
    loop = std::move(*EventLoop::create());
    router = std::make_unique<LogRouter>(*loop, root, kLinesPerSecond,
                                         [this](JobId job, protocol::LogLines lines) {
                                           EXPECT_EQ(job, 4u);
                                           for (auto& line : lines.lines) shown.push_back(line);
                                         });
    auto pipes = router->make_pipes();
    ends = std::move(pipes->second);
    router->attach(77, 4, std::move(pipes->first));
  }
  void print(const std::string& text) {
    ASSERT_EQ(::write(ends.out.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
    for (int i = 0; i < 20; ++i) loop->run_once(std::chrono::milliseconds(0));
  }
  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<LogRouter> router;
  LogPipeEnds ends;
  std::vector<protocol::LogLine> shown;
};

TEST_F(LogRouterTest, SplitsLinesAndKeepsPartsUntilTheyAreWhole) {
  print("one\ntw");
  ASSERT_EQ(shown.size(), 1u);
  print(
      "o\n\x1e"
      "f\nthree\nrest");
  ASSERT_EQ(shown.size(), 3u);
  EXPECT_EQ(shown[1].text, "two");
  EXPECT_EQ(shown[2].text, "three");
  EXPECT_EQ(shown[2].name, "f");
  EXPECT_EQ(shown[2].pid, 77);
  router->finish(77);
  ASSERT_EQ(shown.size(), 4u);
  EXPECT_EQ(shown[3].text, "rest");
}

TEST_F(LogRouterTest, AFloodIsCutAndCounted) {
  std::string text;
  for (int i = 0; i < 5000; ++i) text += "line\n";
  print(text);  // at once: the limit is of a second
  EXPECT_LE(shown.size(), kLinesPerSecond);
  router->finish(77);
  EXPECT_EQ(shown.size(), kLinesPerSecond + 1);
  EXPECT_NE(shown.back().text.find("4000 lines dropped"), std::string::npos) << shown.back().text;
  std::ifstream file(root + "/worker-77.out");
  std::string kept((std::istreambuf_iterator<char>(file)), {});
  EXPECT_EQ(kept, text);  // the file has them all
}

}  // namespace
}  // namespace sheaf::launchers
