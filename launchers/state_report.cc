#include "launchers/state_report.h"

#include <dirent.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <set>

#include "core/metrics.h"
#include "launchers/discover_topology.h"

namespace sheaf::launchers {

namespace {

using protocol::ActorState;
using protocol::ClientKind;
using protocol::GroupState;
using protocol::GroupStrategy;
using protocol::TaskEventState;

std::string hex_or_empty(const auto& id) { return id.is_nil() ? std::string() : to_hex(id); }
std::string job_hex(JobId job) { return fmt::format("{:08x}", job); }
int64_t ms(int64_t ns) { return ns / 1'000'000; }

std::string string_map(const std::map<std::string, std::string>& map) {
  JsonWriter w;
  w.begin_object();
  for (const auto& [name, value] : map) w.key(name).value(value);
  w.end_object();
  return std::move(w).take();
}

constexpr std::string_view kActorStates[] = {"PENDING_CREATION", "ALIVE", "RESTARTING", "DEAD"};
constexpr std::string_view kTaskStates[] = {"SUBMITTED", "RUNNING", "FINISHED", "FAILED"};
constexpr std::string_view kTaskKinds[] = {"NORMAL_TASK", "ACTOR_CREATION_TASK", "ACTOR_TASK"};
constexpr std::string_view kGroupStates[] = {"PENDING", "CREATED", "REMOVED", "RESCHEDULING"};
constexpr std::string_view kGroupStrategies[] = {"PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"};
constexpr std::string_view kWorkerStates[] = {"IDLE", "LEASED", "ACTOR", "EXITING", "DYING"};
constexpr std::string_view kClientKinds[] = {"DRIVER", "WORKER", "TOOL"};
constexpr std::string_view kValueStates[] = {"PENDING", "INLINE", "IN_STORE", "ERROR", "SPILLED"};

template <class E, size_t N>
std::string_view name_of(const std::string_view (&names)[N], E value) {
  auto i = static_cast<size_t>(value);
  return i < N ? names[i] : "UNKNOWN";
}

}  // namespace

// ---- Rows

StateReporter::Row& StateReporter::Row::raw(std::string_view name, std::string json,
                                            std::string plain) {
  members_.push_back({std::string(name), std::move(json), std::move(plain)});
  return *this;
}

StateReporter::Row& StateReporter::Row::text(std::string_view name, std::string_view value) {
  return raw(name, json_quote(value), std::string(value));
}

bool StateReporter::Row::matches(const std::map<std::string, std::string>& filters) const {
  for (const auto& [name, wanted] : filters) {
    const Member* member = nullptr;
    for (const Member& m : members_) {
      if (m.name == name) member = &m;
    }
    bool negated = wanted.starts_with('!');
    if (member == nullptr || (member->plain == wanted.substr(negated ? 1 : 0)) == negated)
      return false;
  }
  return true;
}

void StateReporter::Row::append(JsonWriter& w) const {
  w.begin_object();
  for (const Member& m : members_) w.key(m.name).raw(m.json);
  w.end_object();
}

protocol::StateReply StateReporter::list(const protocol::StateQuery& query,
                                         const Rows& rows) const {
  JsonWriter w;
  w.begin_array();
  protocol::StateReply reply;
  uint32_t count = 0;
  rows([&](Row&& row) {
    if (!row.matches(query.filters)) return true;
    if (count == query.limit) {
      reply.truncated = true;
      return false;
    }
    ++count;
    row.append(w);
    return true;
  });
  w.end_array();
  reply.text = std::move(w).take();
  return reply;
}

Result<protocol::StateReply> StateReporter::report(const protocol::StateQuery& query) {
  using Member = void (StateReporter::*)(const std::function<bool(Row&&)>&) const;
  static const std::map<std::string, Member> kLists = {
      {"nodes", &StateReporter::nodes},
      {"actors", &StateReporter::actors},
      {"tasks", &StateReporter::tasks},
      {"objects", &StateReporter::objects},
      {"workers", &StateReporter::workers},
      {"jobs", &StateReporter::jobs},
      {"placement_groups", &StateReporter::groups},
      {"pins", &StateReporter::pins},
      {"logs", &StateReporter::logs},
      {"runtime_envs", &StateReporter::runtime_envs},
      {"topology", &StateReporter::topology},
      {"cluster_events", &StateReporter::events}};
  if (auto it = kLists.find(query.what); it != kLists.end()) {
    return list(query, [this, member = it->second](const auto& take) { (this->*member)(take); });
  }
  protocol::StateReply reply;
  if (query.what == "cluster_resources")
    reply.text = amounts(cluster_sum(&scheduler::NodeInfo::total));
  else if (query.what == "available_resources")
    reply.text = amounts(cluster_sum(&scheduler::NodeInfo::available));
  else if (query.what == "config")
    reply.text = string_map(s_.options_.config->as_map());
  else if (query.what == "metrics")
    reply.text = metrics();
  else if (query.what == "trace")
    reply.text = trace();
  else
    return Status(StatusCode::kInvalidArgument,
                  fmt::format("there is nothing called '{}' to ask for", query.what));
  return reply;
}

std::string StateReporter::amounts(const protocol::ResourceMap& map) const {
  JsonWriter w;
  w.begin_object();
  for (const auto& [name, amount] : map) {
    w.key(name).value(static_cast<double>(amount) / static_cast<double>(protocol::kResourceUnit));
  }
  w.end_object();
  return std::move(w).take();
}

// The head's own part is its agent's, which is ahead of what the controller has heard.
protocol::ResourceMap StateReporter::cluster_sum(
    protocol::ResourceMap scheduler::NodeInfo::* part) const {
  const scheduler::ResourcePool& own = s_.agent_->resources();
  protocol::ResourceMap sum =
      part == &scheduler::NodeInfo::total ? own.total() : own.available();
  for (const auto& [id, node] : s_.controller_->nodes()) {
    if (node.local) continue;
    for (const auto& [name, amount] : node.*part) sum[name] += amount;
  }
  return sum;
}

const Client* StateReporter::client(ProcessId id) const { return s_.clients_->find(id); }

int32_t StateReporter::pid_of(ProcessId id) const {
  const Client* c = client(id);
  if (c != nullptr) return c->pid;
  auto remote = s_.remote_pids_.find(id);
  return remote == s_.remote_pids_.end() ? 0 : remote->second;
}

int64_t StateReporter::wall_ms(scheduler::Time t) const {
  if (t.count() == 0) return 0;
  auto ago = std::chrono::steady_clock::now().time_since_epoch() - t;
  auto wall =
      std::chrono::system_clock::now() - std::chrono::duration_cast<std::chrono::microseconds>(ago);
  return std::chrono::duration_cast<std::chrono::milliseconds>(wall.time_since_epoch()).count();
}

// ---- Lists

void StateReporter::nodes(const std::function<bool(Row&&)>& take) const {
  for (const auto& [id, node] : s_.controller_->nodes()) {
    Row row;
    auto address = transport::parse_fabric_address(node.address);
    row.text("node_id", to_hex(id)).text("node_ip", address ? address->host : "127.0.0.1");
    row.text("node_name", node.hostname).text("hostname", node.hostname);
    row.flag("is_head_node", node.local).text("state", "ALIVE").number("number", node.number);
    row.flag("draining", node.draining).text("address", node.address);
    row.json("resources_total", amounts(node.total))
        .json("resources_available", amounts(node.available));
    row.json("labels", string_map(node.labels));
    if (node.local) {
      row.text("socket", s_.options_.session->socket_path()).number("pid", getpid());
      auto started = s_.started_.time_since_epoch();
      row.number("start_time_ms",
                 std::chrono::duration_cast<std::chrono::milliseconds>(started).count());
    }
    if (!take(std::move(row))) return;
  }
}

void StateReporter::actors(const std::function<bool(Row&&)>& take) const {
  for (const auto& [id, actor] : s_.controller_->actors()) {
    Row row;
    row.text("actor_id", to_hex(id)).text("class_name", actor.spec->class_name);
    row.text("state", name_of(kActorStates, actor.state)).text("job_id", job_hex(actor.job));
    row.text("name", actor.spec->name).text("ray_namespace", actor.spec->name_space);
    row.text("namespace", actor.spec->name_space).text("node_id", hex_or_empty(actor.node));
    row.number("pid", pid_of(actor.process)).number("worker_id", actor.process);
    row.number("num_restarts", actor.restarts).flag("is_detached", actor.spec->detached);
    row.json("required_resources", amounts(actor.spec->placement.resources));
    row.text("placement_group_id", hex_or_empty(actor.spec->placement.strategy.group));
    row.text("death_cause", actor.cause.message);
    if (!take(std::move(row))) return;
  }
}

void StateReporter::tasks(const std::function<bool(Row&&)>& take) const {
  for (const TaskRow& t : s_.tasks_.rows()) {
    Row row;
    row.text("task_id", to_hex(t.task)).number("attempt_number", t.attempt).text("name", t.name);
    row.text("func_or_class_name", t.name).text("state", name_of(kTaskStates, t.state));
    row.text("type", name_of(kTaskKinds, t.kind)).text("job_id", job_hex(t.job));
    row.text("actor_id", hex_or_empty(t.actor)).text("node_id", to_hex(s_.node_id_));
    row.number("worker_id", t.worker).number("worker_pid", t.worker_pid);
    row.text("error_type", t.state == TaskEventState::kFailed ? t.error : "");
    row.number("creation_time_ms", ms(t.submitted_ns)).number("start_time_ms", ms(t.start_ns));
    row.number("end_time_ms", ms(t.end_ns))
        .number("start_ns", t.start_ns)
        .number("end_ns", t.end_ns);
    if (!take(std::move(row))) return;
  }
}

void StateReporter::objects(const std::function<bool(Row&&)>& take) const {
  for (const auto& o : s_.store_->list_objects(SIZE_MAX)) {
    std::string holders;
    int64_t references = 0;
    for (const auto& [process, count] : o.holders) {
      holders += fmt::format("{}{{\"process\":{},\"pid\":{},\"count\":{}}}",
                             holders.empty() ? "" : ",", process, pid_of(process), count);
      references += count;
    }
    Row row;
    row.text("object_id", to_hex(o.id))
        .number("object_size", o.size)
        .text("state", name_of(kValueStates, o.state));
    row.number("pid", pid_of(o.id.process()))
        .number("process", o.id.process())
        .text("node_id", to_hex(s_.node_id_));
    row.number("references", references)
        .number("containers", o.containers)
        .flag("pinned", o.pinned);
    row.flag("on_disk", o.on_disk).json("holders", "[" + holders + "]");
    row.text("reference_type", o.pinned ? "PINNED_IN_MEMORY" : "LOCAL_REFERENCE");
    if (!take(std::move(row))) return;
  }
}

void StateReporter::workers(const std::function<bool(Row&&)>& take) const {
  for (const auto& [id, c] : s_.clients_->all()) {
    if (c->dead) continue;
    Row row;
    row.number("worker_id", id)
        .number("pid", c->pid)
        .text("worker_type", name_of(kClientKinds, c->kind));
    row.flag("is_alive", c->alive())
        .text("node_id", to_hex(s_.node_id_))
        .text("job_id", job_hex(c->job));
    row.number("rss", private_memory_of(c->pid));
    row.number("start_time_ms", wall_ms(c->since.time_since_epoch()));
    auto w = s_.agent_->workers().find(id);
    if (w != s_.agent_->workers().end()) {
      row.text("state", name_of(kWorkerStates, w->second.state)).flag("blocked", w->second.blocked);
      row.text("actor_id", hex_or_empty(w->second.actor)).text("language", w->second.key.language);
      row.text("cpus", scheduler::to_text(w->second.bound));
    } else {
      row.text("state", "CONNECTED");
    }
    if (!take(std::move(row))) return;
  }
}

void StateReporter::jobs(const std::function<bool(Row&&)>& take) const {
  for (const auto& [id, job] : s_.controller_->jobs()) {
    Row row;
    row.text("job_id", job_hex(id))
        .text("status", job.alive ? "RUNNING" : "FINISHED")
        .text("type", "DRIVER");
    row.text("entrypoint", job.spec.entrypoint).text("namespace", job.spec.name_space);
    row.number("driver", job.driver)
        .number("driver_pid", pid_of(job.driver))
        .text("cwd", job.spec.cwd);
    row.json("metadata", job.spec.metadata.empty() || !parse_json(job.spec.metadata)
                             ? "{}"
                             : job.spec.metadata);
    row.number("start_time_ms", wall_ms(job.started)).number("end_time_ms", wall_ms(job.ended));
    if (!take(std::move(row))) return;
  }
}

void StateReporter::topology(const std::function<bool(Row&&)>& take) const {
  Row row;
  row.text("node_id", to_hex(s_.node_id_)).text("hostname", s_.offer_.hostname);
  row.json("topology", topology_json(s_.agent_->binder()));
  take(std::move(row));
}

void StateReporter::groups(const std::function<bool(Row&&)>& take) const {
  for (const auto& [id, group] : s_.controller_->groups()) {
    std::string bundles;
    for (size_t i = 0; i < group.spec.bundles.size(); ++i) {
      NodeId node = i < group.placed.size() ? group.placed[i] : NodeId{};
      bundles +=
          fmt::format("{}{{\"index\":{},\"node_id\":\"{}\",\"unit_resources\":{}}}",
                      i == 0 ? "" : ",", i, hex_or_empty(node), amounts(group.spec.bundles[i]));
    }
    Row row;
    row.text("placement_group_id", to_hex(id)).text("name", group.spec.name);
    row.text("namespace", group.spec.name_space).text("creator_job_id", job_hex(group.job));
    row.text("state", name_of(kGroupStates, group.state))
        .text("strategy", name_of(kGroupStrategies, group.spec.strategy));
    row.flag("is_detached", group.spec.detached).json("bundles", "[" + bundles + "]");
    row.json("stats", fmt::format("{{\"scheduling_attempts\":{}}}", group.attempt));
    if (!take(std::move(row))) return;
  }
}

void StateReporter::pins(const std::function<bool(Row&&)>& take) const {
  for (const auto& p : s_.store_->list_pins()) {
    Row row;
    row.number("process", p.process).number("pid", pid_of(p.process)).number("objects", p.objects);
    row.number("bytes", p.bytes);
    if (!take(std::move(row))) return;
  }
}

void StateReporter::logs(const std::function<bool(Row&&)>& take) const {
  std::string directory = s_.options_.session->log_directory();
  DIR* dir = opendir(directory.c_str());
  if (dir == nullptr) return;
  std::map<std::string, uint64_t> found;
  while (dirent* e = readdir(dir)) {
    struct stat st{};
    std::string path = directory + "/" + e->d_name;
    if (lstat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode))
      found[e->d_name] = static_cast<uint64_t>(st.st_size);
  }
  closedir(dir);
  for (const auto& [name, size] : found) {
    Row row;
    row.text("name", name).text("path", directory + "/" + name).number("size", size);
    row.text("node_id", to_hex(s_.node_id_));
    if (!take(std::move(row))) return;
  }
}

