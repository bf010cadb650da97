// sheafd: the node daemon's process. Options, signals, and the order of beginning and end; the work
// is Service's.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <cerrno>
#include <filesystem>
#include <iostream>

#include "core/json.h"
#include "core/version.h"
#include "launchers/cpu_affinity.h"
#include "launchers/discover_topology.h"
#include "launchers/join.h"
#include "launchers/service.h"

namespace sheaf::launchers {
namespace {

constexpr auto kTermGrace = std::chrono::milliseconds(1000);
#ifdef __SANITIZE_ADDRESS__
constexpr bool kLeakCheck = true;  // it attaches to its own process, as a debugger does
#else
constexpr bool kLeakCheck = false;
#endif

struct Options {
  SessionOptions session;
  std::string config_file;
  std::vector<std::string> settings;  // key=value
  std::optional<double> num_cpus, num_gpus;
  std::string memory, object_store_memory;
  NodeOverrides overrides;
  std::string listen;         // host or host:port; "auto": the interface that leads out
  std::string join;           // the head's host:port
  std::string secret_file;
  int ready_fd = -1;
  pid_t owner_pid = 0;
  protocol::RegisterJob warm;  // python and sys_path: whose template is started at once
  bool embedded = false;
  bool daemonise = false;
  bool keep_logs = false;
  bool dumpable = false;
  bool print_topology = false;
};

void declare_options(CLI::App& app, Options& o) {
  app.add_option("--session-root", o.session.root,
                 "Directory under which the session directory is made");
  app.add_option("--session-dir", o.session.directory,
                 "The session directory itself: takes up its journal");
  app.add_option("--num-cpus", o.num_cpus, "CPUs that this node offers");
  app.add_option("--num-gpus", o.num_gpus, "GPUs that this node offers");
  app.add_option("--memory", o.memory, "Memory that tasks may reserve, in bytes or as 8GiB");
  app.add_option("--object-store-memory", o.object_store_memory,
                 "Size of the object store, in bytes or as 8GiB");
  app.add_option("--resources", o.overrides.resources,
                 "Further resources: a JSON object of numbers");
  app.add_option("--labels", o.overrides.labels, "Labels of the node: a JSON object of strings");
  app.add_option("--listen", o.listen,
                 "Address for the cluster's other nodes: host, host:port or auto; none: one node");
  app.add_option("--join", o.join, "Be a further node of the cluster whose head is at host:port");
  app.add_option("--secret-file", o.secret_file, "File with the cluster's secret, mode 0600")
      ->envname("SHEAF_SECRET_FILE");
  app.add_option("--config-file", o.config_file, "TOML file of settings");
  app.add_option("--config", o.settings, "One setting, key=value; may be repeated")->take_all();
  app.add_option("--ready-fd", o.ready_fd,
                 "Descriptor that gets one line of JSON once the daemon serves");
  app.add_option("--exit-with-pid", o.owner_pid, "End when this process ends or disconnects");
  app.add_flag("--embedded", o.embedded,
               "A cluster of the calling driver: end with it, keep nothing");
  app.add_flag("--daemonize", o.daemonise, "Serve in the background; returns when serving");
  app.add_flag("--keep-logs", o.keep_logs, "Leave logs and journal behind");
  app.add_flag("--dumpable", o.dumpable, "Permit debuggers and core files");
  app.add_flag("--topology", o.print_topology,
               "Print what is seen of this machine's hardware, as JSON, and leave");
  app.add_option("--python", o.warm.python,
                 "Interpreter whose template process is started at once");
  app.add_option("--python-path", o.warm.sys_path, "Where that interpreter finds sheaf")
      ->take_all();
  app.set_version_flag("--version", std::string(version()));
}

Result<Config> load_config(const Options& o) {
  // SHEAF_* variables that are no settings may be anybody's: the environment of a job comes along.
  std::map<std::string, std::string> environment;
  for (auto& [name, value] : current_environment()) {
    for (const ConfigKey& key : config_schema()) {
      if (config_env_name(key.key) == name) environment[name] = value;
    }
  }
  if (const char* file = getenv("SHEAF_CONFIG")) environment["SHEAF_CONFIG"] = file;
  SHEAF_ASSIGN(Config config, Config::load(o.config_file, environment));
  for (const std::string& setting : o.settings) {
    size_t equals = setting.find('=');
    if (equals == std::string::npos) {
      return Status(StatusCode::kInvalidArgument,
                    fmt::format("--config {}: not key=value", setting));
    }
    SHEAF_TRY(config.set(setting.substr(0, equals), setting.substr(equals + 1), "--config"));
  }
  if (!o.memory.empty()) SHEAF_TRY(config.set("node.memory", o.memory, "--memory"));
  if (!o.object_store_memory.empty()) {
    SHEAF_TRY(config.set("store.memory", o.object_store_memory, "--object-store-memory"));
  }
  return config;
}

// Descriptors for two pipes, a socket and a pidfd of every process, whatever the shell's soft limit
// is.
void raise_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

std::string program_beside_us(const std::string& name) {
  if (const char* named = getenv("SHEAF_WORKER")) return named;
  char path[4096];
  ssize_t n = readlink("/proc/self/exe", path, sizeof path);
  if (n <= 0 || n == static_cast<ssize_t>(sizeof path)) return {};
  std::string self(path, static_cast<size_t>(n));
  std::string candidate = self.substr(0, self.rfind('/') + 1) + name;
  return access(candidate.c_str(), X_OK) == 0 ? candidate : std::string();
}

void write_line(int fd, std::string line) {
  if (fd < 0) return;
  line += '\n';
  std::string_view rest = line;
  while (!rest.empty()) {
    ssize_t n = write(fd, rest.data(), rest.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // the starter has gone; its end is noticed elsewhere
    rest.remove_prefix(static_cast<size_t>(n));
  }
}

// Blocked before any thread exists, so that only the loop's descriptor gets them.
Result<Fd> take_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (int s : {SIGTERM, SIGINT, SIGHUP, SIGCHLD, SIGPIPE}) sigaddset(&set, s);
  if (sigprocmask(SIG_BLOCK, &set, nullptr) != 0) return Status::from_errno("sigprocmask", errno);
  sigdelset(&set, SIGPIPE);
  Fd fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) return Status::from_errno("signalfd", errno);
  return fd;
}

void handle_signals(int fd, Service& service, bool embedded) {
  signalfd_siginfo info{};
  while (read(fd, &info, sizeof info) == sizeof info) {
    if (info.ssi_signo == SIGTERM || (info.ssi_signo == SIGINT && !embedded)) {
      service.begin_shutdown(info.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT", kTermGrace);
    }
  }
  int status = 0;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) service.child_exited(pid, status);
}

// Standard streams would keep the terminal or a pipe of the starter open for the life of the daemon
// and of its children, which may start before it serves (actors of its journal). Gives a copy of
// stderr, which no child inherits, for a last word to the starter.
Fd detach_streams() {
  Fd starter(fcntl(2, F_DUPFD_CLOEXEC, 3));
  int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null_fd < 0) return starter;
  for (int fd : {0, 1, 2}) dup2(null_fd, fd);
  close(null_fd);
  return starter;
}

