#include "python/binding/fork_server.h"

#include <dirent.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string_view>

namespace sheaf::python {

namespace {

constexpr size_t kRequestBytesMax = 192 * 1024;   // as launchers/worker_spawner.h says
constexpr size_t kBufferBytes = 2 * kRequestBytesMax;
constexpr int kBatchMax = 16;
constexpr int kReapEveryMs = 5000;   // should a signal be lost
constexpr size_t kLineBytesMax = 512;
constexpr std::string_view kForkStart = "{\"cmd\":\"fork\",\"token\":";

struct ForkRequest {
  std::string_view text;
  uint64_t token = 0;
  int fds[2] = {-1, -1};   // standard output and standard error, or none
  pid_t pid = 0;
};

struct Batch {
  ForkRequest requests[kBatchMax];
  int count = 0;
};

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
  std::from_chars(rest.data(), rest.data() + rest.size(), out->token);
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

// In the child, before anything else.
void settle(ForkRequest& own, pid_t parent) {
  setsid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  for (int i = 0; i < 2; ++i) {
    if (own.fds[i] >= 0) dup2(own.fds[i], i + 1);
  }
}

// The index of this child's request; -1 in the template.
int fork_all(int channel, Batch& batch) {
  if (has_several_threads()) {
    for (int i = 0; i < batch.count; ++i) {
      say(channel, "failed %llu unsafe the template process has several threads",
          static_cast<unsigned long long>(batch.requests[i].token));
      close_fds(batch.requests[i]);
    }
    return -1;
  }
  const pid_t parent = getpid();
  PyOS_BeforeFork();
  for (int i = 0; i < batch.count; ++i) {
    ForkRequest& request = batch.requests[i];
    request.pid = fork();
    if (request.pid == 0) {
      settle(request, parent);
      for (int other = 0; other < batch.count; ++other) close_fds(batch.requests[other]);
      PyOS_AfterFork_Child();
      return i;
    }
    const int error = errno;
    close_fds(request);
    const auto token = static_cast<unsigned long long>(request.token);
    if (request.pid > 0) say(channel, "forked %llu %d", token, request.pid);
    else say(channel, "failed %llu other fork: %s", token, strerror(error));
  }
  PyOS_AfterFork_Parent();
  return -1;
}

// Reports children that have ended.
void reap(int channel) {
  int status = 0;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) say(channel, "exit %d %d", pid, status);
}

// False when the time is over.
bool wait_for_any(int channel, int wake, int timeout_ms) {
  pollfd fds[2] = {{channel, POLLIN, 0}, {wake, POLLIN, 0}};
  PyThreadState* state = PyEval_SaveThread();   // modules that were preloaded may have threads
  int ready = poll(fds, 2, timeout_ms < 0 ? kReapEveryMs : timeout_ms);
  PyEval_RestoreThread(state);
  char bytes[256];
  while (fds[1].revents != 0 && read(wake, bytes, sizeof bytes) == sizeof bytes) {}
  return ready != 0 || timeout_ms < 0;
}

PyObject* answer(bool child, std::string_view text) {
  return Py_BuildValue("(Oy#)", child ? Py_True : Py_False, text.data(), static_cast<Py_ssize_t>(text.size()));
}

}  // namespace

PyObject* py_next_request(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  long numbers[3] = {-1, -1, -1};
  for (Py_ssize_t i = 0; i < count && i < 3; ++i) numbers[i] = PyLong_AsLong(arguments[i]);
  if (PyErr_Occurred()) return nullptr;
  const int channel = static_cast<int>(numbers[0]), wake = static_cast<int>(numbers[1]);
  for (;;) {
    reap(channel);
    Batch batch;
    ForkRequest request;
    Got got = Got::kNothing;
    for (size_t used = 0; batch.count < kBatchMax && used + kRequestBytesMax <= kBufferBytes;) {
      request = {};
      got = receive(channel, used, &request);
      if (got != Got::kFork) break;
      used += request.text.size();
      batch.requests[batch.count++] = request;
    }
    if (batch.count > 0) {
      if (int own = fork_all(channel, batch); own >= 0) return answer(true, batch.requests[own].text);
    }
    if (got == Got::kOther) return answer(false, request.text);
    if (batch.count > 0) continue;
    if (!wait_for_any(channel, wake, static_cast<int>(numbers[2]))) Py_RETURN_NONE;
  }
}

}  // namespace sheaf::python
