// What waking a sleeping thread costs on this machine: how long a waiter may spin before it sleeps.
#pragma once

#include <chrono>

#include "transport/lane_region.h"

namespace sheaf::transport {

// The cost of a futex wake here and now: half the median of a few round trips between two threads,
// clamped to 5..25 us. Takes about a millisecond and a thread.
std::chrono::nanoseconds measure_wake_cost();

// The same, measured by the first process of the node that asks and kept in the region: every
// worker would else pay for it before its first task.
std::chrono::nanoseconds shared_wake_cost(const LaneRegion& region);

}  // namespace sheaf::transport
