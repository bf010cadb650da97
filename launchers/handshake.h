// The daemon's front door: accepts, checks who it is, and reads one Hello.
//
// The peer's uid (SO_PEERCRED) is compared before any byte is parsed; another uid is cut off
// without an answer. A greeting has kHandshakeTimeout and kHelloBytesMax; at most kHalfOpenMax wait
// at a time, further connections stay in the kernel's backlog. A wrong magic is cut off; a wrong
// version is told so. Owned by the loop.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "core/event_loop.h"
#include "core/fd.h"
#include "scheduler/protocol.h"

namespace sheaf::launchers {

inline constexpr auto kHandshakeTimeout = std::chrono::seconds(2);
inline constexpr size_t kHalfOpenMax = 64;
inline constexpr size_t kHelloBytesMax = 256;
inline constexpr int kListenBacklog = 512;

struct Greeting {
  Fd socket;              // non-blocking; nothing but its end is expected any more
  protocol::Hello hello;  // magic and version are right
  pid_t pid = 0;          // as the kernel says, in our pid namespace; else hello.pid
};

class Listener {
 public:
  using OnGreeting = std::function<void(Greeting greeting)>;
  static Result<std::unique_ptr<Listener>> create(EventLoop& loop, const std::string& path,
                                                  OnGreeting on_greeting);
  ~Listener();

  // No further connections; half-open ones are cut off.
  void close();
  size_t half_open() const { return half_open_.size(); }
  uint64_t refused() const { return refused_; }

 private:
  struct HalfOpen {
    Fd socket;
    pid_t pid;
    EventLoop::TimerId timer;
  };
  Listener(EventLoop& loop, Fd socket, OnGreeting on_greeting);
  void accept_some();
  void read_hello(int fd);
  void drop(int fd);
  void watch_listener(bool on);

  EventLoop& loop_;
  Fd socket_;
  OnGreeting on_greeting_;
  std::map<int, HalfOpen> half_open_;
  bool watching_ = false;
  uint64_t refused_ = 0;
};

// A Welcome that says no. Best effort.
void refuse(int socket, StatusCode code, const std::string& message);

}  // namespace sheaf::launchers
