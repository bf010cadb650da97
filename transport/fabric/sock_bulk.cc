#include "transport/fabric/sock_bulk.h"

#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace sheaf::transport {
namespace {

// One connection's share of a round of the thread's loop.
constexpr size_t kBytesPerRound = 2 << 20;
// Grants end at multiples of this, so that all of a granted part is reported once it is there.
constexpr uint64_t kReportBytes = kPullGrantBytes;
// The head of a frame and the first of its bytes leave in one TLS record.
constexpr size_t kFirstRecordBytes = 16 * 1024;
constexpr size_t kSinkBytes = 16 * 1024;

}  // namespace

struct SockBulk::Channel {
  uint64_t session = 0;
  std::unique_ptr<TlsStream> stream;
  std::unordered_map<PullId, Incoming> in;
  std::map<PullId, Sending> out;
  uint64_t arrivals = 0;
  bool in_posted = false, out_posted = false;
  bool blocked = false;  // the socket is full

  // The frame that is being received.
  std::array<std::byte, kPullHeadBytes> head;
  size_t head_have = 0;
  PullHead frame;
  size_t frame_left = 0;
  bool to_sink = false;
  bool asked_again = false;  // for a pull that was unknown at first

  // The frame that is being sent: `first`, then [rest, rest + rest_left) of the region.
  PullId sending = 0;
  std::array<std::byte, kFirstRecordBytes> first;
  size_t first_begin = 0, first_end = 0;
  const std::byte* rest = nullptr;
  size_t rest_left = 0;
};

SockBulk::SockBulk(EventLoop& owner, Events events)
    : owner_(owner), events_(std::move(events)) {}

template <class F>
void SockBulk::command(uint64_t session, F f) {
  loop_->post([this, session, f = std::move(f)]() mutable {
    auto it = channels_.find(session);
    if (it != channels_.end()) f(*it->second);
  });
}

template <class F>
void SockBulk::report(F f) {
  owner_.post([gate = std::weak_ptr<bool>(gate_), f = std::move(f)] {
    if (!gate.expired()) f();  // the owner destroys us on this very loop
  });
}

Result<std::unique_ptr<SockBulk>> SockBulk::create(EventLoop& owner, Events events) {
  std::unique_ptr<SockBulk> out(new SockBulk(owner, std::move(events)));
  SHEAF_ASSIGN(out->loop_, EventLoop::create());
  SockBulk* self = out.get();
  out->thread_ = std::thread([self] {
    prctl(PR_SET_NAME, "sheaf-bulk");
    self->loop_->run();
  });
  return out;
}

SockBulk::~SockBulk() {
  // gate_ goes with the members, after the thread that reads it and before the owner's loop can run
  // what that thread has posted.
  if (!thread_.joinable()) return;
  loop_->stop();
  thread_.join();
}

void SockBulk::open(uint64_t session) {
  loop_->post([this, session] {
    auto channel = std::make_unique<Channel>();
    channel->session = session;
    channels_.emplace(session, std::move(channel));
  });
}

void SockBulk::attach(uint64_t session, std::unique_ptr<TlsStream> stream) {
  // std::function copies its closures, so that the stream needs a shared owner on the way.
  auto box = std::make_shared<std::unique_ptr<TlsStream>>(std::move(stream));
  command(session, [this, box](Channel& channel) {
    if (channel.stream) return broken(channel, {StatusCode::kInternal, "two bulk connections"});
    channel.stream = std::move(*box);
    Channel* at = &channel;
    Status added = loop_->add_fd(channel.stream->fd(), EPOLLIN,
                                 [this, at](uint32_t events) { on_fd(*at, events); });
    if (!added.is_ok()) return broken(channel, added);
    pump_in(channel);
    if (channel.stream) pump_out(channel);
  });
}

void SockBulk::expect(uint64_t session, PullId pull, std::span<std::byte> into) {
  command(session, [pull, into](Channel& channel) { channel.in[pull] = Incoming{into}; });
}

void SockBulk::detach(uint64_t session, PullId pull) {
  command(session, [this, session, pull](Channel& channel) {
    channel.in.erase(pull);
    if (channel.frame_left > 0 && channel.frame.data.pull == pull) channel.to_sink = true;
    report([this, session, pull] { events_.on_detached(session, pull); });
  });
}