void StateReporter::runtime_envs(const std::function<bool(Row&&)>& take) const {
  std::set<std::string> seen;
  for (const auto& [id, worker] : s_.agent_->workers()) {
    std::string env = worker.key.runtime_env;
    auto job = s_.jobs_.find(worker.key.job);
    if (env.empty() && job != s_.jobs_.end()) env = job->second.spec.runtime_env;
    if (env.empty() || !seen.insert(env).second) continue;
    Row row;
    row.json("runtime_env", parse_json(env) ? env : json_quote(env))
        .text("node_id", to_hex(s_.node_id_));
    row.flag("success", true);
    if (!take(std::move(row))) return;
  }
}

void StateReporter::events(const std::function<bool(Row&&)>& take) const {
  uint64_t number = 0;
  for (const auto& e : s_.cluster_events_) {
    Row row;
    auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(e.at.time_since_epoch());
    row.text("event_id", fmt::format("{}-{}", to_hex(s_.node_id_), ++number));
    row.number("time", ms.count()).text("severity", e.severity).text("source_type", e.source);
    row.text("message", e.message).text("node_id", to_hex(s_.node_id_));
    if (!take(std::move(row))) return;
  }
}

// ---- Metrics and the trace

std::string StateReporter::trace() const {
  const std::string who = fmt::format("sheafd on {}, node {}, process {}", s_.offer_.hostname,
                                      to_hex(s_.node_id_).substr(0, 8), getpid());
  return s_.trace_.chrome_json(s_.self_.node, who);
}

