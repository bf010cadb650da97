#include "launchers/log_router.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>

namespace sheaf::launchers {

namespace {

constexpr auto kRateWindow = std::chrono::seconds(1);
constexpr size_t kFinishBytesMax =
    4 << 20;  // left in the pipes of a dead worker whose children still write

void write_all(int fd, std::string_view bytes) {
  while (fd >= 0 && !bytes.empty()) {
    ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // a full disk loses log lines, nothing else
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

}  // namespace

struct LogRouter::Stream {
  Fd pipe;
  Fd file;  // from the first byte on: to make a file costs more than all else here
  std::string path;
  bool is_stderr = false;
  std::string partial;
  std::string name;
};

struct LogRouter::Worker {
  pid_t pid = 0;
  JobId job = 0;
  Stream streams[2];
  protocol::LogLines lines;  // to be delivered at the end of this round
  std::chrono::steady_clock::time_point window{};
  uint32_t shown = 0, dropped = 0;  // in this window
};

LogRouter::LogRouter(EventLoop& loop, std::string directory, uint32_t lines_per_second,
                     Deliver deliver)
    : loop_(loop),
      directory_(std::move(directory)),
      lines_per_second_(lines_per_second),
      deliver_(std::move(deliver)) {}

LogRouter::~LogRouter() {
  for (auto& [pid, worker] : workers_) {
    for (Stream& s : worker->streams) {
      if (s.pipe) loop_.remove_fd(s.pipe.get());
    }
  }
}

Result<std::pair<LogPipes, LogPipeEnds>> LogRouter::make_pipes() {
  LogPipes ours;
  LogPipeEnds theirs;
  std::pair<Fd*, Fd*> ends[] = {{&ours.out, &theirs.out}, {&ours.err, &theirs.err}};
  for (auto [reader, writer] : ends) {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0) return Status::from_errno("pipe2", errno);
    reader->reset(fds[0]);
    writer->reset(fds[1]);
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
  }
  return std::pair(std::move(ours), std::move(theirs));
}

void LogRouter::attach(pid_t pid, JobId job, LogPipes pipes) {
  finish(pid);
  auto worker = std::make_unique<Worker>();
  worker->pid = pid;
  worker->job = job;
  Worker* raw = worker.get();
  worker->streams[0].pipe = std::move(pipes.out);
  worker->streams[1].pipe = std::move(pipes.err);
  for (int i = 0; i < 2; ++i) {
    Stream& s = worker->streams[i];
    s.is_stderr = i == 1;
    s.path = fmt::format("{}/worker-{}.{}", directory_, pid, i == 0 ? "out" : "err");
    Status added = loop_.add_fd(s.pipe.get(), EPOLLIN, [this, raw, i](uint32_t) {
      pump(*raw, raw->streams[i], kReadBytesPerRound);
      flush(*raw);
      if (raw->streams[0].pipe || raw->streams[1].pipe) return;
      loop_.post([this, pid = raw->pid] { forget_closed(pid); });
    });
    if (!added.is_ok()) s.pipe.reset();
  }
  workers_[pid] = std::move(worker);
}

// False at the end of the stream, which is closed then.
bool LogRouter::pump(Worker& worker, Stream& stream, size_t budget) {
  char buffer[16 * 1024];
  while (budget > 0 && stream.pipe) {
    ssize_t n = ::read(stream.pipe.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return true;
    if (n == 0) {
      close_stream(worker, stream);
      return false;
    }
    take(worker, stream, {buffer, static_cast<size_t>(n)});
    budget -= std::min(budget, static_cast<size_t>(n));
  }
  return true;
}

void LogRouter::close_stream(Worker& worker, Stream& stream) {
  if (!stream.pipe) return;
  if (!stream.partial.empty()) show(worker, stream, stream.partial);
  stream.partial.clear();
  loop_.remove_fd(stream.pipe.get());
  stream.pipe.reset();
  stream.file.reset();
}

void LogRouter::take(Worker& worker, Stream& stream, std::string_view bytes) {
  if (!stream.file) {
    constexpr int kHow = O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC;
    stream.file.reset(::open(stream.path.c_str(), kHow, 0600));
  }
  write_all(stream.file.get(), bytes);
  while (!bytes.empty()) {
    size_t end = bytes.find('\n');
    if (end == std::string_view::npos) {
      stream.partial += bytes;
      if (stream.partial.size() < kLineBytesMax) return;
      show(worker, stream, stream.partial);
      stream.partial.clear();
      return;
    }
    if (stream.partial.empty()) {
      show(worker, stream, bytes.substr(0, end));
    } else {
      stream.partial += bytes.substr(0, end);
      show(worker, stream, stream.partial);
      stream.partial.clear();
    }
    bytes.remove_prefix(end + 1);
  }
}

void LogRouter::show(Worker& worker, Stream& stream, std::string_view line) {
  if (line.starts_with(kNameMarker)) {
    stream.name = line.substr(1);
    return;
  }
  if (loop_.now() - worker.window >= kRateWindow) {
    if (worker.dropped > 0) {
      worker.lines.lines.push_back({worker.pid, true, "",
                                    fmt::format("{} lines dropped; all of them are in {}",
                                                worker.dropped, worker.streams[0].path)});
    }
    worker.window = loop_.now();
    worker.shown = worker.dropped = 0;
  }
  if (++worker.shown > lines_per_second_) {
    ++worker.dropped;
    ++dropped_total_;
    return;
  }
  if (line.ends_with('\r')) line.remove_suffix(1);
  worker.lines.lines.push_back({worker.pid, stream.is_stderr, stream.name, std::string(line)});
}

void LogRouter::flush(Worker& worker) {
  if (worker.lines.lines.empty()) return;
  protocol::LogLines lines;
  lines.lines.swap(worker.lines.lines);
  deliver_(worker.job, std::move(lines));
}

void LogRouter::finish(pid_t pid) {
  auto it = workers_.find(pid);
  if (it == workers_.end()) return;
  Worker& worker = *it->second;
  for (Stream& s : worker.streams) {
    pump(worker, s, kFinishBytesMax);
    close_stream(worker, s);
  }
  if (worker.dropped > 0) {
    worker.lines.lines.push_back({pid, true, "", fmt::format("{} lines dropped", worker.dropped)});
  }
  flush(worker);
  workers_.erase(it);
}

void LogRouter::forget_closed(pid_t pid) {
  auto it = workers_.find(pid);  // another worker may have the pid by now
  if (it == workers_.end() || it->second->streams[0].pipe || it->second->streams[1].pipe) return;
  finish(pid);
}

void LogRouter::catch_up() {
  for (auto& [pid, worker] : workers_) {
    for (Stream& s : worker->streams) pump(*worker, s, kFinishBytesMax);
    flush(*worker);
  }
}

void LogRouter::finish_all() {
  while (!workers_.empty()) finish(workers_.begin()->first);
}

}  // namespace sheaf::launchers
