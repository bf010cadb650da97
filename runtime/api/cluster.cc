#include "runtime/api/cluster.h"

#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <random>
#include <sstream>

#include "core/json.h"
#include "runtime/api/daemon.h"
#include "runtime/api/engine.h"
#include "runtime/api/error.h"
#include "runtime/api/registry.h"
#include "runtime/api/worker.h"

extern char** environ;

namespace sheaf {

namespace internal {

namespace {

std::mutex g_lock;                       // init and shutdown, which block, one at a time
std::optional<Daemon> g_daemon;
uint32_t g_generation = 0;

// A program that registers its own functions is run again in workers: its init() is where it learns of that.
void become_worker_if_told() {
  if (!std::getenv(kWorkerVariable)) return;
  unsetenv(kWorkerVariable);
  auto options = read_worker_options(3);
  int status = options ? run_worker(*options, false) : 2;
  std::fflush(nullptr);
  _exit(status);
}

template <class Map>
std::string json_object(const Map& map) {
  JsonWriter w;
  w.begin_object();
  for (const auto& [key, value] : map) w.key(key).value(value);
  return std::move(w.end_object()).take();
}

std::string number_text(double v) {
  std::ostringstream out;
  out << v;
  return out.str();
}

std::vector<std::string> daemon_arguments(const Options& o) {
  std::vector<std::string> out;
  auto add = [&](const char* name, std::string value) { out.insert(out.end(), {name, std::move(value)}); };
  if (o.num_cpus) add("--num-cpus", number_text(*o.num_cpus));
  if (o.num_gpus) add("--num-gpus", number_text(*o.num_gpus));
  if (o.object_store_memory) add("--object-store-memory", std::to_string(*o.object_store_memory));
  if (!o.resources.empty()) add("--resources", json_object(o.resources));
  if (!o.labels.empty()) add("--labels", json_object(o.labels));
  for (const auto& [name, value] : o.config) add("--config", name + "=" + value);
  return out;
}

std::string random_name() {
  std::random_device device;
  char text[33];
  for (int i = 0; i < 4; ++i) std::snprintf(text + 8 * i, 9, "%08x", device());
  return text;
}

std::string command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  for (char& c : text) {
    if (c == '\0') c = ' ';
  }
  return text;
}

protocol::RegisterJob describe_job(const Options& o) {
  protocol::RegisterJob job;
  job.name_space = o.name_space.empty() ? random_name() : o.name_space;
  job.entrypoint = command_line();
  char cwd[PATH_MAX];
  job.cwd = getcwd(cwd, sizeof cwd) ? cwd : "/";
  for (char** e = environ; *e != nullptr; ++e) {
    if (const char* equals = std::strchr(*e, '=')) job.env[std::string(static_cast<const char*>(*e), equals)] = equals + 1;
  }
  job.runtime_env = o.runtime_env;
  job.metadata = "{}";
  job.log_to_driver = o.log_to_driver;
  job.python = o.python;
  return job;
}

std::string absolute(const std::string& path) {
  char resolved[PATH_MAX];
  return realpath(path.c_str(), resolved) ? resolved : path;
}

std::string choose_library(const Options& o) {
  if (!o.library.empty()) return absolute(o.library);
  if (const char* named = std::getenv("SHEAF_CPP_LIBRARY"); named && *named) return absolute(named);
  return registering_library();
}

Status check_options(const Options& o, bool own) {
  auto bad = [](const std::optional<double>& v) { return v && (*v < 0 || !(*v == *v)); };
  if (bad(o.num_cpus) || bad(o.num_gpus)) {
    return Status(StatusCode::kInvalidArgument, "num_cpus and num_gpus cannot be negative");
  }
  bool node = o.num_cpus || o.num_gpus || o.object_store_memory || !o.resources.empty() || !o.labels.empty();
  if (!own && node) {
    return Status(StatusCode::kInvalidArgument,
                  "num_cpus, num_gpus, resources, labels and object_store_memory belong to the nodes of an existing "
                  "cluster and cannot be given by a driver that joins it");
  }
  return Status::ok();
}

Result<Connection*> connect(const std::string& socket, const Options& o) {
  runtime::ConnectOptions options;
  options.socket_path = socket;
  SHEAF_ASSIGN(runtime::Runtime * rt, runtime::Runtime::connect(std::move(options)));
  protocol::RegisterJob job = describe_job(o);
  auto reply = rt->request(protocol::MessageType::kRegisterJob, wire::encode(job));
  if (!reply) {
    rt->shutdown();
    return reply.status();
  }
  SHEAF_ASSIGN(auto answer, wire::decode<protocol::RegisterJobReply>(*reply));
  auto* c = new Connection();
  c->runtime = rt;
  c->generation = ++g_generation;
  c->job = answer.job;
  c->name_space = answer.name_space.empty() ? job.name_space : answer.name_space;
  c->library = choose_library(o);
  return c;
}

}  // namespace

Status join_cluster(const Options& options) {
  become_worker_if_told();
  std::lock_guard guard(g_lock);
  if (connection()) return Status(StatusCode::kAlreadyExists, "init() was called already; call shutdown() first");
  std::string address = options.address;
  if (const char* named = std::getenv("SHEAF_ADDRESS"); address.empty() && named) address = named;
  bool own = address.empty() || address == "local";
  SHEAF_TRY(check_options(options, own));
  std::string socket;
  if (own) {
    SHEAF_ASSIGN(Daemon daemon, Daemon::start(daemon_arguments(options)));
    socket = daemon.socket_path();
    g_daemon = std::move(daemon);
  } else {
    SHEAF_ASSIGN(std::string found, address == "auto" ? find_running_cluster() : socket_of_address(address));
    socket = found;
  }
  auto c = connect(socket, options);
  if (!c) {
    if (g_daemon) g_daemon->stop();
    g_daemon.reset();
    return c.status();
  }
  set_connection(*c);
  static const int at_exit = std::atexit(leave_cluster);
  (void)at_exit;
  return Status::ok();
}

void leave_cluster() {
  std::lock_guard guard(g_lock);
  Connection* c = connection();
  if (!c || current_task()) return;
  set_connection(nullptr);
  c->runtime->shutdown();
  if (g_daemon) g_daemon->stop();
  g_daemon.reset();
}

namespace {

Result<std::string> query(const std::string& what) {
  SHEAF_ASSIGN(Connection * c, connected());
  protocol::StateQuery query{what, {}};
  SHEAF_ASSIGN(std::string body, c->runtime->request(protocol::MessageType::kStateQuery, wire::encode(query)));
  SHEAF_ASSIGN(auto reply, wire::decode<protocol::StateReply>(body));
  return reply.text;
}

std::map<std::string, double> resources(const std::string& what) {
  auto json = check(parse_json(check(query(what))));
  std::map<std::string, double> out;
  if (!json.as_object()) return out;
  for (const auto& [name, amount] : *json.as_object()) {
    if (double v = 0; amount.as_number(&v)) out[name] = v;
  }
  return out;
}

}  // namespace
}  // namespace internal

void init(const Options& options) { internal::check(internal::join_cluster(options)); }
void shutdown() { internal::leave_cluster(); }
bool is_initialized() { return internal::connection() != nullptr; }

std::map<std::string, double> cluster_resources() { return internal::resources("cluster_resources"); }
std::map<std::string, double> available_resources() { return internal::resources("available_resources"); }
std::string state_json(const std::string& what) { return internal::check(internal::query(what)); }
std::string session_dir() { return internal::check(internal::connected())->runtime->session().session_dir; }

}  // namespace sheaf
