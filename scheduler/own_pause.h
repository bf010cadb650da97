// A timer of the controller that fires this late says that this process stood still, not those whom
// it has not heard: what they have sent meanwhile is heard first.
#pragma once

#include "scheduler/node_messages.h"

namespace sheaf::scheduler {

inline constexpr Time kOwnPause = std::chrono::milliseconds(100);
inline constexpr Time kHearFirst = std::chrono::milliseconds(500);

}  // namespace sheaf::scheduler
