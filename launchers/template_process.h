// One interpreter's warm process and its socket; worker_spawner.h has the contract. Owned by the
// loop.
#pragma once

#include <sys/types.h>

#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>

#include "core/event_loop.h"
#include "core/fd.h"
#include "launchers/log_router.h"
#include "scheduler/protocol.h"

namespace sheaf::launchers {

class TemplateProcess {
 public:
  struct Callbacks {
    std::function<void(std::string_view line)> on_line;
    std::function<void()>
        on_gone;  // once; the object may be destroyed by a posted closure, not inside
  };
  static Result<std::unique_ptr<TemplateProcess>> start(EventLoop& loop,
                                                        const protocol::RegisterJob& job,
                                                        const std::string& session_dir,
                                                        const std::string& preload,
                                                        Callbacks callbacks);
  ~TemplateProcess();

  // Queued when the socket is full. kInvalidArgument when it can never be sent. `pipes` may be
  // empty.
  Status request(std::string json, LogPipeEnds pipes);
  pid_t pid() const { return pid_; }
  JobId told_job = 0;  // the job that its next children will work for
  bool usable = true;       // set to false when it says that forking is not safe there
  std::set<pid_t> workers;  // its children that live

 private:
  struct Request {
    std::string json;
    LogPipeEnds pipes;
  };
  TemplateProcess(EventLoop& loop, Callbacks callbacks)
      : loop_(loop), callbacks_(std::move(callbacks)) {}
  void ready(uint32_t events);
  Status send_front();
  bool send_queued();
  void gone();

  EventLoop& loop_;
  Callbacks callbacks_;
  Fd socket_;
  pid_t pid_ = 0;
  std::deque<Request> queue_;
};

}  // namespace sheaf::launchers
