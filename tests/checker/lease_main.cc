// lease_checker: every interleaving of heartbeats, delays, pauses, deaths and restarts of two nodes
// and the head, within small plans. See driver.h.
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "tests/checker/driver.h"
#include "tests/checker/lease_model.h"

namespace {

using sheaf::checker::LeasePlan;

// From one state in so many the cluster is let recover.
constexpr uint64_t kLivenessEach = 64;

std::vector<LeasePlan> plans() {
  std::vector<LeasePlan> out;
  const auto plan = [&](const char* name) -> LeasePlan& {
    out.emplace_back();
    out.back().name = name;
    return out.back();
  };
  LeasePlan& one = plan("one node");
  one.nodes = 1;
  one.steps = 8;
  one.pauses = one.head_pauses = one.kills = one.lives = 1;
  one.limit = 200000;
  LeasePlan& two = plan("two nodes");
  two.steps = 7;
  two.pauses = 1;
  two.kills = 1;
  two.limit = 60000;
  LeasePlan& takeover = plan("take-over");
  takeover.nodes = 1;
  takeover.steps = 9;
  takeover.crashes = 2;
  takeover.pauses = takeover.lives = 1;
  takeover.limit = 60000;
  LeasePlan& both = plan("two restart");
  both.steps = 6;
  both.crashes = 1;
  both.lives = 1;
  both.kills = 1;
  both.limit = 60000;
  LeasePlan& numbers = plan("numbers");
  numbers.steps = 1;
  numbers.crashes = 2;
  numbers.lives = 1;
  numbers.kills = 1;
  numbers.joined = false;
  numbers.slow_disk = true;
  numbers.limit = 60000;
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace sheaf::checker;   // NOLINT
  unsigned long recoveries = 0;
  const int status = check_plans<LeaseModel, LeaseStep>(
      argc, argv, plans(), "Fence, OneAuthority, NumbersUnique, Barrier, NoHang",
      [&](const LeaseModel& model, const Hash& hash) {
        if (hash.hi % kLivenessEach != 0) return std::string();
        ++recoveries;
        return model.check_liveness();
      });
  std::printf("let recover from %lu of the states\n", recoveries);
  return status;
}
