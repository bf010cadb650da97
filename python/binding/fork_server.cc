#include "python/binding/fork_server.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "python/binding/template_heap.h"

namespace sheaf::python {

namespace {

constexpr size_t kRequestBytesMax = 192 * 1024;   // as launchers/worker_spawner.h says
constexpr size_t kBufferBytes = 2 * kRequestBytesMax;
constexpr int kBatchMax = 16;
constexpr int kReapEveryMs = 5000;   // should a signal be lost
constexpr int kForksToJoinPages = 40;   // the next ones will be worth it
constexpr size_t kLineBytesMax = 512;
constexpr std::string_view kForkStart = "{\"cmd\":\"fork\",\"token\":";

// What Python's own protocol around fork() does for a process with one thread and no locks held is to renew locks that
// nobody holds, at the price of 200 pages touched. Seen in the sources of 3.10 to 3.13; later ones get the protocol.
#if PY_VERSION_HEX < 0x030E0000 && !defined(Py_GIL_DISABLED)
constexpr bool kMaySkipProtocol = true;
#else
constexpr bool kMaySkipProtocol = false;
#endif

struct ForkRequest {
  std::string_view text;
  std::string_view rest;   // of the text, behind the token
  uint64_t token = 0;
  int fds[2] = {-1, -1};   // standard output and standard error, or none
  pid_t pid = 0;
};

struct Batch {
  ForkRequest requests[kBatchMax];
  int count = 0;
};

// The template's, and its children's until they have become workers.
struct Server {
  int channel = -1;
  bool skip_protocol = false;
  PyObject* read = nullptr;     // borrowed: text of a request -> dict
  PyObject* become = nullptr;   // borrowed: a child's life; takes the dict, never returns
};

int g_wake[2] = {-1, -1};   // a byte for each SIGCHLD
int g_forks = 0;            // since Python last ran in the template
bool g_pages_joined = false;

// The fields of a request besides its token, and what they were read to: mostly the ones of the request before. Read by
// the template, as each page that a child is the first to write to is copied for it.
std::string g_read_text;
PyObject* g_read_fields = nullptr;
PyObject* g_token_name = nullptr;
std::string g_directory;   // the job's; "" when Python has to make the environment

enum class Got : uint8_t { kNothing, kFork, kOther };

char* buffer() {
  static char* bytes = new char[kBufferBytes];
  return bytes;
}

// One line to the daemon; a daemon that is gone ends this process.
template <class... Args>
void say(int channel, const char* format, Args... args) {
  char line[kLineBytesMax];
  int n = snprintf(line, sizeof line, format, args...);
  if (send(channel, line, static_cast<size_t>(n), MSG_NOSIGNAL) < 0) _exit(0);
}

void close_fds(ForkRequest& request) {
  for (int& fd : request.fds) {
    if (fd >= 0) close(fd);
    fd = -1;
  }
}

// Takes what lies on the channel into the buffer from `used` on.
Got receive(int channel, size_t used, ForkRequest* out) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof out->fds)];
  iovec iov{buffer() + used, kBufferBytes - used};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t n = recvmsg(channel, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return Got::kNothing;
  if (n < 0) n = 0;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    std::memcpy(out->fds, CMSG_DATA(c), std::min(c->cmsg_len - CMSG_LEN(0), sizeof out->fds));
  }
  out->text = {buffer() + used, static_cast<size_t>(n)};
  if (!out->text.starts_with(kForkStart)) {
    close_fds(*out);
    return Got::kOther;
  }
  std::string_view rest = out->text.substr(kForkStart.size());
  auto number = std::from_chars(rest.data(), rest.data() + rest.size(), out->token);
  out->rest = rest.substr(static_cast<size_t>(number.ptr - rest.data()));
  return Got::kFork;
}

bool has_several_threads() {
  struct stat info {};
  // The folder has a link for each: to ask for that costs a thirtieth of reading it.
  if (stat("/proc/self/task", &info) == 0 && info.st_nlink == 3) return false;
  int threads = 0;
  if (DIR* folder = opendir("/proc/self/task")) {
    while (dirent* entry = readdir(folder)) threads += entry->d_name[0] != '.';
    closedir(folder);
  }
  return threads > 1;
}

void on_child_ended(int) {
  const int error = errno;
  [[maybe_unused]] ssize_t n = write(g_wake[1], "", 1);
  errno = error;
}

bool watch_children() {
  if (g_wake[0] >= 0) return true;
  if (pipe2(g_wake, O_NONBLOCK | O_CLOEXEC) != 0) return PyErr_SetFromErrno(PyExc_OSError) != nullptr;
  struct sigaction action {};
  action.sa_handler = on_child_ended;
  action.sa_flags = SA_RESTART | SA_NOCLDSTOP;
  sigaction(SIGCHLD, &action, nullptr);
  return true;
}

// In the child, before anything else. The channel stays until its environment is made.
void settle(Batch& batch, int own, pid_t parent) {
  setsid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  signal(SIGCHLD, SIG_DFL);
  for (int i = 0; i < 2; ++i) {
    if (int fd = batch.requests[own].fds[i]; fd >= 0) dup2(fd, i + 1);
  }
  for (int i = 0; i < batch.count; ++i) close_fds(batch.requests[i]);
  for (int& fd : g_wake) close(std::exchange(fd, -1));
  prctl(PR_SET_NAME, "sheaf-worker");   // what `ps -o comm` and `top` show; 15 characters at most
}

