// How a node that has no number yet asks the head of a cluster for one, before it is anything else.
#pragma once

#include <chrono>

#include "core/log.h"
#include "launchers/node_wire.h"
#include "transport/fabric/sock_options.h"

namespace sheaf::launchers {

// Blocks; on a loop and a fabric of its own that end with it. Tries again while nobody answers
// there (the head may be on its way), until `timeout`. kPermissionDenied: another cluster's secret;
// kUnsupported: another version; what the head refuses for comes with its reason.
Result<NumberGiven> ask_for_number(const transport::FabricAddress& head,
                                   const transport::ClusterSecret& secret, const AskNumber& ask,
                                   std::chrono::milliseconds timeout, const Logger& log);

// The address of this machine by which others reach it: that of the interface which leads to
// `towards`, without sending anything. Empty: which leads out, over IPv4 where both do. "127.0.0.1"
// or "::1" when there is no network.
std::string own_address_towards(const std::string& towards);

// Of the option --listen: an address with or without a port, which may be 0 for any free one; an
// IPv6 address with a port is in brackets. Empty and "auto": as above, any port.
Result<transport::FabricAddress> listen_address(const std::string& text,
                                                const std::string& towards);

}  // namespace sheaf::launchers
