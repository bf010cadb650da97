#include "transport/fabric/sock_greeting.h"

#include <cerrno>
#include <cstring>

namespace sheaf::transport {

namespace {

// Only a refusal says that nobody serves there; without a way there nothing is known.
Status connect_error(const std::string& what, int error) {
  StatusCode code = error == ECONNREFUSED ? StatusCode::kDisconnected : StatusCode::kTimeout;
  return {code, what + std::strerror(error)};
}

// Who hangs up in the middle may be busy, or dead: the next attempt will show.
Status broken_off(const Status& why) {
  if (why.code() != StatusCode::kDisconnected) return why;
  return {StatusCode::kTimeout, std::string(why.message())};
}

}  // namespace

Greeting::Greeting(EventLoop& loop, const SockFabricOptions& options, Done done)
    : loop_(loop),
      timeout_(options.handshake_timeout),
      peer_timeout_(options.peer_timeout),
      done_(std::move(done)) {}

Greeting::~Greeting() {
  if (timer_ != 0) loop_.cancel_timer(timer_);
  if (fd_ >= 0) loop_.remove_fd(fd_);
}

Result<std::unique_ptr<Greeting>> Greeting::dial(EventLoop& loop, std::shared_ptr<TlsContext> tls,
                                                 const SockFabricOptions& options,
                                                 const FabricAddress& address, const Hello& hello,
                                                 Done done) {
  SHEAF_ASSIGN(SocketAddress where, to_socket_address(address));
  Fd socket(::socket(where.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) return Status::from_errno("socket", errno);
  set_stream_options(socket.get(), hello.purpose == ConnectionPurpose::kControl,
                     options.peer_timeout);
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&where.storage), where.size) != 0 &&
      errno != EINPROGRESS) {
    int error = errno;
    return connect_error("connecting to " + to_string(address) + ": ", error);
  }
  std::unique_ptr<Greeting> out(new Greeting(loop, options, std::move(done)));
  out->tls_ = std::move(tls);
  out->result_.hello = hello;
  out->fd_ = socket.get();
  out->connecting_ = std::move(socket);
  append_frame(out->out_, FrameKind::kHello, hello);
  out->start(EPOLLOUT);
  return out;
}

std::unique_ptr<Greeting> Greeting::accept(EventLoop& loop, std::shared_ptr<TlsContext> tls,
                                           const SockFabricOptions& options, Fd socket, Judge judge,
                                           Done done) {
  std::unique_ptr<Greeting> out(new Greeting(loop, options, std::move(done)));
  out->judge_ = std::move(judge);
  out->fd_ = socket.get();
  out->stream_ = std::make_unique<TlsStream>(std::move(tls), std::move(socket),
                                             TlsStream::Role::kServer);
  out->step_ = Step::kTls;
  out->start(EPOLLIN);
  return out;
}

void Greeting::start(uint32_t events) {
  Status added = loop_.add_fd(fd_, events, [this](uint32_t) { advance(); });
  auto limit = added.is_ok() ? timeout_ : std::chrono::milliseconds(0);
  timer_ = loop_.call_after(limit, [this, added] {
    timer_ = 0;
    finish(added.is_ok() ? Status(StatusCode::kTimeout, "did not authenticate in time") : added);
  });
}

void Greeting::advance() {
  while (step()) {
  }
}

