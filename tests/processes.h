// Ends of processes, as facts that a test waits for: after a signal was sent, a process goes on
// running, and answering, until the kernel delivers it.
#pragma once

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace sheaf::test {

// Sends `signal` and waits until the process has ended with all of its threads; true also when it
// had ended before. Never signals anything but one process.
inline bool end_process(pid_t pid, int signal = SIGKILL, int limit_ms = 30000) {
  if (pid <= 1 || pid == getpid()) return false;
  int fd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (fd < 0) return errno == ESRCH;
  bool sent = syscall(SYS_pidfd_send_signal, fd, signal, nullptr, 0) == 0 || errno == ESRCH;
  pollfd end{fd, POLLIN, 0};
  bool ended = sent && poll(&end, 1, limit_ms) == 1;
  close(fd);
  return ended;
}

}  // namespace sheaf::test
