// The messages of clients that only the controller can answer: the one list of them.
#pragma once

#include "core/status.h"
#include "core/wire.h"
#include "scheduler/controller.h"
#include "scheduler/protocol.h"

namespace sheaf::launchers {

// What `process` has sent, for the controller. kUnsupported: not one of these messages; kCorrupt:
// it cannot be decoded.
Result<scheduler::ControllerEvent> control_event(protocol::MessageType type, ProcessId process,
                                                 uint64_t request, wire::Bytes body);

}  // namespace sheaf::launchers
