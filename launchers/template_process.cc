#include "launchers/template_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <iterator>

#include "launchers/child_process.h"
#include "launchers/packet.h"

namespace sheaf::launchers {

namespace {

constexpr int kSendBufferBytes = 1 << 20;
constexpr size_t kLineBytes = 16 * 1024;
// As `-m sheaf._template`, without the milliseconds of what that imports and of looking for each
// module in the working directory first.
constexpr const char* kStart =
    "import sys; sys.path[:] = filter(None, sys.path); import sheaf._template as t; t.main()";

// The template must find `sheaf` where the driver found it, and nothing of the driver's own
// modules.
std::string package_path(const protocol::RegisterJob& job) {
  for (const std::string& entry : job.sys_path) {
    std::string base = entry.empty() ? job.cwd : entry;
    if (access((base + "/sheaf/__init__.py").c_str(), R_OK) == 0) return base;
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<TemplateProcess>> TemplateProcess::start(EventLoop& loop,
                                                                const protocol::RegisterJob& job,
                                                                const std::string& session_dir,
                                                                const std::string& preload,
                                                                Callbacks callbacks) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return Status::from_errno("socketpair", errno);
  auto self = std::unique_ptr<TemplateProcess>(new TemplateProcess(loop, std::move(callbacks)));
  self->socket_ = Fd(pair[0]);
  Fd theirs(pair[1]);
  fcntl(pair[0], F_SETFL, O_NONBLOCK);  // ours alone: the template may block
  setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &kSendBufferBytes, sizeof kSendBufferBytes);

  ChildOptions child;
  child.arguments = {job.python, "-c", kStart};
  child.environment = job.env.empty() ? own_environment() : job.env;
  if (std::string path = package_path(job); !path.empty()) child.environment["PYTHONPATH"] = path;
  child.environment["LD_BIND_NOW"] = "1";   // once here, instead of page by page in each worker
  if (!preload.empty()) child.environment["SHEAF_WORKERS_PRELOAD"] = preload;
  child.directory = session_dir;
  child.fd3 = theirs.get();
  SHEAF_ASSIGN(self->pid_, start_child(child));
  TemplateProcess* raw = self.get();
  SHEAF_TRY(loop.add_fd(pair[0], EPOLLIN, [raw](uint32_t events) { raw->ready(events); }));
  return self;
}

TemplateProcess::~TemplateProcess() {
  if (socket_) loop_.remove_fd(socket_.get());
  if (pid_ > 0) ::kill(pid_, SIGKILL);
}

Status TemplateProcess::send_front() {
  Request& front = queue_.front();
  int fds[] = {front.pipes.out.get(), front.pipes.err.get()};
  size_t count = front.pipes.out ? std::size(fds) : 0;
  return send_packet(socket_.get(), front.json, {fds, count});
}

Status TemplateProcess::request(std::string json, LogPipeEnds pipes) {
  if (!socket_) return {StatusCode::kDisconnected, "the template process has gone"};
  queue_.push_back({std::move(json), std::move(pipes)});
  if (queue_.size() > 1) return {};
  Status s = send_front();
  if (s.code() == StatusCode::kOverloaded)
    return loop_.change_fd(socket_.get(), EPOLLIN | EPOLLOUT);
  queue_.pop_front();
  return s;
}

bool TemplateProcess::send_queued() {
  while (!queue_.empty()) {
    Status s = send_front();
    if (s.code() == StatusCode::kOverloaded) return true;
    if (!s.is_ok()) return false;
    queue_.pop_front();
  }
  return loop_.change_fd(socket_.get(), EPOLLIN).is_ok();
}

void TemplateProcess::ready(uint32_t events) {
  if ((events & EPOLLOUT) != 0 && !send_queued()) return gone();
  while (socket_) {
    auto packet = receive_packet(socket_.get(), kLineBytes);
    if (!packet && packet.status().code() == StatusCode::kOverloaded) return;
    if (!packet || packet->end) return gone();
    std::string_view line = packet->bytes;
    while (line.ends_with('\n')) line.remove_suffix(1);
    callbacks_.on_line(line);
  }
}

void TemplateProcess::gone() {
  if (!socket_) return;
  loop_.remove_fd(socket_.get());
  socket_.reset();
  queue_.clear();
  callbacks_.on_gone();
}

}  // namespace sheaf::launchers
