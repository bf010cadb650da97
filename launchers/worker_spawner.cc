#include "launchers/worker_spawner.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

#include "core/json.h"
#include "launchers/child_process.h"
#include "launchers/template_process.h"

namespace sheaf::launchers {

using protocol::ErrorKind;

namespace {

constexpr int kTemplateFailuresMax = 3;

// Python reads lone surrogates back as the bytes that they stand for (os.fsencode). A string that
// is not UTF-8 is written with one for each of its bytes from 0x80.
std::string os_string(const std::string& text) {
  std::string quoted = json_quote(text);
  auto back = parse_json(quoted);
  if (back && back->as_string() != nullptr && *back->as_string() == text) return quoted;
  std::string out = "\"";
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x80) {
      out += fmt::format("\\udc{:02x}", byte);
    } else {
      std::string one = json_quote(std::string_view(&c, 1));
      out.append(one, 1, one.size() - 2);
    }
  }
  return out + '"';
}

void write_job(JsonWriter& w, JobId id, const protocol::RegisterJob& job) {
  w.key("job").begin_object().key("id").value(id);
  w.key("name_space").value(job.name_space).key("entrypoint").raw(os_string(job.entrypoint));
  w.key("cwd").raw(os_string(job.cwd)).key("sys_path").begin_array();
  for (const std::string& entry : job.sys_path) w.raw(os_string(entry));
  w.end_array().key("env").begin_object();
  for (const auto& [name, value] : job.env) {
    std::string quoted =
        os_string(name);  // key() quotes by itself: names that are not UTF-8 are left out
    if (quoted == json_quote(name)) w.key(name).raw(os_string(value));
  }
  w.end_object().key("runtime_env").value(job.runtime_env).key("metadata").value(job.metadata);
  w.key("log_to_driver").value(job.log_to_driver).key("python").raw(os_string(job.python));
  w.end_object();
}

std::string job_json(JobId id, const protocol::RegisterJob& job) {
  JsonWriter w;
  w.begin_object().key("cmd").value("job");
  write_job(w, id, job);
  w.end_object();
  return std::move(w).take();
}

// With the job, for a process that has not been told of it.
std::string spawn_json(uint64_t token, const SpawnerOptions& options, const scheduler::PoolKey& key,
                       const protocol::RegisterJob* job) {
  JsonWriter w;
  w.begin_object().key("cmd").value("fork").key("token").value(token).key("socket").value(
      options.socket_path);
  w.key("session_dir").value(options.session_dir).key("runtime_env").value(key.runtime_env);
  w.key("language").value(key.language);
  if (job != nullptr) write_job(w, key.job, *job);
  w.end_object();
  return std::move(w).take();
}

// The next word of `line`, which is shortened by it.
std::string_view word(std::string_view& line) {
  size_t end = std::min(line.find(' '), line.size());
  std::string_view out = line.substr(0, end);
  line.remove_prefix(std::min(end + 1, line.size()));
  return out;
}

template <class T>
T number(std::string_view text) {
  T value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

Result<Fd> file_with(const std::string& text) {
  Fd fd(memfd_create("sheaf-spawn", MFD_CLOEXEC));
  if (!fd) return Status::from_errno("memfd_create", errno);
  if (::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
      lseek(fd.get(), 0, SEEK_SET) != 0) {
    return Status::from_errno("memfd", errno);
  }
  return fd;
}

}  // namespace

std::string describe_wait_status(int status) {
  if (WIFSIGNALED(status)) {
    int s = WTERMSIG(status);
    return fmt::format("was killed by signal {} ({}){}", s, strsignal(s),
                       WCOREDUMP(status) ? ", core dumped" : "");
  }
  return fmt::format("exited with code {}", WEXITSTATUS(status));
}

WorkerSpawner::WorkerSpawner(EventLoop& loop, LogRouter& logs, SpawnerOptions options)
    : loop_(loop), logs_(logs), options_(std::move(options)) {}

WorkerSpawner::~WorkerSpawner() = default;

void WorkerSpawner::warm(const protocol::RegisterJob& job) {
  if (!job.python.empty()) template_for(job);
}

