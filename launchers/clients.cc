#include "launchers/clients.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cerrno>

#include "launchers/packet.h"
#include "launchers/session.h"
#include "launchers/worker_spawner.h"

namespace sheaf::launchers {

namespace {

size_t align64(size_t n) { return (n + 63) & ~size_t{63}; }

void kill_group(pid_t pid) {
  if (pid <= 1) return;
  if (::kill(-pid, SIGKILL) != 0) ::kill(pid, SIGKILL);  // it may not lead a group yet
}

}  // namespace

uint32_t LaneNumbers::take() {
  for (uint32_t i = 1; i < used_.size(); ++i) {
    if (used_[i]) continue;
    used_[i] = true;
    return i;
  }
  if (used_.size() >= transport::kMaxLanes) return 0;
  used_.push_back(true);
  return static_cast<uint32_t>(used_.size() - 1);
}

Result<std::unique_ptr<Clients>> Clients::create(EventLoop& loop, transport::LaneRegion& region,
                                                 ClientHooks hooks) {
  SHEAF_ASSIGN(transport::RegionOffset bell, region.allocate(sizeof(transport::BellBlock)));
  region.at<transport::BellBlock>(bell)->owner_process.store(kDaemonProcess);
  return std::unique_ptr<Clients>(new Clients(loop, region, std::move(hooks), bell));
}

Clients::Clients(EventLoop& loop, transport::LaneRegion& region, ClientHooks hooks,
                 transport::RegionOffset bell)
    : loop_(loop),
      region_(region),
      hooks_(std::move(hooks)),
      bell_offset_(bell),
      bell_(region.at<transport::BellBlock>(bell)) {
  auto watcher = transport::DeathWatcher::create([this](uint64_t id) {
    loop_.post([this, id] {
      if (Client* client = find(id)) sign_of_death(*client, false);
    });
  });
  if (watcher) watcher_ = std::move(*watcher);
}

Clients::~Clients() { watcher_.reset(); }

Result<ProcessBlock> Clients::make_block(ProcessId id) {
  ProcessBlock b;
  size_t at = align64(sizeof(transport::BellBlock));
  auto place = [&at](size_t size) {
    size_t offset = at;
    at = align64(at + size);
    return offset;
  };
  size_t lock = place(sizeof(transport::DeathLockBlock));
  size_t down = place(sizeof(transport::RingBlock)), up = place(sizeof(transport::RingBlock));
  size_t pins = place(objstore::pin_table_bytes(objstore::kDefaultPinSlots));
  b.size = at;
  SHEAF_ASSIGN(b.offset, region_.allocate(b.size));
  b.bell = b.offset;
  b.death_lock = b.offset + lock;
  b.to_client = b.offset + down;
  b.to_daemon = b.offset + up;
  b.pins = b.offset + pins;
  b.users = 1;
  region_.at<transport::BellBlock>(b.bell)->owner_process.store(number_of(id));
  if (Status s = transport::init_death_lock(region_.at<transport::DeathLockBlock>(b.death_lock));
      !s.is_ok()) {
    region_.release(b.offset, b.size);
    return s;
  }
  return b;
}

Result<Client*> Clients::admit(Greeting greeting, JobId job, protocol::Welcome welcome,
                               std::span<const int> fds) {
  ProcessId id = make_process(welcome.node, welcome.incarnation, next_number_++);
  uint32_t number = lane_numbers_.take();
  if (number == 0) return Status(StatusCode::kOverloaded, "too many processes on this node");
  auto made = make_block(id);
  if (!made) {
    lane_numbers_.give_back(number);
    return made.status();
  }
  ProcessBlock block = *made;
  auto abandon = [&](Status why) {
    lane_numbers_.give_back(number);
    region_.release(block.offset, block.size);
    return why;
  };

  auto client = std::make_unique<Client>();
  client->id = id;
  client->kind = greeting.hello.kind;
  client->pid = greeting.pid;
  client->job = job;
  client->spawn_token = greeting.hello.spawn_token;
  client->since = loop_.now();
  client->daemon_lane = number;
  auto lane =
      transport::Lane::open(region_, {block.to_client, block.to_daemon, block.bell, 0, number});
  if (!lane) return abandon(lane.status());
  client->lane = std::move(*lane);

  welcome.process = id;
  welcome.job = job;
  welcome.bell = block.bell;
  welcome.daemon_lane = {block.to_daemon, block.to_client, bell_offset_, number, 0};
  welcome.pin_table = block.pins;
  welcome.pin_slots = objstore::kDefaultPinSlots;
  welcome.death_lock = block.death_lock;
  if (Status s = send_packet(greeting.socket.get(), wire::encode(welcome), fds); !s.is_ok())
    return abandon(s);

  client->socket = std::move(greeting.socket);
  client->pidfd = Fd(static_cast<int>(syscall(SYS_pidfd_open, client->pid, 0)));
  blocks_[id] = block;
  if (by_lane_.size() <= number) by_lane_.resize(number + 1);
  by_lane_[number] = client.get();
  by_pid_[client->pid] = client.get();
  Client& stored = *client;
  clients_[id] = std::move(client);
  watch(stored);
  return &stored;
}

void Clients::watch(Client& client) {
  ProcessId id = client.id;
  Status s = loop_.add_fd(client.socket.get(), EPOLLIN | EPOLLRDHUP, [this, id](uint32_t) {
    Client* c = find(id);
    if (c == nullptr) return;
    auto packet = receive_packet(c->socket.get(), kHelloBytesMax);
    if (!packet && packet.status().code() == StatusCode::kOverloaded) return;
    if (packet && !packet->end) return end_session(*c, "bytes on the socket after the handshake");
    loop_.remove_fd(c->socket.get());
    // After a shutdown of ours the process may still be writing to its memory.
    sign_of_death(*c, !c->broken || !c->pidfd);
  });
  SHEAF_CHECK(s.is_ok());
  if (client.pidfd) {
    s = loop_.add_fd(client.pidfd.get(), EPOLLIN, [this, id](uint32_t) {
      if (Client* c = find(id)) sign_of_death(*c, true);
    });
    SHEAF_CHECK(s.is_ok());
  }
  if (watcher_) watcher_->add(id, region_.at<transport::DeathLockBlock>(blocks_.at(id).death_lock));
}

Client* Clients::find(ProcessId id) {
  auto it = clients_.find(id);
  return it == clients_.end() ? nullptr : it->second.get();
}

Client* Clients::alive(ProcessId id) {
  Client* client = find(id);
  return client != nullptr && client->alive() ? client : nullptr;
}

Client* Clients::by_lane(uint32_t daemon_lane) {
  return daemon_lane < by_lane_.size() ? by_lane_[daemon_lane] : nullptr;
}

Client* Clients::by_pid(pid_t pid) {
  auto it = by_pid_.find(pid);
  return it == by_pid_.end() ? nullptr : it->second;
}

void Clients::kill(Client& client, protocol::ErrorRecord cause) {
  if (client.dead) return;
  if (!client.doom) client.doom = std::move(cause);
  kill_group(client.pid);
}

void Clients::end_session(Client& client, const std::string& why) {
  if (client.dying) return;
  protocol::ErrorRecord cause{protocol::ErrorKind::kSystem,
                              fmt::format("process {} broke the protocol: {}", client.pid, why),
                              {},
                              {}};
  client.broken = true;
  client.doom = cause;
  if (client.kind == protocol::ClientKind::kWorker)
    kill_group(client.pid);
  else
    ::shutdown(client.socket.get(), SHUT_RDWR);  // our end of file on it is what ends the session
}

void Clients::note_exit(pid_t pid, int wait_status) {
  Client* client = by_pid(pid);
  if (client == nullptr || client->dead) return;
  client->wait_status = wait_status;
  sign_of_death(*client, false);
}

void Clients::sign_of_death(Client& client, bool reaped) {
  if (reaped && !client.reaped) {
    client.reaped = true;
    loop_.remove_fd(client.socket.get());
    if (client.pidfd) loop_.remove_fd(client.pidfd.get());
    if (watcher_) watcher_->remove(client.id);
  }
  bool cause_known =
      client.kind != protocol::ClientKind::kWorker || client.doom || client.wait_status;
  if (client.dead) {
    if (client.reaped) reap(client);
  } else if (cause_known) {
    declare(client);
  } else if (!client.dying) {
    client.dying = true;
    loop_.call_after(kCauseGrace, [this, id = client.id] {
      if (Client* c = find(id); c != nullptr && !c->dead) declare(*c);
    });
  }
}

protocol::ErrorRecord Clients::cause_of(const Client& client) const {
  using protocol::ErrorKind;
  if (client.doom) return *client.doom;
  if (client.kind == protocol::ClientKind::kDriver) {
    return {
        ErrorKind::kOwnerDied, fmt::format("the driver (pid {}) has ended", client.pid), {}, {}};
  }
  if (client.kind == protocol::ClientKind::kTool)
    return {ErrorKind::kOwnerDied, "the tool has ended", {}, {}};
  std::string how = client.wait_status ? describe_wait_status(*client.wait_status) : "died";
  return {ErrorKind::kWorkerCrashed,
          fmt::format("the worker process (pid {}) {}", client.pid, how),
          {},
          {}};
}

void Clients::declare(Client& client) {
  client.dying = true;
  if (!client.broken) hooks_.drain(client);
  if (client.dead) return;
  client.dead = true;
  by_lane_[client.daemon_lane] = nullptr;
  hooks_.on_dead(client, cause_of(client));
  if (client.reaped) reap(client);
}

void Clients::reap(Client& client) {
  if (client.kind == protocol::ClientKind::kWorker) end_group(client);
  hooks_.on_reaped(client);
  finished_.push_back(client.id);
}

// What a worker started dies with it; the worker itself may run its exit handlers after it has
// closed its session.
void Clients::end_group(const Client& client) {
  uint64_t started = process_start_time(client.pid);
  if (started == 0 || client.doom) return kill_group(client.pid);
  loop_.call_after(kLingerAfterClose, [pid = client.pid, started] {
    uint64_t now = process_start_time(pid);  // 0: its children may be left
    if (now == 0 || now == started) kill_group(pid);
  });
}

void Clients::release_block(ProcessId id) {
  auto it = blocks_.find(id);
  SHEAF_CHECK(it != blocks_.end() && it->second.users > 0);
  if (--it->second.users > 0) return;
  region_.release(it->second.offset, it->second.size);
  blocks_.erase(it);
}

void Clients::sweep() {
  for (ProcessId id : finished_) {
    auto it = clients_.find(id);
    if (it == clients_.end()) continue;
    Client& client = *it->second;
    lane_numbers_.give_back(client.daemon_lane);
    if (auto p = by_pid_.find(client.pid); p != by_pid_.end() && p->second == &client)
      by_pid_.erase(p);
    release_block(id);
    clients_.erase(it);
  }
  finished_.clear();
}

}  // namespace sheaf::launchers
