#include "transport/fabric/sock_link.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

namespace sheaf::transport {
namespace {

constexpr size_t kReadBytesPerRound = 256 * 1024;
constexpr size_t kKeepBuffer = 64 * 1024;

}  // namespace

SockLink::SockLink(EventLoop& loop, std::unique_ptr<TlsStream> stream, size_t queue_bytes,
                   Events events)
    : loop_(loop),
      stream_(std::move(stream)),
      queue_bytes_max_(queue_bytes),
      events_(std::move(events)) {}

SockLink::~SockLink() {
  if (stream_) loop_.remove_fd(stream_->fd());
}

template <class F>
void SockLink::post(F f) {
  loop_.post([weak = weak_from_this(), f = std::move(f)] {
    if (std::shared_ptr<SockLink> self = weak.lock(); self && self->stream_) f(*self);
  });
}

void SockLink::start() {
  Status added = loop_.add_fd(stream_->fd(), EPOLLIN, [weak = weak_from_this()](uint32_t events) {
    if (std::shared_ptr<SockLink> self = weak.lock()) self->on_fd(events);
  });
  if (!added.is_ok()) return broken(added);
  post([](SockLink& self) { self.read_some(); });  // the greeting may have read ahead
}

Status SockLink::send(uint16_t type, wire::Bytes payload) {
  if (!stream_ || broken_) return {StatusCode::kDisconnected, "the session has ended"};
  if (payload.size() > kFabricMessageBytesMax) {
    return {StatusCode::kInvalidArgument,
            fmt::format("a message of {} bytes, at most {}", payload.size(),
                        kFabricMessageBytesMax)};
  }
  if (!queue_.empty() && queue_bytes_ + payload.size() > queue_bytes_max_) {
    room_wanted_ = true;
    return {StatusCode::kOverloaded, "too many messages wait for this peer"};
  }
  do {
    wire::Bytes part = payload.first(std::min(payload.size(), kFabricFragmentBytes));
    payload = payload.subspan(part.size());
    uint8_t flags = payload.empty() ? 0 : kMoreFragments;
    if (queue_.empty() && has_credit(part.size())) {
      put_message(type, flags, part);
    } else {
      queue_.push_back({type, flags, std::string(wire::as_text(part))});
      queue_bytes_ += sizeof(Waiting) + part.size();
    }
  } while (!payload.empty());
  flush_soon();
  return Status::ok();
}

bool SockLink::has_credit(size_t bytes) const {
  return sent_.messages - allowed_.messages < kFabricCreditMessages &&
         sent_.bytes - allowed_.bytes + bytes <= kFabricCreditBytes;
}

void SockLink::put_message(uint16_t type, uint8_t flags, wire::Bytes body) {
  append_frame(out_, FrameKind::kMessage, flags, type, body);
  ++sent_.messages;
  sent_.bytes += body.size();
}

// The first frame of a round leaves at once, for the sake of a lone request; the others together.
void SockLink::flush_soon() {
  if (!stream_ || broken_ || blocked_ || flush_posted_) return;
  if (last_flush_ != loop_.now()) {
    flush();
    return;
  }
  flush_posted_ = true;
  post([](SockLink& self) {
    self.flush_posted_ = false;
    self.flush();
  });
}

void SockLink::flush() {
  last_flush_ = loop_.now();
  while (out_begin_ < out_.size()) {
    size_t done = 0;
    TlsStream::Io io = stream_->write(out_.data() + out_begin_, out_.size() - out_begin_, &done);
    if (io == TlsStream::Io::kFailed) return broken(stream_->error());
    if (io == TlsStream::Io::kAgain) {
      blocked_ = true;
      want(EPOLLIN | EPOLLOUT);
      return;
    }
    out_begin_ += done;
  }
  out_begin_ = 0;
  if (out_.capacity() > kKeepBuffer) {
    out_ = std::string();
  } else {
    out_.clear();
  }
}

void SockLink::want(uint32_t events) { (void)loop_.change_fd(stream_->fd(), events); }

void SockLink::on_fd(uint32_t events) {
  if (!stream_) return;
  if (blocked_ && (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) {
    blocked_ = false;
    want(EPOLLIN);
    flush();
  }
  if (stream_ && (events & ~uint32_t{EPOLLOUT}) != 0) read_some();
}

void SockLink::read_some() {
  std::shared_ptr<SockLink> self = shared_from_this();  // a handler may drop the session
  size_t budget = kReadBytesPerRound;
  while (stream_ && !broken_) {
    Frame frame;
    for (;;) {
      Result<bool> next = parser_.next(&frame);
      if (!next) return broken(next.status());
      if (!*next) break;
      dispatch(frame);
      if (!stream_ || broken_) return;
    }
    if (budget == 0) {
      if (resume_posted_) return;
      resume_posted_ = true;
      return post([](SockLink& link) {
        link.resume_posted_ = false;
        link.read_some();
      });
    }
    std::span<std::byte> room = parser_.room();
    size_t done = 0;
    TlsStream::Io io = stream_->read(room.data(), std::min(room.size(), budget), &done);
    if (io == TlsStream::Io::kFailed) return broken(stream_->error());
    if (io == TlsStream::Io::kAgain) return;
    parser_.add(done);
    budget -= done;
  }
}

void SockLink::dispatch(const Frame& frame) {
  switch (frame.header.kind) {
    case FrameKind::kMessage: return on_message_frame(frame);
    case FrameKind::kCredit: return on_credit(frame);
    default: return events_.on_frame(frame);
  }
}

void SockLink::on_message_frame(const Frame& frame) {
  bool more = (frame.header.flags & kMoreFragments) != 0;
  ++received_.messages;
  received_.bytes += frame.body.size();
  if (received_.messages - announced_.messages > kFabricCreditMessages ||
      received_.bytes - announced_.bytes > kFabricCreditBytes) {
    return violation("sends without credit");
  }
  bool first = partial_.empty();
  if ((!first && frame.header.type != partial_type_) || (more && frame.body.empty()) ||
      partial_.size() + frame.body.size() > kFabricMessageBytesMax) {
    return violation("sends fragments that do not fit together");
  }
  wire::Bytes payload = frame.body;
  if (more || !first) {
    partial_type_ = frame.header.type;
    partial_.append(wire::as_text(frame.body));
    payload = wire::as_bytes(partial_);
  }
  holdable_messages_ = 1;
  holdable_bytes_ = frame.body.size();
  if (!more) {
    std::string whole = std::exchange(partial_, {});  // keeps `payload` alive in the handler
    if (!first) payload = wire::as_bytes(whole);
    events_.on_message(frame.header.type, payload);
  }
  uint64_t messages = std::exchange(holdable_messages_, 0);
  uint64_t bytes = std::exchange(holdable_bytes_, 0);
  return_credit(messages, bytes);
}

CreditHold SockLink::hold_credit() {
  uint64_t messages = std::exchange(holdable_messages_, 0);
  uint64_t bytes = std::exchange(holdable_bytes_, 0);
  if (messages == 0) return {};
  return CreditHold(weak_from_this(), messages, bytes);
}

void SockLink::return_credit(uint64_t messages, uint64_t bytes) {
  consumed_.messages += messages;
  consumed_.bytes += bytes;
  if (consumed_.messages - announced_.messages < kFabricCreditMessages / 4 &&
      consumed_.bytes - announced_.bytes < kFabricCreditBytes / 4) {
    return;
  }
  announced_ = consumed_;
  if (stream_ && !broken_) send_frame(FrameKind::kCredit, announced_);
}

void SockLink::on_credit(const Frame& frame) {
  Result<Credit> credit = wire::decode<Credit>(frame.body);
  if (!credit || credit->messages > sent_.messages || credit->bytes > sent_.bytes ||
      credit->messages < allowed_.messages || credit->bytes < allowed_.bytes) {
    return violation("sends credit for what it did not get");
  }
  allowed_ = *credit;
  while (!queue_.empty() && has_credit(queue_.front().body.size())) {
    const Waiting& next = queue_.front();
    put_message(next.type, next.flags, wire::as_bytes(next.body));
    queue_bytes_ -= sizeof(Waiting) + next.body.size();
    queue_.pop_front();
  }
  flush_soon();
  if (room_wanted_ && queue_bytes_ <= queue_bytes_max_ / 2) {
    room_wanted_ = false;
    events_.on_room();
  }
}

void SockLink::violation(std::string_view what) {
  broken(Status(StatusCode::kCorrupt, std::string("the peer ") + std::string(what)));
}

void SockLink::broken(Status why) {
  if (broken_ || !stream_) return;
  broken_ = true;
  loop_.remove_fd(stream_->fd());
  post([why = std::move(why)](SockLink& self) { self.events_.on_broken(why); });
}

void SockLink::close(const Status& why) {
  if (!stream_) return;
  if (!broken_ && !blocked_) {
    std::string text(why.message());
    append_frame(out_, FrameKind::kBye, Bye{why.code(), text.substr(0, 256)});
    std::string rest = out_.substr(out_begin_);
    size_t done = 0;
    while (!rest.empty() &&
           stream_->write(rest.data(), rest.size(), &done) == TlsStream::Io::kDone) {
      rest.erase(0, done);
    }
  }
  loop_.remove_fd(stream_->fd());
  stream_.reset();
}

}  // namespace sheaf::transport