TemplateProcess* WorkerSpawner::template_for(const protocol::RegisterJob& job) {
  if (stopped_ || template_failures_[job.python] >= kTemplateFailuresMax) return nullptr;
  auto& slot = templates_[job.python];
  if (!slot) {
    TemplateProcess::Callbacks callbacks;
    callbacks.on_line = [this, python = job.python](std::string_view line) {
      if (auto it = templates_.find(python); it != templates_.end())
        template_line(*it->second, line);
    };
    callbacks.on_gone = [this, python = job.python] {
      ++template_failures_[python];
      loop_.post([this, python] {
        if (auto it = templates_.find(python); it != templates_.end()) template_gone(*it->second);
      });
    };
    auto started = TemplateProcess::start(loop_, job, options_.session_dir, options_.preload,
                                          std::move(callbacks));
    if (!started) {
      templates_.erase(job.python);
      template_failures_[job.python] = kTemplateFailuresMax;
      return nullptr;
    }
    slot = std::move(*started);
  }
  return slot->usable ? slot.get() : nullptr;
}

void WorkerSpawner::spawn(uint64_t token, const scheduler::PoolKey& key,
                          const protocol::RegisterJob& job) {
  Pending& pending = pending_[token];
  pending.key = key;
  pending.job = job;
  arm(token, options_.hello_timeout);
  if (stopped_) return fail(token, ErrorKind::kSystem, "the node is shutting down");
  TemplateProcess* from =
      key.language == "python" && !job.python.empty() ? template_for(job) : nullptr;
  if (from == nullptr || !tell_job(*from, key.job, job)) return spawn_by_exec(token, pending);
  std::string json = spawn_json(token, options_, key, nullptr);
  if (json.size() > kForkRequestBytesMax) return spawn_by_exec(token, pending);
  auto pipes = logs_.make_pipes();
  if (!pipes) return fail(token, ErrorKind::kSystem, pipes.status().to_string());
  pending.pipes = std::move(pipes->first);
  if (!from->request(std::move(json), std::move(pipes->second)).is_ok())
    return spawn_by_exec(token, pending);
  pending.from = from;
}

bool WorkerSpawner::tell_job(TemplateProcess& from, JobId id,
                             const protocol::RegisterJob& job) {
  if (from.told_job == id) return true;
  std::string json = job_json(id, job);
  if (json.size() > kForkRequestBytesMax || !from.request(std::move(json), {}).is_ok())
    return false;
  from.told_job = id;
  return true;
}

void WorkerSpawner::spawn_by_exec(uint64_t token, Pending& pending) {
  pending.from = nullptr;
  auto pipes = logs_.make_pipes();
  if (!pipes) return fail(token, ErrorKind::kSystem, pipes.status().to_string());
  auto request = file_with(spawn_json(token, options_, pending.key, &pending.job));
  if (!request) return fail(token, ErrorKind::kSystem, request.status().to_string());
  ChildOptions child;
  if (pending.key.language == "python") {
    std::string python = pending.job.python.empty() ? "python3" : pending.job.python;
    child.arguments = {python, "-m", "sheaf._worker"};
  } else {
    if (options_.worker_program.empty()) {
      return fail(token, ErrorKind::kRuntimeEnvSetup,
                  "the program sheaf-worker, which runs C++ tasks, was not found");
    }
    child.arguments = {options_.worker_program};
  }
  child.environment = pending.job.env.empty() ? own_environment() : pending.job.env;
  if (!pending.job.sys_path.empty()) {
    std::string path;
    for (const std::string& entry : pending.job.sys_path) path += (path.empty() ? "" : ":") + entry;
    child.environment["PYTHONPATH"] = path;
  }
  child.directory = pending.job.cwd;
  child.out = pipes->second.out.get();
  child.err = pipes->second.err.get();
  child.fd3 = request->get();
  auto pid = start_child(child);
  if (!pid) return fail(token, ErrorKind::kSystem, pid.status().to_string());
  pending.pipes = std::move(pipes->first);
  started(token, *pid);
}

void WorkerSpawner::started(uint64_t token, pid_t pid) {
  auto it = pending_.find(token);
  if (it == pending_.end()) return;
  it->second.pid = pid;
  if (it->second.pipes.out) logs_.attach(pid, it->second.key.job, std::move(it->second.pipes));
}

void WorkerSpawner::arm(uint64_t token, std::chrono::steady_clock::duration limit) {
  Pending& pending = pending_.at(token);
  pending.deadline = loop_.now() + limit;
  if (pending.timer == 0)
    pending.timer = loop_.call_at(pending.deadline, [this, token] { expired(token); });
}

