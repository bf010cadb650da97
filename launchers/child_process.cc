#include "launchers/child_process.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/read_file.h"

extern char** environ;

namespace sheaf::launchers {

namespace {

constexpr int kProgramNotRun = 127;

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (const std::string& s : strings) out.push_back(const_cast<char*>(s.c_str()));
  out.push_back(nullptr);
  return out;
}

// Between fork and exec beside other threads: async-signal-safe calls only.
[[noreturn]] void become(const ChildOptions& o, pid_t parent, int null_fd, char* const* argv,
                         char* const* envp) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(kProgramNotRun);
  setsid();
  struct sigaction standard{};
  standard.sa_handler = SIG_DFL;
  for (int s = 1; s < NSIG; ++s) sigaction(s, &standard, nullptr);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  // The kernel shall take a worker before the daemon when memory ends.
  if (int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC); fd >= 0) {
    if (write(fd, "500", 3) != 3) { /* not permitted: no harm */
    }
    close(fd);
  }
  // Sources may be numbered 0..3: move them out of the way before anything is replaced.
  int out = o.out >= 0 ? fcntl(o.out, F_DUPFD_CLOEXEC, 10) : -1;
  int err = o.err >= 0 ? fcntl(o.err, F_DUPFD_CLOEXEC, 10) : -1;
  int fd3 = o.fd3 >= 0 ? fcntl(o.fd3, F_DUPFD_CLOEXEC, 10) : -1;
  dup2(null_fd, 0);
  if (out >= 0) dup2(out, 1);
  if (err >= 0) dup2(err, 2);
  if (fd3 >= 0) dup2(fd3, 3);
  if (!o.directory.empty() && chdir(o.directory.c_str()) != 0) { /* stay where the daemon is */
  }
  execvpe(argv[0], argv, envp);
  _exit(kProgramNotRun);
}

// Children of this process, whoever started them.
std::vector<pid_t> children() {
  std::vector<pid_t> out;
  DIR* proc = opendir("/proc");
  if (proc == nullptr) return out;
  while (dirent* e = readdir(proc)) {
    if (e->d_name[0] < '0' || e->d_name[0] > '9') continue;
    std::string text = read_file(std::string("/proc/") + e->d_name + "/stat");
    size_t at = text.rfind(')');
    if (at == std::string::npos || at + 4 >= text.size()) continue;
    if (atoi(text.c_str() + at + 4) == getpid()) out.push_back(atoi(e->d_name));  // ") S <ppid>"
  }
  closedir(proc);
  return out;
}

}  // namespace

Result<pid_t> start_child(const ChildOptions& options) {
  std::vector<std::string> environment;
  for (const auto& [name, value] : options.environment) environment.push_back(name + "=" + value);
  std::vector<char*> argv = pointers(options.arguments), envp = pointers(environment);
  int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (null_fd < 0) return Status::from_errno("/dev/null", errno);
  pid_t parent = getpid();
  pid_t pid = fork();
  if (pid == 0) become(options, parent, null_fd, argv.data(), envp.data());
  int error = errno;
  close(null_fd);
  if (pid < 0) return Status::from_errno("fork", error);
  return pid;
}

std::map<std::string, std::string> own_environment() {
  std::map<std::string, std::string> out;
  for (char** e = environ; *e != nullptr; ++e) {
    if (const char* equals = std::strchr(*e, '='))
      out[std::string(static_cast<const char*>(*e), equals)] = equals + 1;
  }
  return out;
}

bool kill_descendants(int timeout_ms) {
  // Killing a child makes its children ours; so again, until there is none.
  for (int waited = 0; waited <= timeout_ms; ++waited) {
    if (waited % 10 == 0) {
      for (pid_t pid : children()) {
        if (getpgid(pid) == pid) ::kill(-pid, SIGKILL);
        ::kill(pid, SIGKILL);
      }
    }
    pid_t got = 0;
    bool any = false;
    while ((got = waitpid(-1, nullptr, WNOHANG)) > 0) any = true;
    if (got < 0 && errno == ECHILD) return true;
    if (any && waited % 10 != 9)
      waited += 9 - waited % 10;  // look again at once: there may be orphans
    else
      usleep(1000);
  }
  return false;
}

}  // namespace sheaf::launchers
