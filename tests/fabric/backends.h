// The backends that the conformance suite runs over: a name, and how to make a node of it.
//
// A new backend adds one line to all_backends(); nothing else here knows what a backend is.
// SHEAF_TEST_FABRIC_HOST is the address that this process's nodes listen on (default 127.0.0.1).
#pragma once

#include <cstdlib>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "transport/fabric/fabric.h"
#include "transport/fabric/sock_fabric.h"

namespace sheaf::transport::test {

struct NodeOptions {
  PeerId self;
  ClusterSecret secret;
  std::string host = "127.0.0.1";
  uint16_t port = 0;
  std::chrono::milliseconds peer_timeout{10000};
};

struct Backend {
  // For the test framework, which prints parameters.
  friend void PrintTo(const Backend& backend, std::ostream* out) { *out << backend.name; }
  std::string name;
  std::function<Result<std::unique_ptr<Fabric>>(EventLoop&, const NodeOptions&, FabricEvents)> make;
};

inline Result<std::unique_ptr<Fabric>> make_sock(EventLoop& loop, const NodeOptions& options,
                                                 FabricEvents events) {
  SockFabricOptions sock;
  sock.self = options.self;
  sock.secret = options.secret;
  sock.listen = {options.host, options.port};
  sock.events = std::move(events);
  sock.peer_timeout = options.peer_timeout;
  return make_sock_fabric(loop, std::move(sock));
}

inline std::vector<Backend> all_backends() { return {{"sock", make_sock}}; }

inline const Backend* find_backend(const std::string& name) {
  static const std::vector<Backend> backends = all_backends();
  for (const Backend& backend : backends) {
    if (backend.name == name) return &backend;
  }
  return nullptr;
}

inline std::string test_host() {
  const char* host = std::getenv("SHEAF_TEST_FABRIC_HOST");
  return host != nullptr ? host : "127.0.0.1";
}

}  // namespace sheaf::transport::test