void WorkerSpawner::expired(uint64_t token) {
  auto it = pending_.find(token);
  if (it == pending_.end()) return;
  it->second.timer = 0;
  if (it->second.deadline > loop_.now()) {  // a "setup" line came meanwhile
    it->second.timer = loop_.call_at(it->second.deadline, [this, token] { expired(token); });
    return;
  }
  fail(token, ErrorKind::kSystem,
       fmt::format("a new worker did not register within {:.1f} s",
                   std::chrono::duration<double>(options_.hello_timeout).count()));
}

void WorkerSpawner::fail(uint64_t token, ErrorKind kind, const std::string& message) {
  auto it = pending_.find(token);
  if (it == pending_.end()) return;
  if (it->second.timer != 0) loop_.cancel_timer(it->second.timer);
  if (it->second.pid > 0) {
    ::kill(-it->second.pid, SIGKILL);
    ::kill(it->second.pid, SIGKILL);
    logs_.finish(it->second.pid);
  }
  pending_.erase(it);
  options_.on_failed(token, {kind, message, {}, {}});
}

std::unique_ptr<scheduler::PoolKey> WorkerSpawner::greeted(uint64_t token, pid_t pid) {
  auto it = pending_.find(token);
  if (it == pending_.end() || (it->second.pid != 0 && it->second.pid != pid)) return nullptr;
  started(token, pid);  // its Hello may overtake the template's line
  if (it->second.from != nullptr) {
    it->second.from->workers.insert(pid);
    template_failures_[it->second.job.python] = 0;
  }
  if (it->second.timer != 0) loop_.cancel_timer(it->second.timer);
  auto key = std::make_unique<scheduler::PoolKey>(std::move(it->second.key));
  pending_.erase(it);
  return key;
}

void WorkerSpawner::report_exit(pid_t pid, int status) {
  for (auto& [token, pending] : pending_) {
    if (pending.pid != pid) continue;
    bool environment = WIFEXITED(status) && WEXITSTATUS(status) == kExitRuntimeEnv;
    pending.pid = 0;  // it is gone: nothing to kill
    fail(token, environment ? ErrorKind::kRuntimeEnvSetup : ErrorKind::kWorkerCrashed,
         fmt::format(
             "a new worker (pid {}) {} before it had registered; its output is in worker-{}.err",
             pid, describe_wait_status(status), pid));
    break;
  }
  logs_.finish(pid);
  options_.on_exit(pid, status);
}

void WorkerSpawner::child_exited(pid_t pid, int status) { report_exit(pid, status); }

void WorkerSpawner::template_line(TemplateProcess& from, std::string_view line) {
  std::string_view verb = word(line);
  if (verb == "forked") {
    uint64_t token = number<uint64_t>(word(line));
    pid_t pid = number<pid_t>(word(line));
    from.workers.insert(pid);
    started(token, pid);
  } else if (verb == "setup") {
    uint64_t token = number<uint64_t>(word(line));
    if (pending_.contains(token)) arm(token, kSetupLineTimeout);
  } else if (verb == "exit") {
    pid_t pid = number<pid_t>(word(line));
    from.workers.erase(pid);
    report_exit(pid, number<int>(word(line)));
  } else if (verb == "failed") {
    uint64_t token = number<uint64_t>(word(line));
    std::string_view kind = word(line);
    auto it = pending_.find(token);
    if (it == pending_.end()) return;
    if (kind == "unsafe") {
      from.usable = false;
      return spawn_by_exec(token, it->second);
    }
    fail(token, kind == "runtime_env" ? ErrorKind::kRuntimeEnvSetup : ErrorKind::kSystem,
         std::string(line));
  }
}

void WorkerSpawner::template_gone(TemplateProcess& which) {
  std::vector<uint64_t> waiting;
  for (auto& [token, pending] : pending_) {
    if (pending.from == &which) waiting.push_back(token);
  }
  std::erase_if(templates_, [&](auto& entry) { return entry.second.get() == &which; });
  for (uint64_t token : waiting) {
    Pending& pending = pending_.at(token);
    // One that was forked already has died with its template; the others have not begun.
    if (pending.pid != 0 || stopped_)
      fail(token, ErrorKind::kWorkerCrashed, "the template process has ended");
    else
      spawn_by_exec(token, pending);
  }
}

void WorkerSpawner::stop() {
  stopped_ = true;
  while (!pending_.empty())
    fail(pending_.begin()->first, ErrorKind::kSystem, "the node is shutting down");
  templates_.clear();
}

std::vector<pid_t> WorkerSpawner::template_pids() const {
  std::vector<pid_t> out;
  for (const auto& [python, process] : templates_) out.push_back(process->pid());
  return out;
}

}  // namespace sheaf::launchers
