// The front door of a `sock` fabric: accepts, greets, and drops whatever does not belong here.
//
// At most `half_open_max` connections are being greeted at a time; when all places are taken, the
// oldest gives way, at once if it has not said a word, so that idle connections cannot keep peers
// out. Each refusal is counted, and at most one line a second says why. Owned by the loop.
#pragma once

#include <functional>
#include <map>
#include <memory>

#include "core/event_loop.h"
#include "core/log.h"
#include "transport/fabric/sock_greeting.h"

namespace sheaf::transport {

// How long a connection keeps its place when others want it. Peers speak first, and are quick.
inline constexpr auto kEvictSilentAfter = std::chrono::milliseconds(20);
inline constexpr auto kEvictAfter = std::chrono::milliseconds(200);

class SockListener {
 public:
  using OnGreeted = std::function<void(Greeted greeted, const FabricAddress& from)>;
  // Takes part of the options by reference: they outlive the listener.
  static Result<std::unique_ptr<SockListener>> create(EventLoop& loop,
                                                      std::shared_ptr<TlsContext> tls,
                                                      const SockFabricOptions& options,
                                                      Greeting::Judge judge, OnGreeted on_greeted);
  ~SockListener();

  const FabricAddress& address() const { return address_; }
  size_t half_open() const { return half_open_.size(); }
  uint64_t refused() const { return refused_; }

 private:
  SockListener(EventLoop& loop, const SockFabricOptions& options)
      : loop_(loop), options_(options) {}
  void accept_some();
  void greeted(uint64_t number, Greeted result);
  // Makes a place, or stops accepting until one may be made.
  bool have_room();
  void pause(std::chrono::milliseconds delay);
  void refuse(const FabricAddress& from, const Status& why);

  struct HalfOpen {
    FabricAddress from;
    std::unique_ptr<Greeting> greeting;
  };
  EventLoop& loop_;
  const SockFabricOptions& options_;
  std::shared_ptr<TlsContext> tls_;
  Greeting::Judge judge_;
  OnGreeted on_greeted_;
  Fd socket_;
  FabricAddress address_;
  std::map<uint64_t, HalfOpen> half_open_;  // in order of arrival
  uint64_t next_ = 1;
  uint64_t refused_ = 0;
  EventLoop::TimerId resume_ = 0;
  LogRateLimit refusals_{std::chrono::seconds(1)};
};

}  // namespace sheaf::transport
