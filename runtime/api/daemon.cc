#include "runtime/api/daemon.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "core/json.h"

extern char** environ;

namespace sheaf::internal {

namespace {

constexpr int kStartMs = 30000;
constexpr int kStopMs = 5000;
constexpr size_t kReadyBytesMax = 1 << 20;

using Clock = std::chrono::steady_clock;

int ms_left(Clock::time_point deadline) {
  auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return left < 0 ? 0 : static_cast<int>(left);
}

std::string session_root() {
  if (const char* root = std::getenv("SHEAF_TMPDIR"); root && *root) return root;
  const char* runtime_dir = std::getenv("XDG_RUNTIME_DIR");
  struct stat info {};
  if (runtime_dir && *runtime_dir == '/' && stat(runtime_dir, &info) == 0 && info.st_uid == geteuid()) {
    return std::string(runtime_dir) + "/sheaf";
  }
  return "/tmp/sheaf-" + std::to_string(geteuid());
}

std::string file_text(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Clock ticks after boot, 0 when the process is gone.
int64_t start_time(int64_t pid) {
  std::string text = file_text("/proc/" + std::to_string(pid) + "/stat");
  size_t at = text.rfind(')');
  if (at == std::string::npos) return 0;
  std::istringstream fields(text.substr(at + 1));
  std::string field;
  for (int i = 0; i < 20 && fields >> field; ++i) {
    if (i == 0 && (field == "Z" || field == "X")) return 0;
  }
  return std::atoll(field.c_str());
}

struct Found {
  double created = -1;
  std::string socket;
};

Found live_cluster(const std::string& description) {
  auto json = parse_json(description);
  if (!json) return {};
  const JsonValue* pid = json->find("pid");
  const JsonValue* started = json->find("start_time");
  const JsonValue* socket = json->find("socket");
  const JsonValue* created = json->find("created");
  if (!pid || !pid->as_int() || !started || !started->as_int() || !socket || !socket->as_string()) return {};
  if (start_time(*pid->as_int()) != *started->as_int()) return {};
  Found found{0, *socket->as_string()};
  if (created) created->as_number(&found.created);
  return found;
}

}  // namespace

std::string library_of(const void* address) {
  Dl_info info;
  if (dladdr(address, &info) == 0 || !info.dli_fname) return "";
  char path[PATH_MAX];
  if (realpath(info.dli_fname, path)) return path;
  ssize_t n = readlink("/proc/self/exe", path, sizeof path);   // the program's own name need not be a path
  return n > 0 ? std::string(path, static_cast<size_t>(n)) : info.dli_fname;
}

Result<std::string> find_daemon_program() {
  if (const char* path = std::getenv("SHEAF_SHEAFD"); path && *path) return std::string(path);
  std::string library = library_of(reinterpret_cast<const void*>(&find_daemon_program));
  std::string folder = library.substr(0, library.rfind('/'));
  for (const char* place : {"/../bin/sheafd", "/../../bin/sheafd", "/bin/sheafd", "/launchers/sheafd", "/sheafd"}) {
    if (access((folder + place).c_str(), X_OK) == 0) return folder + place;
  }
  return Status(StatusCode::kNotFound,
                "the node daemon sheafd was not found beside " + library + "; set SHEAF_SHEAFD to its path");
}

Result<std::string> find_running_cluster() {
  std::string root = session_root();
  Found newest;
  if (DIR* dir = opendir(root.c_str())) {
    while (dirent* entry = readdir(dir)) {
      if (entry->d_name[0] == '.') continue;
      Found found = live_cluster(file_text(root + "/" + entry->d_name + "/cluster.json"));
      if (!found.socket.empty() && found.created >= newest.created) newest = found;
    }
    closedir(dir);
  }
  if (newest.socket.empty()) {
    return Status(StatusCode::kDisconnected, "no cluster of this user runs on this machine: start one by "
                                             "'sheaf start --head', or call init() without an address");
  }
  return newest.socket;
}

Result<std::string> socket_of_address(const std::string& address) {
  std::string path = address;
  for (std::string prefix : {"sheaf://", "ray://"}) {
    if (path.starts_with(prefix)) path = path.substr(prefix.size());
  }
  struct stat info {};
  if (stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) path += "/sheafd.sock";
  if (stat(path.c_str(), &info) != 0) {
    return Status(StatusCode::kDisconnected, "no cluster serves at '" + address +
                                                 "': an address is local, auto, a session directory or its socket");
  }
  return path;
}

Result<Daemon> Daemon::start(const std::vector<std::string>& arguments) {
  SHEAF_ASSIGN(std::string program, find_daemon_program());
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return Status::from_errno("pipe", errno);
  std::vector<std::string> command{program, "--embedded"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  int ready_fd = fcntl(fds[1], F_DUPFD, 3);   // inherited by this child: closed here right after the start
  command.insert(command.end(), {"--ready-fd", std::to_string(ready_fd)});
  std::vector<char*> argv;
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);

  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, standard;
  sigemptyset(&none);
  sigemptyset(&standard);
  for (int s : {SIGINT, SIGPIPE, SIGTERM, SIGCHLD}) sigaddset(&standard, s);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &standard);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  Daemon daemon;
  int error = posix_spawn(&daemon.pid_, program.c_str(), nullptr, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  close(fds[1]);
  close(ready_fd);
  if (error != 0) {
    close(fds[0]);
    return Status::from_errno("cannot start " + program, error);
  }
  Status status = daemon.read_ready_line(fds[0]);
  close(fds[0]);
  if (!status.is_ok()) {
    daemon.stop();
    return status;
  }
  return daemon;
}

Status Daemon::read_ready_line(int fd) {
  std::string text;
  auto deadline = Clock::now() + std::chrono::milliseconds(kStartMs);
  while (text.empty() || text.back() != '\n') {
    pollfd p{fd, POLLIN, 0};
    int left = ms_left(deadline);
    int n = left > 0 ? ::poll(&p, 1, left) : 0;
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) return Status(StatusCode::kTimeout, "the node daemon was not ready after 30 s");
    char chunk[4096];
    ssize_t got = ::read(fd, chunk, sizeof chunk);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0 || text.size() > kReadyBytesMax) {
      return Status(StatusCode::kInternal, "the node daemon could not start: " +
                                               (text.empty() ? std::string("its message is above") : text));
    }
    text.append(chunk, static_cast<size_t>(got));
  }
  auto json = parse_json(std::string_view(text).substr(0, text.size() - 1));
  const JsonValue* error = json ? json->find("error") : nullptr;
  const JsonValue* socket = json ? json->find("socket") : nullptr;
  if (error && error->as_string()) {
    return Status(StatusCode::kInternal, "the node daemon could not start: " + *error->as_string());
  }
  if (!socket || !socket->as_string()) {
    return Status(StatusCode::kInternal, "the node daemon said something unexpected: " + text);
  }
  socket_path_ = *socket->as_string();
  return Status::ok();
}

bool Daemon::reap(int timeout_ms) {
  auto deadline = Clock::now() + std::chrono::milliseconds(timeout_ms);
  for (;;) {
    int status = 0;
    pid_t got = waitpid(pid_, &status, WNOHANG);
    bool gone = got == pid_ || (got < 0 && errno == ECHILD && start_time(pid_) == 0);
    if (gone) {
      pid_ = 0;
      return true;
    }
    if (ms_left(deadline) == 0) return false;
    usleep(1000);
  }
}

void Daemon::stop() {
  if (pid_ == 0 || reap(0)) return;
  kill(pid_, SIGTERM);
  if (reap(kStopMs)) return;
  kill(pid_, SIGKILL);
  reap(kStopMs);
}

}  // namespace sheaf::internal
