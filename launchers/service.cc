#include "launchers/service.h"

#include <fmt/format.h>
#include <sys/random.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>

#include "core/json.h"
#include "core/version.h"
#include "launchers/child_process.h"
#include "launchers/cpu_affinity.h"
#include "launchers/service_send.h"
#include "objstore/memory_limit.h"

namespace sheaf::launchers {

using protocol::ErrorKind;
using protocol::ErrorRecord;
using scheduler::AgentEvent;
using scheduler::ControllerEvent;

namespace {

constexpr size_t kRegionBytes = size_t{16} << 30;  // address space only
constexpr size_t kMessagesPerRound = 256;  // of one client, before the others have their turn
constexpr auto kOomKillPause =
    std::chrono::seconds(1);  // so that the memory of the last victim is back
constexpr int kKillTimeoutMs = 1500;
constexpr int64_t kSpawnCpusMax = 1024;
constexpr auto kEndInterval = std::chrono::milliseconds(3);
constexpr auto kForEver = std::chrono::hours(24 * 365);

// The value of an object that the store lost.
std::string encode_loss(objstore::LossCause cause, const ObjectId& id) {
  using objstore::LossCause;
  ErrorRecord error;
  std::string name = to_hex(id);
  switch (cause) {
    case LossCause::kOwnerDied:
      error.kind = ErrorKind::kOwnerDied;
      error.message = fmt::format("object {}: the process that was to make it has died", name);
      break;
    case LossCause::kFreed:
      error.kind = ErrorKind::kObjectFreed;
      error.message = fmt::format("object {} was freed", name);
      break;
    case LossCause::kCorrupt:
      error.kind = ErrorKind::kObjectLost;
      error.message = fmt::format("object {}: its spilled bytes cannot be read back", name);
      break;
    case LossCause::kUnknown:
      error.kind = ErrorKind::kObjectLost;
      error.message = fmt::format(
          "object {} is not known on this node: nobody held it any more, or nobody made it", name);
      break;
    case LossCause::kStoreFull:
      error.kind = ErrorKind::kObjectStoreFull;
      error.message = fmt::format("object {}: no room to bring it back from disk", name);
      break;
    case LossCause::kNodeDied:
      error.kind = ErrorKind::kObjectLost;
      error.message = fmt::format("object {}: the node that had its bytes has died", name);
      break;
    case LossCause::kNoMaker:
      error.kind = ErrorKind::kObjectLost;
      error.message = fmt::format(
          "object {} was lost, and no process of its job is left to run its task again", name);
      break;
    case LossCause::kRunsUsedUp:
      error.kind = ErrorKind::kObjectLost;
      error.message = fmt::format(
          "object {} was lost, and its task was run again as often as max_retries allows", name);
      break;
  }
  return wire::encode(error);
}

}  // namespace

NodeId new_node_id() {
  NodeId id;
  SHEAF_CHECK(getrandom(&id, sizeof id, 0) == sizeof id);
  return id;
}

Service::Service(ServiceOptions options)
    : options_(std::move(options)),
      loop_(*options_.loop),
      log_(options_.log),
      node_id_(options_.node_id.is_nil() ? new_node_id() : options_.node_id),
      tasks_(static_cast<size_t>(options_.config->get_int("tasks.events_kept"))),
      trace_(static_cast<size_t>(options_.config->get_int("trace.events"))) {}

Service::~Service() { finish(); }

Result<std::unique_ptr<Service>> Service::create(ServiceOptions options) {
  auto service = std::unique_ptr<Service>(new Service(std::move(options)));
  SHEAF_TRY(service->create_parts());
  return service;
}

// Before any of its memory is there. Best effort: a sandbox may forbid it, and a topology from a
// file may name memories that are not here.
void Service::spread_arena() {
  std::vector<uint32_t> memories;
  if (!topology_) return;
  for (const scheduler::NumaNode& node : topology_->numa) {
    if (!node.memories.empty()) memories.push_back(node.memories.front());
  }
  if (memories.size() < 2) return;
  Status spread = interleave({arena_->write_base(), arena_->bytes()}, memories);
  if (!spread) SHEAF_LOG(log_, kInfo, "the object store's {}", spread.to_string());
}

Status Service::create_store() {
  const Config& config = *options_.config;
  uint64_t bytes = config.get_bytes("store.memory");
  if (bytes == 0) bytes = objstore::default_arena_bytes();
  objstore::ArenaOptions arena_options;
  if (!config.get_bool("store.huge_pages"))
    arena_options.first_backing = objstore::ArenaBacking::kMemfd;
  SHEAF_ASSIGN(auto arena, objstore::Arena::create(bytes, arena_options));
  arena_ = std::make_unique<objstore::Arena>(std::move(arena));
  spread_arena();

  objstore::StoreOptions store;
  store.arena = arena_.get();
  store.node = static_cast<uint16_t>(self_.node);
  if (options_.cluster) connect_store(store);
  std::string spill = config.get_string("store.spill_dir");
  store.spill_directory = spill.empty() ? options_.session->spill_directory()
                                        : fmt::format("{}/sheaf-spill-{}", spill, to_hex(node_id_));
  store.spill_max_bytes = config.get_bytes("store.spill_max");
  store.space_wait =
      std::chrono::duration_cast<std::chrono::milliseconds>(config.get_duration("store.full_wait"));
  store.notify = [this](ProcessId process, const objstore::ObjectEvent& e) {
    send(process, protocol::MessageType::kObjectReady,
         protocol::ObjectReady{e.id, e.state, e.bytes, e.locator});
  };
  store.space_ready = [this](ProcessId process, uint64_t request,
                             Result<objstore::Locator> answer) {
    bool slab = slab_requests_.erase({process, request}) > 0;
    space_answer(process, request, std::move(answer), slab);
  };
  store.encode_error = encode_loss;
  connect_lineage(store);
  store.wake = [this] {
    if (!store_woken_.exchange(true)) loop_.wake();
  };
  SHEAF_ASSIGN(store_, objstore::Store::create(std::move(store)));
  if (!mesh_) return {};
  std::span<const std::byte> memory{arena_->read_base(), arena_->bytes()};
  return mesh_->fabric().export_region(0, memory, store_.get());
}

// The head's. Its boot number is the node's incarnation, so it comes before everything with ids.
Status Service::create_controller() {
  const Config& config = *options_.config;
  auto completed = [this](scheduler::JournalCompletion done) {
    loop_.post([this, done = std::move(done)]() mutable {
      push(ControllerEvent(scheduler::JournalSynced{std::move(done)}));
      pump();
    });
  };
  if (options_.embedded) {
    journal_ = std::make_unique<scheduler::MemoryJournal>(completed);
  } else {
    scheduler::SqliteJournalOptions journal;
    journal.path = options_.session->journal_path();
    SHEAF_ASSIGN(journal_, scheduler::open_sqlite_journal(std::move(journal), completed));
  }
  SHEAF_ASSIGN(auto replay, journal_->replay());
  for (const std::string& note : replay.quarantined) log_.warning("journal: " + note);

  scheduler::ControllerConfig control;
  control.warn_interval = config.get_duration("scheduler.warn_interval");
  control.lease_time = config.get_duration("cluster.lease");
  while (options_.cluster && control.cluster == 0)
    SHEAF_CHECK(getrandom(&control.cluster, sizeof control.cluster, 0) == sizeof control.cluster);
  controller_ = std::make_unique<scheduler::Controller>(control);
  for (const std::string& note : controller_->restore(replay.records))
    log_.warning("journal: " + note);
  self_ = {kHeadNumber, controller_->boot()};
  return {};
}

Status Service::create_agent() {
  const Config& config = *options_.config;
  scheduler::AgentConfig agent;
  agent.node = node_id_;
  if (options_.cluster) agent.number = static_cast<uint16_t>(self_.node);
  agent.total = offer_.resources;
  agent.labels = offer_.labels;
  agent.topology = topology_;
  SHEAF_ASSIGN(agent.binding,
               scheduler::parse_binding_mode(config.get_string("scheduler.binding")));
  agent.max_workers = static_cast<uint32_t>(config.get_int("workers.max"));
  agent.warm_workers = static_cast<uint32_t>(config.get_int("workers.warm"));
  agent.idle_timeout = config.get_duration("workers.idle_timeout");
  agent.exit_grace = config.get_duration("workers.exit_grace");
  // Twice the CPUs: what starts waits for its turn at the template, and for messages.
  auto cpus = scheduler::amount_of(offer_.resources, scheduler::kCpu) / protocol::kResourceUnit;
  cpus = std::clamp<int64_t>(cpus, 2, kSpawnCpusMax);
  agent.max_spawns_in_flight = static_cast<uint32_t>(2 * cpus);
  agent.spare_workers = static_cast<uint32_t>(4 * cpus);
  agent.spawn_timeout = kForEver;  // the spawner watches; an environment may take long to make
  agent.starve_after = config.get_duration("scheduler.starve_after");
  agent.warn_interval = config.get_duration("scheduler.warn_interval");
  agent_ = std::make_unique<scheduler::Agent>(agent);

  if (!controller_) return {};
  for (auto& action : controller_->start(now())) perform(action);
  scheduler::NodeJoined joined;
  joined.node = node_id_;
  joined.total = offer_.resources;
  joined.labels = offer_.labels;
  joined.hostname = offer_.hostname;
  if (mesh_) joined.address = to_string(mesh_->address());
  push(ControllerEvent(std::move(joined)));
  return {};
}

void Service::create_spawner() {
  logs_ = std::make_unique<LogRouter>(
      loop_, options_.session->log_directory(),
      static_cast<uint32_t>(options_.config->get_int("log.lines_per_second")),
      [this](JobId job, protocol::LogLines lines) { deliver_logs(job, std::move(lines)); });
  SpawnerOptions spawner;
  spawner.socket_path = options_.session->socket_path();
  spawner.session_dir = options_.session->path();
  spawner.worker_program = options_.worker_program;
  spawner.preload = options_.config->get_string("workers.preload");
  spawner.hello_timeout = options_.config->get_duration("workers.start_timeout");
  spawner.on_failed = [this](uint64_t token, const ErrorRecord& error) {
    push(AgentEvent(scheduler::WorkerSpawnFailed{token, error}));
    if (!pumping_) loop_.post([this] { pump(); });
  };
  spawner.on_exit = [this](pid_t pid, int status) { clients_->note_exit(pid, status); };
  spawner_ = std::make_unique<WorkerSpawner>(loop_, *logs_, std::move(spawner));
}

Status Service::create_parts() {
  // An interpreter takes longer to start than everything here.
  create_spawner();
  spawner_->warm(options_.warm);
  if (options_.topology) {
    SHEAF_ASSIGN(auto topology, options_.topology());
    topology_ = std::make_shared<const scheduler::Topology>(std::move(topology));
  }
  SHEAF_ASSIGN(auto region, transport::LaneRegion::create(kRegionBytes));
  region_ = std::make_unique<transport::LaneRegion>(std::move(region));
  if (options_.head)
    SHEAF_TRY(create_controller());
  else
    self_ = {options_.cluster->number, options_.cluster->incarnation};
  SHEAF_TRY(options_.cluster && options_.head ? create_head_mesh() : create_mesh());
  SHEAF_TRY(create_store());
  if (mesh_ && controller_) expect_members();
  SHEAF_ASSIGN(offer_, node_offer(*options_.config, options_.overrides, node_id_, arena_->bytes()));
  own_cpus_ = allowed_cpus();
  if (topology_) {
    offer_.labels.try_emplace("sheaf.io/numa-nodes",
                              std::to_string(topology_->numa.size()));
  }
  // Names by which programs place something on one node, as `nodes()` shows its address.
  const std::string host = mesh_ ? mesh_->address().host : "127.0.0.1";
  offer_.resources[fmt::format("node:{}", host)] = protocol::kResourceUnit;
  if (options_.head) offer_.resources["node:__internal_head__"] = protocol::kResourceUnit;

  ClientHooks hooks;
  hooks.drain = [this](Client& c) { drain_lane(c, SIZE_MAX); };
  hooks.on_dead = [this](Client& c, const ErrorRecord& cause) { on_dead(c, cause); };
  hooks.on_reaped = [this](Client& c) { on_reaped(c); };
  SHEAF_ASSIGN(clients_, Clients::create(loop_, *region_, std::move(hooks)));
  broker_ = std::make_unique<LaneBroker>(*region_, *clients_);
  if (mesh_) create_relays();
  SHEAF_ASSIGN(int fifo, clients_->bell().open_poll_fd(options_.session->bell_directory() + "/1"));
  SHEAF_TRY(loop_.add_fd(fifo, EPOLLIN, [](uint32_t) {}));  // it only has to end the sleep

  SHEAF_TRY(create_agent());
  pump();

  EventLoop::RoundHook hook;
  hook.drain = [this] { return drain_round(); };
  hook.before_sleep = [this] { return clients_->bell().arm_poll(); };
  hook.after_sleep = [this] { clients_->bell().disarm_poll(); };
  loop_.set_round_hook(std::move(hook));
  return {};
}

Status Service::serve() {
  SHEAF_ASSIGN(listener_, Listener::create(loop_, options_.session->socket_path(),
                                           [this](Greeting g) { greet(std::move(g)); }));
  if (options_.owner_pid > 0) {
    owner_ = Fd(static_cast<int>(syscall(SYS_pidfd_open, options_.owner_pid, 0)));
    if (!owner_) return Status::from_errno("the owning process", errno);
    SHEAF_TRY(loop_.add_fd(owner_.get(), EPOLLIN, [this](uint32_t) {
      loop_.remove_fd(owner_.get());
      begin_shutdown("its driver has ended", std::chrono::milliseconds(0));
    }));
  }
  SHEAF_TRY(options_.session->publish(cluster_json()));
  arena_->start_prefault();
  check_memory();
  if (!controller_) join_cluster();
  arm_timer();
  return {};
}

std::string Service::cluster_json() const {
  JsonWriter w;
  w.begin_object().key("pid").value(getpid());
  w.key("start_time").value(process_start_time(getpid()));
  w.key("socket")
      .value(options_.session->socket_path())
      .key("session_dir")
      .value(options_.session->path());
  w.key("node_id")
      .value(to_hex(node_id_))
      .key("head")
      .value(options_.head)
      .key("embedded")
      .value(options_.embedded || options_.owner_pid > 0);
  if (mesh_) {
    w.key("address").value(to_string(mesh_->address())).key("number").value(self_.node);
    w.key("incarnation").value(self_.incarnation);
    w.key("secret_file").value(options_.cluster->secret_file);
  }
  auto created =
      std::chrono::duration_cast<std::chrono::duration<double>>(started_.time_since_epoch());
  w.key("created").value(created.count()).key("version").value(version()).end_object();
  return std::move(w).take();
}

// ---- Rounds

bool Service::drain_round() {
  bool all_empty = true;
  clients_->bell().for_each_ready([&](uint32_t lane) {
    Client* client = clients_->by_lane(lane);
    bool empty = client == nullptr ? !relays_ || relays_->drain(lane, kMessagesPerRound)
                                   : drain_lane(*client, kMessagesPerRound);
    all_empty = all_empty && empty;
    return empty;
  });
  pump();
  if (controller_) store_->expect_peers(controller_->restoring());
  if (store_woken_.exchange(false)) store_->poll(loop_.now());
  // Only a round that left every lane empty may decide about objects whose counts are still on
  // their way.
  bool more = !all_empty || store_->quiesce();
  clients_->sweep();
  arm_timer();
  return more;
}

bool Service::drain_lane(Client& client, size_t budget) {
  transport::Lane& lane = *client.lane;
  for (size_t n = 0; n < budget && !client.broken && !client.dead; ++n) {
    auto message = lane.peek();
    if (!message) break;
    dispatch(client, *message);
    lane.pop();
  }
  if (lane.corrupt() && !client.broken) clients_->end_session(client, "its lane holds nonsense");
  if (client.broken || client.dead) return true;
  if (lane.overflow_bytes() > 0) lane.flush();
  return lane.rx_empty();
}

void Service::pump() {
  if (pumping_) return;
  pumping_ = true;
  while (!events_.empty()) {
    Event event = std::move(events_.front());
    events_.pop_front();
    if (auto* e = std::get_if<AgentEvent>(&event)) {
      for (auto& action : agent_->handle(*e, now())) perform(action);
    } else {
      for (auto& action : controller_->handle(std::get<ControllerEvent>(event), now()))
        perform(action);
    }
  }
  pumping_ = false;
}

void Service::arm_timer() {
  using TimePoint = EventLoop::TimePoint;
  TimePoint next = TimePoint::max();
  auto consider = [&next](TimePoint t) { next = std::min(next, t); };
  if (auto t = agent_->next_tick()) consider(TimePoint(*t));
  if (auto t = controller_ ? controller_->next_tick() : std::nullopt) consider(TimePoint(*t));
  if (lease_ && !stopping_) consider(TimePoint(lease_->next_tick()));
  if (auto t = store_->next_wakeup(loop_.now())) consider(*t);
  if (timer_ != 0 && timer_at_ == next) return;
  if (timer_ != 0) loop_.cancel_timer(timer_);
  timer_ = 0;
  timer_at_ = next;
  if (next == TimePoint::max()) return;
  timer_ = loop_.call_at(next, [this] {
    timer_ = 0;
    auto due = [this](const std::optional<scheduler::Time>& t) { return t && *t <= now(); };
    if (due(agent_->next_tick())) push(AgentEvent(scheduler::Tick{}));
    if (controller_ && due(controller_->next_tick()))
      push(ControllerEvent(scheduler::ControllerTick{}));
    tend_lease();
    pump();
    if (auto t = store_->next_wakeup(loop_.now()); t && *t <= loop_.now())
      store_->poll(loop_.now());
  });
}

// Of the workers that serve tasks the one that began last loses least; actors lose their state.
void Service::check_memory() {
  const double most = options_.config->get_double("memory.kill_above");
  if (most >= 1) return;
  loop_.call_after(options_.config->get_duration("memory.check_every"), [this] { check_memory(); });
  MemoryUsage usage = memory_.read();
  if (usage.fraction() < most || loop_.now() - last_oom_kill_ < kOomKillPause) return;
  const scheduler::WorkerInfo* victim = nullptr;
  for (const auto& [id, worker] : agent_->workers()) {
    if (worker.state != scheduler::WorkerState::kLeased &&
        worker.state != scheduler::WorkerState::kActor)
      continue;
    if (victim != nullptr && victim->state != worker.state) {
      if (worker.state == scheduler::WorkerState::kLeased) victim = &worker;
    } else if (victim == nullptr || worker.since > victim->since) {
      victim = &worker;
    }
  }
  Client* client = victim != nullptr ? clients_->alive(victim->process) : nullptr;
  if (client == nullptr) return;
  last_oom_kill_ = loop_.now();
  std::string text = fmt::format(
      "the worker (pid {}) was killed because the node runs out of memory: {} MiB of {} MiB are in "
      "use, it had {} MiB "
      "of its own",
      client->pid, usage.used >> 20, usage.limit >> 20, private_memory_of(client->pid) >> 20);
  log_.warning(text);
  clients_->kill(*client, {ErrorKind::kOutOfMemory, text, {}, {}});
}

// ---- The end

void Service::begin_shutdown(const std::string& reason, std::chrono::milliseconds grace) {
  if (stopping_) return;
  stopping_ = true;
  log_.info("ending: " + reason);
  listener_->close();
  if (controller_ && mesh_) {
    push(ControllerEvent(scheduler::ClusterClosing{}));
    std::string text = wire::encode(protocol::ShutdownCluster{reason});
    for (const auto& [peer, node] : members_)
      tell_node(peer.node, NodeMessageType::kShutdown, text);
  }
  std::vector<pid_t> workers;
  for (const auto& [id, client] : clients_->all()) {
    if (client->kind != protocol::ClientKind::kWorker) continue;
    workers.push_back(client->pid);
    send(*client, protocol::MessageType::kExit, protocol::Exit{false, reason});
  }
  await_end(std::move(workers), loop_.now() + grace);
}

// A worker that has left its session may still run its exit handlers: its process counts.
void Service::await_end(std::vector<pid_t> workers, EventLoop::TimePoint deadline) {
  std::erase_if(workers, [](pid_t pid) { return process_start_time(pid) == 0; });
  bool said = !mesh_ || mesh_->unconfirmed_bytes() == 0;
  if ((workers.empty() && said) || loop_.now() >= deadline) return loop_.stop();
  loop_.call_after(kEndInterval, [this, workers = std::move(workers), deadline] {
    await_end(workers, deadline);
  });
}

void Service::finish() {
  if (finished_) return;
  finished_ = true;
  if (listener_) listener_->close();
  if (spawner_) spawner_->stop();
  if (!kill_descendants(kKillTimeoutMs)) log_.warning("some child processes could not be ended");
  if (logs_) logs_->finish_all();
  if (mesh_) mesh_->close();
  for (Status s : {store_ ? store_->close() : Status(), journal_ ? journal_->close() : Status()}) {
    if (!s.is_ok()) log_.error(s.to_string());
  }
  if (arena_) arena_->stop_prefault();
  loop_.set_round_hook({});
}

}  // namespace sheaf::launchers
