// The control connection of one session: messages with credits, and the frames that steer pulls.
//
// A message may be under way only as far as the peer has given credit; the rest waits in a queue of
// bounded size. What is sent in one round of the loop after the first frame leaves in one record.
// Owned by the loop. Callbacks run from the loop, never inside send() or send_frame().
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "core/event_loop.h"
#include "transport/fabric/frames.h"
#include "transport/fabric/tls_stream.h"

namespace sheaf::transport {

class SockLink : public CreditSource, public std::enable_shared_from_this<SockLink> {
 public:
  struct Events {
    std::function<void(uint16_t type, wire::Bytes payload)> on_message;
    std::function<void(const Frame& frame)> on_frame;  // neither message nor credit
    std::function<void()> on_room;
    std::function<void(const Status& why)> on_broken;  // at most once, never after close()
  };

  SockLink(EventLoop& loop, std::unique_ptr<TlsStream> stream, size_t queue_bytes, Events events);
  ~SockLink() override;

  void start();
  Status send(uint16_t type, wire::Bytes payload);
  template <class T>
  void send_frame(FrameKind kind, const T& body) {
    append_frame(out_, kind, body);
    flush_soon();
  }
  // Tells the peer why, as far as the socket takes it, and closes. No callback afterwards.
  void close(const Status& why);
  // Called inside on_message: its credit, which is then not returned by itself.
  CreditHold hold_credit();
  void return_credit(uint64_t messages, uint64_t bytes) override;
  // A frame broke the rules: the session ends.
  void violation(std::string_view what);

 private:
  struct Waiting {
    uint16_t type;
    uint8_t flags;
    std::string body;
  };
  void on_fd(uint32_t events);
  void read_some();
  void dispatch(const Frame& frame);
  void on_message_frame(const Frame& frame);
  void on_credit(const Frame& frame);
  bool has_credit(size_t bytes) const;
  void put_message(uint16_t type, uint8_t flags, wire::Bytes body);
  void flush_soon();
  void flush();
  void want(uint32_t events);
  void broken(Status why);  // reported from the loop
  template <class F>
  void post(F f);

  EventLoop& loop_;
  std::unique_ptr<TlsStream> stream_;  // null once closed
  const size_t queue_bytes_max_;
  Events events_;
  FrameParser parser_{kControlBodyMax};
  bool resume_posted_ = false;
  bool broken_ = false;

  std::string out_;
  size_t out_begin_ = 0;
  bool blocked_ = false;  // the socket is full
  bool flush_posted_ = false;
  EventLoop::TimePoint last_flush_{};

  std::deque<Waiting> queue_;
  size_t queue_bytes_ = 0;
  bool room_wanted_ = false;
  Credit sent_, allowed_;                   // allowed_: consumed by the peer, as it says
  Credit received_, consumed_, announced_;  // announced_: what the peer knows of consumed_
  std::string partial_;
  uint16_t partial_type_ = 0;
  uint64_t holdable_messages_ = 0, holdable_bytes_ = 0;  // of the message being handled
};

}  // namespace sheaf::transport