void after_fork_in_child(const Server& server) {
  if (!server.skip_protocol) return PyOS_AfterFork_Child();
#if PY_VERSION_HEX >= 0x030B0000
  PyThreadState_Get()->native_thread_id = static_cast<unsigned long>(syscall(SYS_gettid));
#endif
}

// False: the request is not understood.
bool read_fields(const Server& server, std::string_view rest) {
  if (g_read_fields && rest == g_read_text) return true;
  if (!g_token_name) g_token_name = PyUnicode_InternFromString("token");
  std::string text = "{\"token\":0";
  text += rest;
  PyObject* fields = PyObject_CallFunction(server.read, "y#", text.data(), static_cast<Py_ssize_t>(text.size()));
  if (!fields || !PyDict_Check(fields)) {
    PyErr_Clear();
    Py_XDECREF(fields);
    return false;
  }
  PyObject* directory = PyDict_GetItemString(fields, "directory");
  g_directory = directory && PyBytes_Check(directory) ? PyBytes_AS_STRING(directory) : "";
  Py_XSETREF(g_read_fields, fields);
  g_read_text = rest;
  return true;
}

void refuse(const Server& server, ForkRequest& request, const char* kind, const char* why) {
  say(server.channel, "failed %llu %s %s", static_cast<unsigned long long>(request.token), kind, why);
  close_fds(request);
}

// The index of this child's request; -1 in the template.
int fork_all(const Server& server, Batch& batch) {
  if (has_several_threads()) {
    for (int i = 0; i < batch.count; ++i)
      refuse(server, batch.requests[i], "unsafe", "the template process has several threads");
    return -1;
  }
  g_forks += batch.count;
  if (g_forks >= kForksToJoinPages && !std::exchange(g_pages_joined, true)) join_heap_pages();
  const pid_t parent = getpid();
  for (int i = 0; i < batch.count; ++i) {
    ForkRequest& request = batch.requests[i];
    if (!read_fields(server, request.rest)) {
      refuse(server, request, "other", "not understood");
      continue;
    }
    if (!server.skip_protocol) PyOS_BeforeFork();
    request.pid = fork();
    if (request.pid == 0) {
      settle(batch, i, parent);
      after_fork_in_child(server);
      return i;
    }
    const int error = errno;
    if (!server.skip_protocol) PyOS_AfterFork_Parent();
    if (request.pid < 0) {
      refuse(server, request, "other", strerror(error));
      continue;
    }
    close_fds(request);
    say(server.channel, "forked %llu %d", static_cast<unsigned long long>(request.token), request.pid);
  }
  return -1;
}

// Reports children that have ended.
void reap(int channel) {
  int status = 0;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) say(channel, "exit %d %d", pid, status);
}

// False when the time is over.
bool wait_for_any(int channel, int timeout_ms) {
  pollfd fds[2] = {{channel, POLLIN, 0}, {g_wake[0], POLLIN, 0}};
  PyThreadState* state = PyEval_SaveThread();   // modules that were preloaded may have threads
  int ready = poll(fds, 2, timeout_ms < 0 ? kReapEveryMs : timeout_ms);
  PyEval_RestoreThread(state);
  char bytes[256];
  while (fds[1].revents != 0 && read(g_wake[0], bytes, sizeof bytes) == sizeof bytes) {}
  return ready != 0 || timeout_ms < 0;
}

// The child.
[[noreturn]] void live(const Server& server, const ForkRequest& request) {
  if (!g_directory.empty()) {
    [[maybe_unused]] int done = chdir(g_directory.c_str());   // where this process may
    close(server.channel);
  }
  PyGC_Enable();
  Ref token(PyLong_FromUnsignedLongLong(request.token));
  if (token && PyDict_SetItem(g_read_fields, g_token_name, token.get()) == 0)
    Ref never(PyObject_CallOneArg(server.become, g_read_fields));
  _exit(1);
}

}  // namespace

PyObject* py_next_request(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 5) return PyErr_Format(PyExc_TypeError, "_next_request takes five arguments");
  Server server;
  server.channel = static_cast<int>(PyLong_AsLong(arguments[0]));
  const int timeout_ms = static_cast<int>(PyLong_AsLong(arguments[1]));
  server.read = arguments[2];
  server.skip_protocol = kMaySkipProtocol && arguments[3] == Py_True;
  server.become = arguments[4];
  if (PyErr_Occurred() || !watch_children()) return nullptr;
  Py_CLEAR(g_read_fields);   // the job may be another one
  g_forks = 0;
  g_pages_joined = false;
  for (;;) {
    reap(server.channel);
    Batch batch;
    ForkRequest request;
    Got got = Got::kNothing;
    for (size_t used = 0; batch.count < kBatchMax && used + kRequestBytesMax <= kBufferBytes;) {
      request = {};
      got = receive(server.channel, used, &request);
      if (got != Got::kFork) break;
      used += request.text.size();
      batch.requests[batch.count++] = request;
    }
    if (batch.count > 0) {
      if (int own = fork_all(server, batch); own >= 0) live(server, batch.requests[own]);
    }
    if (got == Got::kOther) {
      return PyBytes_FromStringAndSize(request.text.data(), static_cast<Py_ssize_t>(request.text.size()));
    }
    if (PyErr_CheckSignals() < 0) return nullptr;
    if (batch.count > 0) continue;
    if (!wait_for_any(server.channel, timeout_ms)) Py_RETURN_NONE;
  }
}

}  // namespace sheaf::python