bool Greeting::step() {
  switch (step_) {
    case Step::kConnecting: {
      int error = 0;
      socklen_t size = sizeof error;
      getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &size);
      if (error != 0) {
        finish(connect_error("connecting: ", error));
        return false;
      }
      stream_ = std::make_unique<TlsStream>(tls_, std::move(connecting_), TlsStream::Role::kClient);
      stream_->tune_for(use());
      step_ = Step::kTls;
      (void)loop_.change_fd(fd_, EPOLLIN);
      return true;
    }
    case Step::kTls: {
      TlsStream::Io io = stream_->handshake();
      if (judge_ && stream_->raw_bytes_read() > kGreetingRawBytesMax) {
        finish(Status(StatusCode::kPermissionDenied, "sends too much before it authenticates"));
        return false;
      }
      if (io == TlsStream::Io::kFailed) {
        finish(broken_off(stream_->error()));
        return false;
      }
      if (io == TlsStream::Io::kAgain) {
        (void)loop_.change_fd(fd_, stream_->wants_write() ? EPOLLIN | EPOLLOUT : EPOLLIN);
        return false;
      }
      step_ = judge_ ? Step::kReading : Step::kWriting;
      return true;
    }
    case Step::kWriting:
      return write_some();
    case Step::kReading:
      return read_some();
  }
  return false;
}

bool Greeting::write_some() {
  while (!out_.empty()) {
    size_t done = 0;
    TlsStream::Io io = stream_->write(out_.data(), out_.size(), &done);
    if (io == TlsStream::Io::kFailed) {
      finish(broken_off(stream_->error()));
      return false;
    }
    if (io == TlsStream::Io::kAgain) {
      (void)loop_.change_fd(fd_, EPOLLIN | EPOLLOUT);
      return false;
    }
    out_.erase(0, done);
  }
  (void)loop_.change_fd(fd_, EPOLLIN);
  if (judge_) {
    finish(Status(result_.welcome.code, result_.welcome.message));
    return false;
  }
  step_ = Step::kReading;
  return true;
}

// Exactly one frame: what follows it belongs to the stream's next owner.
bool Greeting::read_some() {
  for (;;) {
    FrameHeader header;
    size_t want = sizeof header;
    if (in_.size() >= sizeof header) {
      std::memcpy(&header, in_.data(), sizeof header);
      FrameKind due = judge_ ? FrameKind::kHello : FrameKind::kWelcome;
      if (header.kind != due || header.length > kHelloBodyMax) {
        finish(Status(StatusCode::kCorrupt, "greets with another protocol"));
        return false;
      }
      want += header.length;
      if (in_.size() == want) {
        return on_frame();
      }
    }
    size_t have = in_.size(), done = 0;
    in_.resize(want);
    TlsStream::Io io = stream_->read(in_.data() + have, want - have, &done);
    in_.resize(have + (io == TlsStream::Io::kDone ? done : 0));
    if (io == TlsStream::Io::kFailed) finish(broken_off(stream_->error()));
    if (io != TlsStream::Io::kDone) return false;
  }
}

bool Greeting::on_frame() {
  std::string_view body = std::string_view(in_).substr(sizeof(FrameHeader));
  if (judge_) {
    Result<Hello> hello = wire::decode<Hello>(body);
    // An older or newer version may have other members: magic and version stay where they are.
    result_.hello = hello ? *hello : Hello{};
    if (!hello) result_.hello.magic = 0;
    result_.welcome = judge_(result_.hello);
    append_frame(out_, FrameKind::kWelcome, result_.welcome);
    step_ = Step::kWriting;
    return true;
  }
  Result<Welcome> welcome = wire::decode<Welcome>(body);
  if (!welcome || welcome->magic != kFabricMagic) {
    finish(Status(StatusCode::kUnsupported, "the other side speaks another protocol"));
    return false;
  }
  result_.welcome = *welcome;
  finish(Status(welcome->code, welcome->message));
  return false;
}

void Greeting::finish(Status status) {
  loop_.remove_fd(fd_);
  fd_ = -1;
  if (timer_ != 0) loop_.cancel_timer(std::exchange(timer_, 0));
  result_.status = std::move(status);
  if (result_.status.is_ok()) {
    if (judge_) {
      set_stream_options(stream_->fd(), use() == TlsUse::kControl, peer_timeout_);
      stream_->tune_for(use());
    }
    result_.stream = std::move(stream_);
  }
  Done done = std::move(done_);
  done(std::move(result_));  // may destroy *this
}

}  // namespace sheaf::transport
