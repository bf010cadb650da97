#include "core/trace.h"

#include <gtest/gtest.h>

#include <thread>

#include "core/json.h"

namespace sheaf {
namespace {

TEST(TraceRingTest, KeepsTheNewest) {
  TraceRing ring(4);
  for (uint64_t i = 0; i < 10; ++i) ring.instant("test", "tick", i);
  auto events = ring.snapshot();
  ASSERT_EQ(events.size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(events[i].argument, 6 + i);
}

TEST(TraceRingTest, DumpIsJsonThatBrowsersRead) {
  TraceRing ring(8);
  { TraceSpan span(ring, "store", "spill", 4096); }
  ring.instant("agent", "grant");
  auto parsed = parse_json(ring.chrome_json(12, "a daemon"));
  ASSERT_TRUE(parsed.has_value()) << parsed.status().to_string();
  const auto& events = *parsed->find("traceEvents")->as_array();
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(*events[0].find("ph")->as_string(), "M");
  EXPECT_EQ(*events[0].find("args")->find("name")->as_string(), "a daemon");
  EXPECT_EQ(*events[1].find("name")->as_string(), "spill");
  EXPECT_EQ(*events[1].find("ph")->as_string(), "X");
  EXPECT_EQ(*events[1].find("args")->find("arg")->as_int(), 4096);
  EXPECT_EQ(*events[2].find("ph")->as_string(), "i");
  // Wall time: in this century, and in the order of things.
  double first = 0, second = 0;
  ASSERT_TRUE(events[1].find("ts")->as_number(&first));
  ASSERT_TRUE(events[2].find("ts")->as_number(&second));
  EXPECT_GT(first, 1.5e15);
  EXPECT_GE(second, first);
}

TEST(TraceRingTest, ZeroCapacityRecordsNothing) {
  TraceRing ring(0);
  ring.instant("a", "b");
  EXPECT_TRUE(ring.snapshot().empty());
}

TEST(TraceRingTest, SnapshotsDuringWritesHoldWholeEventsOnly) {
  TraceRing ring(64);
  std::atomic<bool> stop{false};
  std::vector<std::thread> writers;
  for (uint32_t t = 0; t < 3; ++t) {
    writers.emplace_back([&ring, &stop, t] {
      for (uint64_t i = 0; !stop.load(); ++i) {
        int64_t mark = static_cast<int64_t>(i * 4 + t);
        ring.record({"c", "n", mark, mark, static_cast<uint64_t>(mark), t});
      }
    });
  }
  for (int i = 0; i < 2000; ++i) {
    for (const TraceEvent& e : ring.snapshot()) {
      ASSERT_EQ(e.start_ns, e.duration_ns);
      ASSERT_EQ(static_cast<uint64_t>(e.start_ns), e.argument);
      ASSERT_EQ(e.argument % 4, e.thread);
    }
  }
  stop = true;
  for (auto& writer : writers) writer.join();
}

}  // namespace
}  // namespace sheaf
