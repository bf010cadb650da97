// Starts worker processes: Python workers by a fork of a warm template process, others by exec.
// Owned by the loop.
//
// Guarantee: each spawn() ends in the worker's Hello (the service calls greeted()) or in one
// on_failed(). A worker that does not greet within options.hello_timeout is killed; "setup" lines
// (below) hold the clock, as an environment may take long.
//
// ---- The template's contract (python/sheaf/_template.py is the other side)
// Started as `<python> -c "... sheaf._template ..."`, cwd = the session directory, fd 3 = an end of
// a SOCK_SEQPACKET pair, PDEATHSIG = SIGKILL, a session of its own, default signal handlers, none
// blocked. It ends at EOF on fd 3. To the template, one UTF-8 JSON object a datagram (at most
// kForkRequestBytesMax; bytes of strings that are not UTF-8 come as lone surrogates, as os.fsdecode
// makes them):
//   {"cmd": "job", "job": {"id": 1, "name_space": "", "entrypoint": "", "cwd": "",
//    "sys_path": [..], "env": {..}, "runtime_env": "", "metadata": "", "log_to_driver": true,
//    "python": ""}}
// once before the first fork for a job and whenever the job changes; then, with two descriptors
// [stdout, stderr] for the child attached,
//   {"cmd": "fork", "token": 7, "socket": "<sheafd.sock>", "session_dir": "...",
//    "runtime_env": "<canonical JSON or ''>", "language": "python"}
// which begins so, without spaces: the template looks for that, and forks at once what lies there
// together. "runtime_env" "" means the job's own (which then stands in job.runtime_env). The child,
// in this order: setsid(), prctl(PDEATHSIG, SIGKILL) and a getppid() check, dup2 of the descriptors
// onto 1 and 2, os.environ := job.env (plus the runtime_env's), sys.path := job.sys_path,
// chdir(job.cwd) if that exists, then connects with spawn_token = token. From the template, or from
// the child (which keeps fd 3 until it has connected), one line of text a datagram:
//   ready                            once, when forks will be quick
//   forked <token> <pid>             at once after the fork; this or `failed` answers each `fork`
//   setup <token>                    the runtime environment is being made: each 20 s or oftener
//   exit <pid> <wait status>         each child that ended, as waitpid() gives it
//   failed <token> <kind> <message>  kind: "unsafe" (the template has several threads: use exec
//                                    instead), "runtime_env" (final: setting it up is what
//                                    failed), "other" (tried again)
// ---- Without a template
// `<python> -m sheaf._worker` with fd 3 = a memfd that holds the object of `fork` with "job" in it,
// 1 and 2 = its log pipes, cwd = job.cwd, environment = job.env, setsid and PDEATHSIG done. It has
// no channel for "setup" or "failed" lines: it exits with kExitRuntimeEnv when the environment
// cannot be made (its stderr says why). C++ workers: `sheaf-worker` from the directory of sheafd,
// or $SHEAF_WORKER, likewise; "language" in the object names the user's library.
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
#include "launchers/log_router.h"
#include "scheduler/agent.h"
#include "scheduler/protocol.h"

namespace sheaf::launchers {

inline constexpr auto kSetupLineTimeout = std::chrono::seconds(60);  // between two "setup" lines
inline constexpr size_t kForkRequestBytesMax = 192 * 1024;
inline constexpr int kExitRuntimeEnv = 78;

struct SpawnerOptions {
  std::string socket_path;
  std::string session_dir;
  std::string worker_program;  // C++ workers; "" = none
  std::string preload;         // modules for templates, as workers.preload
  std::chrono::nanoseconds hello_timeout{std::chrono::seconds(60)};
  std::function<void(uint64_t token, const protocol::ErrorRecord& error)> on_failed;
  // A worker's wait status, as soon as it is known.
  std::function<void(pid_t pid, int status)> on_exit;
};

class TemplateProcess;

class WorkerSpawner {
 public:
  WorkerSpawner(EventLoop& loop, LogRouter& logs, SpawnerOptions options);
  ~WorkerSpawner();

  // `job` describes the one in key.job.
  void spawn(uint64_t token, const scheduler::PoolKey& key, const protocol::RegisterJob& job);
  // Starts the interpreter's template ahead of need.
  void warm(const protocol::RegisterJob& job);
  // The worker with this token said Hello from `pid`. Its key, or null when nobody waits for it.
  std::unique_ptr<scheduler::PoolKey> greeted(uint64_t token, pid_t pid);
  // Wait statuses of the daemon's own children come by SIGCHLD.
  void child_exited(pid_t pid, int status);
  // Kills template processes and workers that have not greeted. Nothing can be spawned afterwards.
  void stop();
  std::vector<pid_t> template_pids() const;

 private:
  friend class TemplateProcess;
  struct Pending {
    scheduler::PoolKey key;
    protocol::RegisterJob job;
    pid_t pid = 0;
    TemplateProcess* from = nullptr;
    EventLoop::TimerId timer = 0;
    std::chrono::steady_clock::time_point deadline;
    LogPipes pipes;  // the daemon's ends, until the pid is known
  };

  // False: the template cannot be told of this job.
  bool tell_job(TemplateProcess& from, JobId id, const protocol::RegisterJob& job);
  void spawn_by_exec(uint64_t token, Pending& pending);
  void arm(uint64_t token, std::chrono::steady_clock::duration limit);
  void expired(uint64_t token);
  void fail(uint64_t token, protocol::ErrorKind kind, const std::string& message);
  void started(uint64_t token, pid_t pid);
  void template_line(TemplateProcess& from, std::string_view line);
  void template_gone(TemplateProcess& which);
  void report_exit(pid_t pid, int status);
  TemplateProcess* template_for(const protocol::RegisterJob& job);

  EventLoop& loop_;
  LogRouter& logs_;
  SpawnerOptions options_;
  std::map<uint64_t, Pending> pending_;
  std::map<std::string, std::unique_ptr<TemplateProcess>> templates_;  // by interpreter
  std::map<std::string, int> template_failures_;  // in a row; then exec is used
  bool stopped_ = false;
};

// "was killed by signal 9 (Killed)", "exited with code 3".
std::string describe_wait_status(int status);

}  // namespace sheaf::launchers