std::string StateReporter::metrics() const {
  std::string out;
  const MetricTags here{{"node_id", to_hex(s_.node_id_)}};
  auto one = [&](std::string_view name, std::string_view help, std::string_view type,
                 double value) {
    append_metric_family(out, name, help, type);
    append_metric_sample(out, name, here, value);
  };
  auto m = s_.store_->metrics();
  auto real = [](uint64_t n) { return static_cast<double>(n); };
  one("store_arena_bytes", "Size of the arena.", "gauge", real(m.arena_bytes));
  one("store_used_bytes", "Arena bytes in use.", "gauge", real(m.used_bytes));
  one("store_committed_bytes", "Arena bytes backed by memory.", "gauge", real(m.committed_bytes));
  one("store_objects", "Objects in the table.", "gauge", real(m.objects));
  one("store_objects_in_arena", "Objects whose bytes are in the arena.", "gauge",
      real(m.objects_in_arena));
  one("store_objects_spilled", "Objects whose bytes are on disk only.", "gauge",
      real(m.objects_spilled));
  one("store_waiting_allocations", "Requests that wait for space.", "gauge",
      real(m.waiting_allocations));
  one("store_spilled_bytes_total", "Bytes written to disk.", "counter",
      real(m.spilled_bytes_total));
  one("store_restored_bytes_total", "Bytes read back from disk.", "counter",
      real(m.restored_bytes_total));
  one("store_spill_failures_total", "Objects that could not be written to disk.", "counter",
      real(m.spill_failures_total));
  one("lineage_records", "Tasks of processes of this node that others could run again.", "gauge",
      real(m.lineage_records));
  one("lineage_values", "Small values of this node that the head has, too.", "gauge",
      real(m.lineage_values));
  one("lineage_kept", "Tasks and small values that are kept here for other nodes.", "gauge",
      real(m.lineage_kept));
  one("workers", "Worker processes.", "gauge", real(s_.agent_->workers().size()));
  one("leases", "Leases held by clients.", "gauge", real(s_.agent_->leases().size()));
  one("spawns_in_flight", "Workers being started.", "gauge", real(s_.agent_->spawns().size()));
  one("lanes", "Lanes between client processes.", "gauge", real(s_.broker_->lane_count()));
  one("clients", "Connected processes.", "gauge", real(s_.clients_->all().size()));
  one("tasks_finished_total", "Tasks reported as finished.", "counter",
      real(s_.tasks_.finished_total()));
  one("tasks_failed_total", "Tasks reported as failed.", "counter", real(s_.tasks_.failed_total()));
  one("task_events_dropped_total", "Task events that were not kept.", "counter",
      real(s_.tasks_.dropped()));
  one("log_lines_dropped_total", "Lines of workers not shown to their driver.", "counter",
      real(s_.logs_->dropped_lines()));
  one("handshakes_refused_total", "Connections that were refused.", "counter",
      real(s_.listener_ ? s_.listener_->refused() : 0));
  auto resources = [&](std::string_view name, std::string_view help,
                       const protocol::ResourceMap& map) {
    append_metric_family(out, name, help, "gauge");
    for (const auto& [resource, amount] : map) {
      append_metric_sample(
          out, name, {{"node_id", here.at("node_id")}, {"resource", resource}},
          static_cast<double>(amount) / static_cast<double>(protocol::kResourceUnit));
    }
  };
  resources("resources_total", "What the node offers.", s_.agent_->resources().total());
  resources("resources_available", "What of it is free.", s_.agent_->resources().available());
  s_.pushed_metrics_.append_text(out, here);
  return out;
}

}  // namespace sheaf::launchers
