// The memory of a lane, or of a relay that stands in for one: a ring for each direction.
#pragma once

#include "transport/lane.h"

namespace sheaf::launchers {

inline constexpr size_t kPairBytes = 2 * sizeof(transport::RingBlock);

}  // namespace sheaf::launchers