void SockBulk::send(uint64_t session, const Outgoing& out) {
  command(session, [this, out](Channel& channel) {
    Sending& sending = channel.out[out.pull];
    static_cast<Outgoing&>(sending) = out;
    sending.arrival = channel.arrivals++;
    pump_out(channel);
  });
}

void SockBulk::grant(uint64_t session, PullId pull, uint64_t granted) {
  command(session, [this, pull, granted](Channel& channel) {
    auto it = channel.out.find(pull);
    if (it == channel.out.end()) return;
    it->second.granted = std::clamp(granted, it->second.granted, it->second.length);
    pump_out(channel);
  });
}

void SockBulk::stop_sending(uint64_t session, PullId pull) {
  command(session, [this, session, pull](Channel& channel) {
    auto it = channel.out.find(pull);
    if (it == channel.out.end()) return;
    if (channel.sending == pull) {
      it->second.stopped = true;  // its frame has a length to keep
      return;
    }
    uint64_t bytes = it->second.sent;
    channel.out.erase(it);
    report([this, session, pull, bytes] { events_.on_sent(session, pull, bytes); });
  });
}

void SockBulk::drop(uint64_t session) {
  loop_->post([this, session] {
    auto node = channels_.extract(session);
    if (!node.empty() && node.mapped()->stream) loop_->remove_fd(node.mapped()->stream->fd());
    report([this, session] { events_.on_dropped(session); });
  });
}

void SockBulk::broken(Channel& channel, Status why) {
  if (channel.stream) loop_->remove_fd(channel.stream->fd());
  channel.stream.reset();
  uint64_t session = channel.session;
  report([this, session, why = std::move(why)] { events_.on_broken(session, why); });
}

