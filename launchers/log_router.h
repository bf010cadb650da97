// Workers' standard output: from their pipes into files, and on to the driver of their job.
//
// Everything goes to <logs>/worker-<pid>.{out,err}. The driver gets whole lines, at most
// `lines_per_second` of a worker; what is over is counted in a note. A line that starts with
// kNameMarker is not shown: the rest of it is the name (of the task or actor) under which the
// following lines of this stream are shown. Never blocks: pipes are non-blocking, and each is read
// at most kReadBytesPerRound a round. A part of a line is shown when its writer has closed the
// pipe. Owned by the loop.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/event_loop.h"
#include "core/fd.h"
#include "core/ids.h"
#include "core/status.h"
#include "scheduler/protocol.h"

namespace sheaf::launchers {

inline constexpr char kNameMarker = '\x1e';
inline constexpr size_t kReadBytesPerRound = 64 * 1024;
inline constexpr size_t kLineBytesMax = 64 * 1024;  // longer lines are shown in pieces

// The daemon's ends.
struct LogPipes {
  Fd out, err;
};
// The worker's ends.
struct LogPipeEnds {
  Fd out, err;
};

class LogRouter {
 public:
  // `deliver` must not block; it may drop.
  using Deliver = std::function<void(JobId job, protocol::LogLines lines)>;
  LogRouter(EventLoop& loop, std::string directory, uint32_t lines_per_second, Deliver deliver);
  ~LogRouter();

  Result<std::pair<LogPipes, LogPipeEnds>> make_pipes();
  // From now on what comes through the pipes belongs to this worker.
  void attach(pid_t pid, JobId job, LogPipes pipes);
  // Reads what is left in the pipes of this worker (it is dead) and closes its files.
  void finish(pid_t pid);
  void finish_all();
  // Shows what is in the pipes now: an answer that is sent next comes behind it.
  void catch_up();
  uint64_t dropped_lines() const { return dropped_total_; }

 private:
  struct Stream;
  struct Worker;
  bool pump(Worker& worker, Stream& stream, size_t budget);
  void take(Worker& worker, Stream& stream, std::string_view bytes);
  void show(Worker& worker, Stream& stream, std::string_view line);
  void flush(Worker& worker);
  void forget_closed(pid_t pid);
  void close_stream(Worker& worker, Stream& stream);

  EventLoop& loop_;
  std::string directory_;
  uint32_t lines_per_second_;
  Deliver deliver_;
  std::map<pid_t, std::unique_ptr<Worker>> workers_;
  uint64_t dropped_total_ = 0;
};

}  // namespace sheaf::launchers
