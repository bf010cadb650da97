#include "tests/launchers/daemon_process.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>

#include "core/json.h"
#include "launchers/session.h"

namespace sheaf::launchers::testing {

namespace {

std::string text_member(const JsonValue& json, const std::string& name) {
  const JsonValue* member = json.find(name);
  return member != nullptr && member->as_string() != nullptr ? *member->as_string() : std::string();
}

}  // namespace

double now_ms() {
  return std::chrono::duration<double, std::milli>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void sleep_ms(int ms) { usleep(static_cast<useconds_t>(ms) * 1000); }

bool exists(pid_t pid) { return process_start_time(pid) != 0; }

std::string temporary_root() {
  char path[] = "/tmp/sheaf-test-XXXXXX";
  return mkdtemp(path);
}

std::vector<pid_t> children_of(pid_t pid) {
  std::vector<pid_t> out;
  DIR* proc = opendir("/proc");
  while (dirent* e = readdir(proc)) {
    if (e->d_name[0] < '0' || e->d_name[0] > '9') continue;
    std::ifstream file(std::string("/proc/") + e->d_name + "/stat");
    std::string text((std::istreambuf_iterator<char>(file)), {});
    size_t at = text.rfind(')');
    if (at == std::string::npos || at + 4 >= text.size() || text[at + 2] == 'Z') continue;
    if (atoi(text.c_str() + at + 4) == pid) out.push_back(atoi(e->d_name));
  }
  closedir(proc);
  return out;
}

DaemonProcess::DaemonProcess(const DaemonOptions& options) : root(options.root) {
  if (root.empty()) {
    root = temporary_root();
    own_root_ = true;
  }
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) abort();
  std::vector<std::string> arguments = {
      SHEAFD_PATH, "--session-root",        root,    "--num-cpus", "2", "--num-gpus",
      "0",         "--object-store-memory", "64MiB", "--ready-fd", "9"};
  if (options.embedded) arguments.push_back("--embedded");
  arguments.insert(arguments.end(), options.arguments.begin(), options.arguments.end());
  std::vector<char*> argv;
  for (std::string& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  double start = now_ms();
  pid = fork();
  if (pid == 0) {
    dup2(ends[1], 9);
    if (!options.worker_program.empty()) setenv("SHEAF_WORKER", options.worker_program.c_str(), 1);
    execv(argv[0], argv.data());
    _exit(127);
  }
  close(ends[1]);
  std::string line;
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;)
    line.append(buffer, static_cast<size_t>(n));
  close(ends[0]);
  ready_ms = now_ms() - start;
  auto json = parse_json(line);
  if (!json) {
    error = "no answer: " + line;
    return;
  }
  error = text_member(*json, "error");
  socket_path = text_member(*json, "socket");
  session_dir = text_member(*json, "session_dir");
}

DaemonProcess::~DaemonProcess() {
  stop();
  if (own_root_) remove_tree(root);
}

bool DaemonProcess::running() const { return pid > 0 && exists(pid); }

bool DaemonProcess::wait_end(int timeout_ms) {
  if (pid <= 0) return true;
  for (double end = now_ms() + timeout_ms; now_ms() < end; sleep_ms(1)) {
    if (waitpid(pid, nullptr, WNOHANG) == pid) {
      pid = 0;
      return true;
    }
  }
  return false;
}

int DaemonProcess::stop() {
  if (pid <= 0) return 0;
  ::kill(pid, SIGTERM);
  int status = 0;
  for (double end = now_ms() + 20000; now_ms() < end; sleep_ms(1)) {
    if (waitpid(pid, &status, WNOHANG) == pid) {
      pid = 0;
      return status;
    }
  }
  kill9();
  return -1;
}

void DaemonProcess::kill9() {
  if (pid <= 0) return;
  ::kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  pid = 0;
}

}  // namespace sheaf::launchers::testing
