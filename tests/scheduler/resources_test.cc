#include "scheduler/resources.h"

#include <gtest/gtest.h>

#include "machines.h"

namespace sheaf::scheduler::resources_test {
namespace {

using testing::cpus;
using testing::gpus;

TEST(ResourcesTest, ValidationRefusesWhatCannotBe) {
  ResourceMap negative{{"CPU", -1}}, nameless{{"", 1}}, broken = gpus(1.5), zero{{"CPU", 0}, {"x",
  5}};
  EXPECT_EQ(validate_resources(negative).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(validate_resources(nameless).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(validate_resources(broken).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(validate_resources(zero).is_ok());
  EXPECT_EQ(zero.size(), 1u);
}

TEST(ResourcesTest, FixedPointAddsUp) {
  ResourcePool pool(cpus(1));
  std::vector<Allocation> taken;
  for (int i = 0; i < 10; ++i) taken.push_back(*pool.take(cpus(0.1)));
  EXPECT_FALSE(pool.take(cpus(0.0001)));
  for (const Allocation& allocation : taken) pool.give_back(allocation);
  EXPECT_TRUE(pool.unused());
}

TEST(ResourcesTest, WholeDevicesAreDistinctAndFractionsShare) {
  ResourcePool pool(gpus(2));
  auto half = pool.take(gpus(0.5));
  auto other_half = pool.take(gpus(0.5));
  EXPECT_EQ(half->devices(), (Devices{{"GPU", {0}}}));
  EXPECT_EQ(other_half->devices(), (Devices{{"GPU", {0}}}));
  auto whole = pool.take(gpus(1));
  EXPECT_EQ(whole->devices(), (Devices{{"GPU", {1}}}));
  EXPECT_FALSE(pool.take(gpus(0.1)));
  pool.give_back(*half);
  EXPECT_EQ(pool.take(gpus(0.25))->devices(), (Devices{{"GPU", {0}}}));
}

TEST(ResourcesTest, HalvesOnTwoDevicesAreNotAWhole) {
  ResourcePool pool(gpus(2));
  auto a = pool.take(gpus(0.6));
  auto b = pool.take(gpus(0.6));
  EXPECT_NE(a->devices(), b->devices());
  EXPECT_FALSE(pool.can_take(gpus(0.5)));
  EXPECT_FALSE(pool.take(gpus(1)));
  EXPECT_TRUE(pool.feasible(gpus(2)));
  EXPECT_FALSE(pool.feasible(gpus(3)));
  pool.give_back(*a);
  EXPECT_EQ(pool.take(gpus(1))->devices(), a->devices());
}

TEST(ResourcesTest, BundleIsAPoolOfItsOwn) {
  ResourcePool node(gpus(4));
  auto reserved = node.take(gpus(2));
  ResourcePool bundle(*reserved);
  EXPECT_EQ(bundle.take(gpus(1))->devices(), (Devices{{"GPU", {0}}}));
  EXPECT_EQ(bundle.take(gpus(1))->devices(), (Devices{{"GPU", {1}}}));
  EXPECT_FALSE(bundle.take(gpus(0.5)));
  EXPECT_EQ(node.take(gpus(1))->devices(), (Devices{{"GPU", {2}}}));
}

TEST(ResourcesTest, LentCpusMayOverdraw) {
  ResourcePool pool(cpus(1));
  auto first = pool.take(cpus(1));
  pool.lend(kCpu, kResourceUnit);
  auto second = pool.take(cpus(1));
  ASSERT_TRUE(second);
  pool.take_back(kCpu, kResourceUnit);
  EXPECT_EQ(amount_of(pool.available(), kCpu), -kResourceUnit);
  EXPECT_FALSE(pool.take(cpus(1)));
  pool.give_back(*first);
  EXPECT_FALSE(pool.take(cpus(1)));
  pool.give_back(*second);
  EXPECT_TRUE(pool.unused());
}

TEST(ResourcesTest, CapacityMayGrowAndShrink) {
  ResourcePool pool(cpus(2));
  auto held = pool.take(cpus(2));
  ResourceMap more = cpus(1);
  more["GPU"] = 2 * kResourceUnit;
  pool.change_total(more);
  EXPECT_EQ(amount_of(pool.available(), kCpu), -kResourceUnit);
  EXPECT_EQ(pool.take(gpus(2))->devices(), (Devices{{"GPU", {0, 1}}}));
  pool.give_back(*held);
  EXPECT_EQ(amount_of(pool.available(), kCpu), kResourceUnit);
}

TEST(ResourcesTest, ShortageNamesWhatIsMissing) {
  ResourceMap request = cpus(2);
  request["GPU"] = kResourceUnit;
  EXPECT_EQ(to_text(shortage(request, cpus(1.5))), "{CPU: 0.5, GPU: 1}");
  EXPECT_TRUE(shortage(cpus(1), cpus(1)).empty());
}

TEST(LabelsTest, FollowRaysSyntax) {
  const Labels labels{{"zone", "a"}, {"type", "gpu"}};
  EXPECT_TRUE(labels_match({}, labels));
  EXPECT_TRUE(labels_match({{"zone", "a"}}, labels));
  EXPECT_FALSE(labels_match({{"zone", "b"}}, labels));
  EXPECT_TRUE(labels_match({{"zone", "!b"}}, labels));
  EXPECT_FALSE(labels_match({{"zone", "!a"}}, labels));
  EXPECT_TRUE(labels_match({{"zone", "in(b, a)"}}, labels));
  EXPECT_FALSE(labels_match({{"zone", "in(b,c)"}}, labels));
  EXPECT_FALSE(labels_match({{"zone", "!in(a,b)"}}, labels));
  EXPECT_TRUE(labels_match({{"missing", "!x"}}, labels));
  EXPECT_TRUE(labels_match({{"missing", "!in(x,y)"}}, labels));
  EXPECT_FALSE(labels_match({{"missing", "x"}}, labels));
  EXPECT_FALSE(labels_match({{"zone", "a"}, {"type", "cpu"}}, labels));
}

}  // namespace
}  // namespace sheaf::scheduler::resources_test
