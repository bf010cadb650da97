// A connection on its way from a TCP socket to an authenticated peer, from either side.
//
// Dialer: connect, TLS, send Hello, read Welcome. Acceptor: TLS, read Hello, judge it, send
// Welcome. Before TLS is through nothing of the peer's is looked at but the handshake, of at most
// kGreetingRawBytesMax. Ends once: `done` gets the stream or the reason, and may destroy the
// Greeting. Owned by the loop; destroying it closes the connection.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/event_loop.h"
#include "transport/fabric/frames.h"
#include "transport/fabric/sock_options.h"
#include "transport/fabric/tls_stream.h"

namespace sheaf::transport {

inline constexpr uint64_t kGreetingRawBytesMax = 8 * 1024;

struct Greeted {
  Status status;  // the acceptor's: also what it told the dialer
  std::unique_ptr<TlsStream> stream;  // null unless OK
  Hello hello;
  Welcome welcome;
};

class Greeting {
 public:
  using Judge = std::function<Welcome(const Hello&)>;
  using Done = std::function<void(Greeted)>;

  static Result<std::unique_ptr<Greeting>> dial(EventLoop& loop, std::shared_ptr<TlsContext> tls,
                                                const SockFabricOptions& options,
                                                const FabricAddress& address, const Hello& hello,
                                                Done done);
  static std::unique_ptr<Greeting> accept(EventLoop& loop, std::shared_ptr<TlsContext> tls,
                                          const SockFabricOptions& options, Fd socket, Judge judge,
                                          Done done);
  ~Greeting();
  Greeting(const Greeting&) = delete;

  EventLoop::TimePoint started() const { return started_; }
  // Nothing has come from the other side yet.
  bool silent() const { return !stream_ || stream_->raw_bytes_read() == 0; }

 private:
  enum class Step : uint8_t { kConnecting, kTls, kWriting, kReading };
  Greeting(EventLoop& loop, const SockFabricOptions& options, Done done);
  void start(uint32_t events);
  void advance();
  bool step();  // false: wait for the socket, or ended
  bool write_some();
  bool read_some();
  bool on_frame();
  void finish(Status status);
  TlsUse use() const {
    return result_.hello.purpose == ConnectionPurpose::kBulk ? TlsUse::kBulk : TlsUse::kControl;
  }

  EventLoop& loop_;
  const std::chrono::milliseconds timeout_;
  const std::chrono::milliseconds peer_timeout_;
  const EventLoop::TimePoint started_ = EventLoop::Clock::now();
  Done done_;
  Judge judge_;  // null on the dialer
  std::shared_ptr<TlsContext> tls_;
  Fd connecting_;
  std::unique_ptr<TlsStream> stream_;
  Step step_ = Step::kConnecting;
  int fd_ = -1;
  EventLoop::TimerId timer_ = 0;
  std::string out_;
  std::string in_;
  Greeted result_;
};

}  // namespace sheaf::transport
