// The bulk connections of a `sock` fabric, on a thread of their own: pulled bytes in and out.
//
// Incoming bytes are decrypted straight into the reader's memory, outgoing ones are read straight
// out of the exported region. Commands may come from the owner's thread only, and take effect in
// order; events are posted to the owner's loop. Memory given by expect() or send() is not touched
// any more once on_received, on_detached, on_sent or on_dropped has said so. Sessions are the
// owner's numbers.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>

#include "core/event_loop.h"
#include "transport/fabric/frames.h"
#include "transport/fabric/tls_stream.h"

namespace sheaf::transport {

class SockBulk {
 public:
  // All on the owner's loop.
  struct Events {
    std::function<void(uint64_t session, PullId pull, uint64_t bytes)> on_progress;  // in total
    std::function<void(uint64_t session, PullId pull)> on_received;
    std::function<void(uint64_t session, PullId pull)> on_detached;
    std::function<void(uint64_t session, PullId pull, uint64_t bytes)> on_sent;  // or stopped
    std::function<void(uint64_t session, Status why)> on_broken;
    std::function<void(uint64_t session)> on_dropped;
  };
  struct Outgoing {
    PullId pull = 0;  // the reader's number
    const std::byte* data = nullptr;
    uint64_t length = 0;
    PullPriority priority{};
    uint64_t granted = 0;
  };

  static Result<std::unique_ptr<SockBulk>> create(EventLoop& owner, Events events);
  ~SockBulk();  // ends the thread; no event afterwards

  void open(uint64_t session);
  void attach(uint64_t session, std::unique_ptr<TlsStream> stream);
  void expect(uint64_t session, PullId pull, std::span<std::byte> into);
  void detach(uint64_t session, PullId pull);
  void send(uint64_t session, const Outgoing& out);
  void grant(uint64_t session, PullId pull, uint64_t granted);
  void stop_sending(uint64_t session, PullId pull);
  void drop(uint64_t session);

 private:
  struct Channel;
  struct Incoming {
    std::span<std::byte> into;
    uint64_t received = 0, reported = 0;
  };
  struct Sending : Outgoing {
    uint64_t sent = 0;
    uint64_t arrival = 0;
    bool stopped = false;
  };

  SockBulk(EventLoop& owner, Events events);
  // Runs on the bulk thread; `f` gets the channel if there is one.
  template <class F>
  void command(uint64_t session, F f);
  // Runs on the owner's loop, unless this is gone by then.
  template <class F>
  void report(F f);

  void on_fd(Channel& channel, uint32_t events);
  void pump_in(Channel& channel);
  bool begin_frame(Channel& channel);
  void took(Channel& channel, size_t bytes);
  void pump_out(Channel& channel);
  bool write_frame(Channel& channel);
  bool next_frame(Channel& channel);
  void ended_frame(Channel& channel);
  void resume(Channel& channel, bool Channel::* flag, void (SockBulk::*pump)(Channel&));
  void broken(Channel& channel, Status why);

  EventLoop& owner_;
  Events events_;                                       // used on the owner's loop
  std::shared_ptr<bool> gate_ = std::make_shared<bool>(true);  // dies with this
  std::unique_ptr<EventLoop> loop_;
  std::unordered_map<uint64_t, std::unique_ptr<Channel>> channels_;  // the bulk thread's
  std::thread thread_;
};

}  // namespace sheaf::transport
