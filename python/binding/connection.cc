// Connecting, leaving, and what the engine's threads have to say to Python: log lines and warnings.
//
// The engine's threads never take the interpreter lock. Log lines go to a queue that one Python thread empties.
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <deque>
#include <mutex>

#include <nanobind/stl/string.h>

#include "python/binding/arena_buffer.h"
#include "python/binding/cold_api.h"
#include "python/binding/dicts.h"
#include "python/binding/task_context.h"
#include "runtime/process_title.h"

namespace sheaf::python {

namespace {

constexpr size_t kLogLinesMax = 100000;

struct LogQueue {
  std::mutex mutex;
  std::condition_variable arrived;
  std::deque<protocol::LogLine> lines;
  bool wanted = false;               // somebody calls _take_log_lines
};
LogQueue& log_queue() {
  static auto* q = new LogQueue();
  return *q;
}

void write_line(const protocol::LogLine& line) {
  FILE* out = line.is_stderr ? stderr : stdout;
  fprintf(out, "(%s%spid=%d) %s\n", line.name.c_str(), line.name.empty() ? "" : " ", line.pid, line.text.c_str());
  fflush(out);
}

void on_log_lines(const protocol::LogLines& message) {
  LogQueue& q = log_queue();
  std::lock_guard guard(q.mutex);
  for (auto& line : message.lines) {
    if (!q.wanted) write_line(line);
    else if (q.lines.size() < kLogLinesMax) q.lines.push_back(line);
  }
  q.arrived.notify_one();
}

// Waits up to half a second: [(pid, is_stderr, name, text), ...].
nb::list take_log_lines() {
  LogQueue& q = log_queue();
  std::deque<protocol::LogLine> lines;
  PyThreadState* state = release_gil();
  {
    std::unique_lock lock(q.mutex);
    q.arrived.wait_for(lock, std::chrono::milliseconds(500), [&] { return !q.lines.empty() || !q.wanted; });
    lines.swap(q.lines);
  }
  retake_gil(state);
  nb::list out;
  for (auto& line : lines) {
    nb::object text = nb::steal(PyUnicode_DecodeUTF8(line.text.data(), static_cast<Py_ssize_t>(line.text.size()),
                                                     "replace"));
    out.append(nb::make_tuple(line.pid, line.is_stderr, nb::str(line.name.c_str()), text));
  }
  return out;
}

void want_log_lines(bool wanted) {
  LogQueue& q = log_queue();
  std::lock_guard guard(q.mutex);
  q.wanted = wanted;
  q.arrived.notify_all();
}

protocol::ClientKind kind_of(const std::string& kind) {
  if (kind == "driver") return protocol::ClientKind::kDriver;
  if (kind == "worker") return protocol::ClientKind::kWorker;
  if (kind == "tool") return protocol::ClientKind::kTool;
  throw nb::value_error("kind must be \"driver\", \"worker\" or \"tool\"");
}

nb::object connect(nb::handle socket_path, const std::string& kind, uint64_t spawn_token) {
  if (g_engine.runtime) {
    PyErr_SetString(PyExc_RuntimeError, "this process is connected already");
    throw nb::python_error();
  }
  runtime::ConnectOptions options;
  options.socket_path = text_of(socket_path);
  options.kind = kind_of(kind);
  options.spawn_token = spawn_token;
  options.hooks.cancel = [](TaskId task, bool) { request_cancel(task); };
  options.hooks.log_lines = on_log_lines;
  bool worker = options.kind == protocol::ClientKind::kWorker;
  PyThreadState* state = release_gil();
  auto connected = Runtime::connect(std::move(options));
  retake_gil(state);
  if (!connected) {
    raise_status(connected.status());
    throw nb::python_error();
  }
  engine_connected(*connected, worker);
  if (worker) return nb::none();   // it seldom asks, and each page that it touches costs it
  return welcome_to((*connected)->session());
}

void shutdown() {
  const uint32_t epoch = g_engine.epoch;
  Runtime* rt = engine_detach();
  if (!rt) return;
  PyThreadState* state = release_gil();
  rt->shutdown();
  retake_gil(state);
  if (!g_engine.is_worker) release_unseen_arena(epoch);   // a worker's process is about to end
}

nb::dict session() {
  Runtime* rt = runtime_or_raise();
  if (!rt) throw nb::python_error();
  return welcome_to(rt->session());
}

}  // namespace

void bind_connection(nb::module_& m) {
  m.def("connect", &connect, nb::arg("socket_path"), nb::arg("kind"), nb::arg("spawn_token") = 0);
  m.def("shutdown", &shutdown);
  m.def("is_connected", [] { return g_engine.runtime != nullptr; });
  m.def("session", &session);
  m.def("_take_log_lines", &take_log_lines);
  m.def("_want_log_lines", &want_log_lines);
  m.def("_set_title", [](const std::string& title) {
    prctl(PR_SET_NAME, title.c_str());
    runtime::ProcessTitle().show("");   // looks for its place, which children inherit
  });
}

}  // namespace sheaf::python