void SockBulk::on_fd(Channel& channel, uint32_t events) {
  if (channel.blocked && (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) {
    channel.blocked = false;
    (void)loop_->change_fd(channel.stream->fd(), EPOLLIN);
    pump_out(channel);
  }
  if (channel.stream && (events & ~uint32_t{EPOLLOUT}) != 0) pump_in(channel);
}

// Goes on in the next round of the loop, after the commands that wait.
void SockBulk::resume(Channel& channel, bool Channel::* flag, void (SockBulk::*pump)(Channel&)) {
  if (channel.*flag) return;
  channel.*flag = true;
  command(channel.session, [this, flag, pump](Channel& again) {
    again.*flag = false;
    if (again.stream) (this->*pump)(again);
  });
}

void SockBulk::pump_in(Channel& channel) {
  if (channel.in_posted) return;  // goes on there, after the commands that wait
  static thread_local std::array<std::byte, kSinkBytes> sink;
  for (size_t taken = 0; taken < kBytesPerRound;) {
    if (channel.frame_left == 0 && channel.head_have == kPullHeadBytes) {
      if (!begin_frame(channel)) return;
    }
    std::byte* at = sink.data();
    size_t want = std::min(channel.frame_left, sink.size());
    if (channel.frame_left == 0) {
      at = channel.head.data() + channel.head_have;
      want = kPullHeadBytes - channel.head_have;
    } else if (!channel.to_sink) {
      at = channel.in[channel.frame.data.pull].into.data() + channel.frame.data.offset;
      want = channel.frame_left;
    }
    size_t done = 0;
    TlsStream::Io io = channel.stream->read(at, want, &done);
    if (io == TlsStream::Io::kFailed) return broken(channel, channel.stream->error());
    if (io == TlsStream::Io::kAgain) return;
    taken += done;
    if (channel.frame_left == 0) {
      channel.head_have += done;
    } else {
      took(channel, done);
    }
  }
  resume(channel, &Channel::in_posted, &SockBulk::pump_in);
}

// The head is complete. False when there is nothing to read into yet, or the stream is broken.
bool SockBulk::begin_frame(Channel& channel) {
  Result<PullHead> head = decode_pull_head(channel.head.data());
  if (!head) {
    broken(channel, head.status());
    return false;
  }
  auto it = channel.in.find(head->data.pull);
  if (it == channel.in.end() && !channel.asked_again) {
    // Its expect() was posted before the peer was asked, so it is among the commands that wait.
    // If it is not there after them, then the pull was cancelled, and its bytes go nowhere.
    channel.asked_again = true;
    resume(channel, &Channel::in_posted, &SockBulk::pump_in);
    return false;
  }
  channel.asked_again = false;
  channel.to_sink = it == channel.in.end();
  if (!channel.to_sink) {
    const Incoming& in = it->second;
    if (head->data.offset != in.received || head->length > in.into.size() - in.received) {
      broken(channel, {StatusCode::kCorrupt, "the peer sends bytes that were not asked for"});
      return false;
    }
  }
  channel.frame = *head;
  channel.frame_left = head->length;
  return true;
}

void SockBulk::took(Channel& channel, size_t bytes) {
  channel.frame_left -= bytes;
  channel.frame.data.offset += bytes;
  if (channel.frame_left == 0) channel.head_have = 0;
  if (channel.to_sink) return;
  uint64_t session = channel.session;
  PullId pull = channel.frame.data.pull;
  Incoming& in = channel.in[pull];
  in.received += bytes;
  if (in.received == in.into.size()) {
    channel.in.erase(pull);
    report([this, session, pull] { events_.on_received(session, pull); });
  } else if (in.received / kReportBytes > in.reported / kReportBytes) {
    in.reported = in.received;
    report([this, session, pull, total = in.received] {
      events_.on_progress(session, pull, total);
    });
  }
}

void SockBulk::pump_out(Channel& channel) {
  if (!channel.stream || channel.blocked || channel.out_posted) return;
  for (size_t frames = 0; frames < kBytesPerRound / kPullDataBytesMax; ++frames) {
    if (channel.sending == 0 && !next_frame(channel)) return;
    if (!write_frame(channel)) return;
    ended_frame(channel);
  }
  resume(channel, &Channel::out_posted, &SockBulk::pump_out);
}

// The most urgent pull that has something to send, then the oldest.
bool SockBulk::next_frame(Channel& channel) {
  Sending* best = nullptr;
  for (auto& [pull, out] : channel.out) {
    if (out.sent == out.granted) continue;
    if (best == nullptr || std::pair(out.priority, out.arrival) <
                               std::pair(best->priority, best->arrival)) {
      best = &out;
    }
  }
  if (best == nullptr) return false;
  size_t length = std::min<uint64_t>(best->granted - best->sent, kPullDataBytesMax);
  encode_pull_head({{best->pull, best->sent}, length}, channel.first.data());
  size_t copied = std::min(length, kFirstRecordBytes - kPullHeadBytes);
  const std::byte* from = best->data + best->sent;
  std::memcpy(channel.first.data() + kPullHeadBytes, from, copied);
  channel.first_begin = 0;
  channel.first_end = kPullHeadBytes + copied;
  channel.rest = from + copied;
  channel.rest_left = length - copied;
  channel.sending = best->pull;
  best->sent += length;
  return true;
}

// True once the whole frame has left.
bool SockBulk::write_frame(Channel& channel) {
  while (channel.first_begin < channel.first_end || channel.rest_left > 0) {
    bool first = channel.first_begin < channel.first_end;
    const std::byte* from = first ? channel.first.data() + channel.first_begin : channel.rest;
    size_t size = first ? channel.first_end - channel.first_begin : channel.rest_left;
    size_t done = 0;
    TlsStream::Io io = channel.stream->write(from, size, &done);
    if (io == TlsStream::Io::kFailed) {
      broken(channel, channel.stream->error());
      return false;
    }
    if (io == TlsStream::Io::kAgain) {
      channel.blocked = true;
      (void)loop_->change_fd(channel.stream->fd(), EPOLLIN | EPOLLOUT);
      return false;
    }
    if (first) {
      channel.first_begin += done;
    } else {
      channel.rest += done;
      channel.rest_left -= done;
    }
  }
  return true;
}

void SockBulk::ended_frame(Channel& channel) {
  PullId pull = std::exchange(channel.sending, 0);
  auto it = channel.out.find(pull);
  const Sending& out = it->second;
  if (out.sent < out.length && !out.stopped) return;
  uint64_t session = channel.session, bytes = out.sent;
  channel.out.erase(it);
  report([this, session, pull, bytes] { events_.on_sent(session, pull, bytes); });
}

}  // namespace sheaf::transport