// The head's secret: taken up by a later life of it, else made.
Result<transport::ClusterSecret> own_secret(const std::string& path) {
  auto known = transport::ClusterSecret::read(path);
  if (known || known.status().code() != StatusCode::kNotFound) return known;
  auto fresh = transport::ClusterSecret::random();
  SHEAF_TRY(fresh.write_new(path));
  return fresh;
}

// Asks the head for a number, or opens a door for others, or neither.
Status prepare_cluster(const Options& o, const SessionDirectory& session, const Logger& log,
                       ServiceOptions* service) {
  if (o.join.empty() && o.listen.empty()) return {};
  ClusterOptions cluster;
  if (o.join.empty()) {
    std::string path = o.secret_file.empty() ? session.secret_path() : o.secret_file;
    SHEAF_ASSIGN(cluster.secret, own_secret(path));
    cluster.secret_file = path;
    SHEAF_ASSIGN(cluster.listen, listen_address(o.listen, ""));
    cluster.any_host = o.listen == "auto";
    service->cluster = std::move(cluster);
    return {};
  }
  if (o.secret_file.empty()) {
    return Status(StatusCode::kInvalidArgument,
                  "--join needs --secret-file (or SHEAF_SECRET_FILE): the head's session "
                  "directory has it");
  }
  cluster.secret_file = o.secret_file;
  SHEAF_ASSIGN(cluster.secret, transport::ClusterSecret::read(o.secret_file));
  SHEAF_ASSIGN(cluster.head_address, transport::parse_fabric_address(o.join));
  SHEAF_ASSIGN(cluster.listen, listen_address(o.listen, cluster.head_address.host));
  AskNumber ask;
  ask.node = service->node_id;
  ask.hostname = host_name();
  ask.sheaf_version = version();
  auto patience = std::chrono::duration_cast<std::chrono::milliseconds>(
      service->config->get_duration("cluster.join_timeout"));
  SHEAF_ASSIGN(NumberGiven given, ask_for_number(cluster.head_address, cluster.secret, ask,
                                                 patience, log));
  cluster.number = given.number;
  cluster.incarnation = given.incarnation;
  cluster.head = {given.head, given.head_incarnation};
  cluster.cluster = given.cluster;
  service->head = false;
  service->cluster = std::move(cluster);
  return {};
}

Result<scheduler::Topology> own_topology(const Config& config, bool all_devices) {
  TopologySources sources;
  sources.all_devices = all_devices;
  sources.description = config.get_string("node.topology");
  sources.allowed = allowed_cpus();
  return discover_topology(sources);
}

Status print_topology(const Options& o) {
  SHEAF_ASSIGN(Config config, load_config(o));
  SHEAF_ASSIGN(auto mode, scheduler::parse_binding_mode(config.get_string("scheduler.binding")));
  SHEAF_ASSIGN(auto topology, own_topology(config, true));
  scheduler::Binder binder(std::make_shared<scheduler::Topology>(std::move(topology)), mode);
  std::cout << topology_json(binder) << std::endl;
  return {};
}

