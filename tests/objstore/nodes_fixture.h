// A few nodes with two processes each, and words for what processes do.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "tests/objstore/cluster_harness.h"

namespace sheaf::objstore {
inline constexpr uint64_t kMiB = 1 << 20;

class NodesTest : public ::testing::Test {
 protected:
  explicit NodesTest(uint16_t nodes = 3) : c(nodes) {
    for (uint16_t n = 1; n <= nodes; ++n) {
      for (uint32_t i = 1; i <= 2; ++i) {
        tables[ClusterHarness::process(n, i)] =
            &c.node(n).join(ClusterHarness::process(n, i));
      }
    }
  }
  static ProcessId p(uint16_t node, uint32_t i = 1) { return ClusterHarness::process(node, i); }
  static ObjectId id(uint16_t home, uint64_t n) { return ObjectId::make(p(home), n); }
  StoreHarness& at(uint16_t n) { return c.node(n); }

  void hold(uint16_t n, const ObjectId& o, uint32_t i = 1) {
    c.store(n).hold(p(n, i), 0, std::vector{o}, {});
  }
  void drop(uint16_t n, const ObjectId& o, uint32_t i = 1) { at(n).drop(p(n, i), o); }
  // A process of `from` gives one of `to` a reference, in a reply or an argument of its own making.
  void give(uint16_t from, uint16_t to, const ObjectId& o) {
    c.store(from).hold(p(from), p(to), std::vector{o}, {});
  }
  // A task on `maker` returns `o` to its caller on o's home, who then holds it.
  Locator make_result(uint16_t maker, const ObjectId& o, uint64_t bytes,
                      std::vector<ObjectId> contained = {}) {
    auto answer = c.store(maker).alloc_extent(p(maker), 1, bytes, std::chrono::seconds(1),
                                              StoreHarness::now());
    EXPECT_TRUE(answer && *answer);
    at(maker).fill(**answer, o);
    seal_header(at(maker).base(), **answer, o);
    EXPECT_TRUE(c.store(maker).seal(p(maker), o, **answer, p(o.node()), contained));
    return **answer;
  }
  ObjectEvent get(uint16_t n, const ObjectId& o, Locator where = {}, uint32_t i = 1) {
    at(n).events[p(n, i)].clear();
    c.store(n).subscribe(p(n, i), std::vector{o}, true, StoreHarness::now(), std::vector{where});
    c.until([&] { return answered(n, i); });
    return answered(n, i) ? at(n).events[p(n, i)].back() : ObjectEvent{};
  }
  bool answered(uint16_t n, uint32_t i) {
    auto& events = at(n).events[p(n, i)];
    return !events.empty() && events.back().state != ValueState::kPending;
  }
  const ObjectTable::Entry* entry(uint16_t n, const ObjectId& o) {
    return c.store(n).nodes().table().find(o);
  }
  // Nothing of any object is left anywhere, neither bytes nor rows.
  void expect_empty() {
    c.settle();
    c.until([&] {
      for (uint16_t n : c.alive_nodes()) if (c.store(n).metrics().used_bytes > 0) return false;
      return true;
    });
    for (uint16_t n : c.alive_nodes()) {
      const NodeTable& t = c.store(n).nodes();
      EXPECT_TRUE(t.table().entries().empty()) << n;
      EXPECT_TRUE(t.foreign().empty()) << n;
      EXPECT_TRUE(t.copies().empty()) << n;
      EXPECT_TRUE(t.fetches().empty()) << n;
      EXPECT_TRUE(t.broadcasts().empty()) << n;
      EXPECT_TRUE(t.unconfirmed().empty()) << n;
      EXPECT_TRUE(t.barriers().empty()) << n;
      EXPECT_TRUE(t.lineage().empty()) << n;
      EXPECT_EQ(t.lineage().kept_for_others(), 0u) << n;
      EXPECT_EQ(t.values_kept_elsewhere(), 0u) << n;
      EXPECT_EQ(c.store(n).metrics().used_bytes, 0u) << n;
    }
  }

  ClusterHarness c;
  std::map<ProcessId, PinTable*> tables;
};

class FourNodesTest : public NodesTest {
 protected:
  FourNodesTest() : NodesTest(4) {}
};

}  // namespace sheaf::objstore
