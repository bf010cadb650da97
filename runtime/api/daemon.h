// Node daemons seen from a C++ driver: finding one that runs, and starting one that ends with this process.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "core/status.h"

namespace sheaf::internal {

// A daemon that this process has started. Owned by one thread at a time.
class Daemon {
 public:
  // Starts `sheafd --embedded <arguments>` and waits until it serves.
  static Result<Daemon> start(const std::vector<std::string>& arguments);

  const std::string& socket_path() const { return socket_path_; }
  pid_t pid() const { return pid_; }
  // Asks it to end and waits; kills it when it takes longer than 5 s.
  void stop();

 private:
  Daemon() = default;
  Status read_ready_line(int fd);
  bool reap(int timeout_ms);

  pid_t pid_ = 0;
  std::string socket_path_;
};

// $SHEAF_SHEAFD, else the one that was installed or built with this library. kNotFound names where it was looked for.
Result<std::string> find_daemon_program();
// The socket of the newest cluster of this user on this machine.
Result<std::string> find_running_cluster();
// The socket that an address names: a session directory or a socket.
Result<std::string> socket_of_address(const std::string& address);
// The file that the code at `address` was loaded from, absolute.
std::string library_of(const void* address);

}  // namespace sheaf::internal