Status run(const Options& o, std::function<void(std::string)> on_ready) {
  SHEAF_ASSIGN(Config config, load_config(o));
  SHEAF_ASSIGN(LogLevel level, parse_log_level(config.get_string("log.level")));
  SHEAF_ASSIGN(Fd signals, take_signals());
  SessionOptions session_options = o.session;
  if (session_options.root.empty()) session_options.root = config.get_string("session.root");
  for (std::string* path : {&session_options.root, &session_options.directory}) {
    if (!path->empty()) *path = std::filesystem::absolute(*path).lexically_normal().string();
  }
  SHEAF_ASSIGN(SessionDirectory session, SessionDirectory::create(session_options));
  struct Cleanup {
    SessionDirectory& session;
    bool keep;
    bool served = false;
    // Who could not begin to serve has no right to what an earlier life has written.
    ~Cleanup() {
      if (served || !session.resumed()) session.remove(keep);
    }
  } cleanup{session, o.keep_logs && !o.embedded};
  SHEAF_ASSIGN(auto sink, make_file_sink(session.log_directory() + "/sheafd.log", level,
                                         config.get_bytes("log.max_bytes"),
                                         static_cast<size_t>(config.get_int("log.keep"))));
  SHEAF_ASSIGN(auto loop, EventLoop::create());

  ServiceOptions options;
  options.config = &config;
  options.session = &session;
  options.loop = loop.get();
  options.topology = [&config] { return own_topology(config, false); };
  options.warm = o.warm;
  options.overrides = o.overrides;
  options.overrides.num_cpus = o.num_cpus;
  options.overrides.num_gpus = o.num_gpus;
  options.embedded = o.embedded;
  options.owner_pid = o.owner_pid;
  options.worker_program = program_beside_us("sheaf-worker");
  options.log = Logger("sheafd", sink);
  options.node_id = new_node_id();
  SHEAF_TRY(prepare_cluster(o, session, options.log, &options));
  SHEAF_ASSIGN(auto service, Service::create(std::move(options)));
  SHEAF_TRY(loop->add_fd(signals.get(), EPOLLIN,
                         [&](uint32_t) { handle_signals(signals.get(), *service, o.embedded); }));
  // After the arena's helper process, which needs our /proc entries.
  prctl(PR_SET_DUMPABLE, o.dumpable || kLeakCheck ? 1 : 0);
  SHEAF_TRY(service->serve());
  cleanup.served = true;
  on_ready(service->cluster_json());
  loop->post([root = session.path().substr(0, session.path().rfind('/'))] {
    remove_stale_sessions(root);
  });
  loop->run();
  service->finish();
  loop->remove_fd(signals.get());
  return {};
}

// The starter's process waits for the line and leaves; its child serves. Returns the child's end of
// the pipe.
int daemonise(bool print) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return -1;
  pid_t pid = fork();
  if (pid < 0) return -1;
  if (pid == 0) {
    setsid();
    close(ends[0]);
    return ends[1];
  }
  close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) != 0;) {
    if (n > 0)
      text.append(buffer, static_cast<size_t>(n));
    else if (errno != EINTR)
      break;
  }
  bool ok = text.find("\"socket\"") != std::string::npos;
  if (print) std::cout << text << std::flush;
  _exit(ok ? 0 : 1);
}

}  // namespace
}  // namespace sheaf::launchers

int main(int argc, char** argv) {
  using namespace sheaf;
  using namespace sheaf::launchers;
  Options options;
  CLI::App app(
      "The node daemon of a Sheaf cluster. Usually started by sheaf.init() or `sheaf start`.");
  declare_options(app, options);
  CLI11_PARSE(app, argc, argv);

  if (options.print_topology) {
    Status printed = print_topology(options);
    if (!printed) std::cerr << "sheafd: " << printed.to_string() << std::endl;
    return printed ? 0 : 1;
  }
  umask(077);
  pid_t starter = getppid();
  if (options.embedded && options.owner_pid == 0) options.owner_pid = starter;
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  raise_file_limit();
  if (options.ready_fd >= 0) fcntl(options.ready_fd, F_SETFD, FD_CLOEXEC);
  int starter_fd = options.daemonise ? daemonise(options.ready_fd < 0) : -1;
  if (!options.daemonise && getpgrp() != getpid())
    setsid();  // a Ctrl-C at the driver's terminal is the driver's

  Fd starter_err = options.daemonise ? detach_streams() : Fd();
  auto on_ready = [&](std::string line) {
    write_line(options.ready_fd, line);
    write_line(starter_fd, line);
    starter_err.reset();
    for (int* fd : {&options.ready_fd, &starter_fd}) {
      if (*fd >= 0) close(std::exchange(*fd, -1));
    }
  };
  Status status = run(options, on_ready);
  if (status.is_ok()) return 0;
  write_line(options.daemonise ? starter_err.get() : 2, "sheafd: " + status.to_string());
  JsonWriter w;
  w.begin_object().key("error").value(status.message()).end_object();
  std::string line = std::move(w).take();
  write_line(options.ready_fd, line);
  write_line(starter_fd, line);
  return 1;
}
