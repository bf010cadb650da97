#include "core/fault.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>

namespace sheaf {
namespace {

struct Disarm {
  ~Disarm() { arm_faults(""); }
};

TEST(FaultTest, ActsAtTheNthPassageOnly) {
  Disarm disarm;
  EXPECT_FALSE(fault_point("disk.write"));
  ASSERT_TRUE(arm_faults("disk.write:2:fail,other:0:fail"));
  EXPECT_FALSE(fault_point("disk.write"));
  EXPECT_TRUE(fault_point("disk.write"));
  EXPECT_FALSE(fault_point("disk.write"));
  EXPECT_TRUE(fault_point("other"));
  EXPECT_TRUE(fault_point("other"));
  EXPECT_FALSE(fault_point("unarmed"));
}

TEST(FaultTest, SleepDelays) {
  Disarm disarm;
  ASSERT_TRUE(arm_faults("slow:1:sleep=20"));
  auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(fault_point("slow"));
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(20));
}

TEST(FaultTest, MalformedListsAreRefusedWhole) {
  Disarm disarm;
  ASSERT_TRUE(arm_faults("good:1:fail"));
  for (const char* list :
       {"x", "x:1", ":1:kill", "x:y:kill", "x:1:explode", "x:1:sleep=", "x:1:kill,,"}) {
    EXPECT_FALSE(arm_faults(list)) << list;
  }
  EXPECT_TRUE(fault_point("good"));
}

TEST(FaultDeathTest, KillIsARealSigkill) {
  EXPECT_EXIT(
      {
        arm_faults("here:1:kill");
        fault_point("here");
      },
      testing::KilledBySignal(SIGKILL), "");
}

}  // namespace
}  // namespace sheaf
