#include "tests/launchers/test_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "launchers/packet.h"
#include "tests/launchers/daemon_process.h"
#include "transport/death_lock.h"

namespace sheaf::launchers::testing {

using protocol::MessageType;

int connect_raw(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd >= 0 && ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0)
    return fd;
  if (fd >= 0) close(fd);
  return -1;
}

std::optional<std::string> receive_raw(int fd, int timeout_ms) {
  pollfd p{fd, POLLIN, 0};
  if (poll(&p, 1, timeout_ms) != 1) return std::nullopt;
  auto packet = receive_packet(fd, 65536);
  if (!packet || packet->end) return std::nullopt;
  return packet->bytes;
}

Result<std::unique_ptr<TestClient>> TestClient::connect(const std::string& socket_path,
                                                        protocol::ClientKind kind, uint64_t token) {
  auto client = std::unique_ptr<TestClient>(new TestClient());
  client->socket_ = connect_raw(socket_path);
  if (client->socket_ < 0)
    return Status(StatusCode::kDisconnected, "cannot connect to " + socket_path);
  protocol::Hello hello;
  hello.kind = kind;
  hello.pid = getpid();
  hello.spawn_token = token;
  SHEAF_TRY(send_packet(client->socket_, wire::encode(hello)));
  pollfd p{client->socket_, POLLIN, 0};
  if (poll(&p, 1, 20000) != 1) return Status(StatusCode::kTimeout, "no welcome");
  SHEAF_ASSIGN(Packet packet, receive_packet(client->socket_, 65536));
  if (packet.end) return Status(StatusCode::kDisconnected, "no welcome");
  SHEAF_ASSIGN(client->welcome_, wire::decode<protocol::Welcome>(packet.bytes));
  const protocol::Welcome& w = client->welcome_;
  if (w.code != StatusCode::kOk) return Status(w.code, w.message);
  if (packet.fds.size() != 2) return Status(StatusCode::kCorrupt, "two descriptors expected");
  SHEAF_ASSIGN(auto region, transport::LaneRegion::map(packet.fds[0].release()));
  client->region_ = std::make_unique<transport::LaneRegion>(std::move(region));
  SHEAF_ASSIGN(auto arena, objstore::Arena::map(packet.fds[1].release(), w.arena_bytes));
  client->arena_ = std::make_unique<objstore::Arena>(std::move(arena));
  client->bell_ =
      std::make_unique<transport::Bell>(client->region_->at<transport::BellBlock>(w.bell));
  SHEAF_ASSIGN(auto lane, transport::Lane::open(*client->region_, w.daemon_lane));
  client->lane_ = std::move(lane);
  return client;
}

TestClient::~TestClient() {
  if (socket_ >= 0) close(socket_);
}

Status TestClient::hold_lock() {
  return transport::hold_death_lock(region_->at<transport::DeathLockBlock>(welcome_.death_lock));
}

void TestClient::send_bytes(uint16_t type, uint64_t request, const std::string& body) {
  lane_->send(type, wire::as_bytes(wire::encode(protocol::Envelope{request})),
              wire::as_bytes(body));
}

bool TestClient::poll_lane() {
  bool any = false;
  lane_->flush();
  while (auto message = lane_->peek()) {
    any = true;
    wire::Reader reader(message->payload);
    protocol::Envelope envelope;
    reader(envelope);
    Received r{static_cast<MessageType>(message->type), envelope.request,
               std::string(wire::as_text(reader.take(reader.remaining())))};
    lane_->pop();
    if (r.type == MessageType::kFlushRequest)
      send_bytes(static_cast<uint16_t>(MessageType::kFlushDone), 0, r.body);
    else
      kept_.push_back(std::move(r));
  }
  return any;
}

std::optional<Received> TestClient::next(MessageType type, int timeout_ms) {
  std::optional<Received> found;
  eventually(
      [&] {
        bell_->wait(std::chrono::steady_clock::now() + std::chrono::milliseconds(1));
        poll_lane();
        for (auto it = kept_.begin(); it != kept_.end(); ++it) {
          if (it->type != type) continue;
          found = std::move(*it);
          kept_.erase(it);
          return true;
        }
        return false;
      },
      timeout_ms);
  return found;
}

Result<std::string> TestClient::wait_reply(uint64_t request, int timeout_ms) {
  std::optional<Received> found;
  eventually(
      [&] {
        bell_->wait(std::chrono::steady_clock::now() + std::chrono::milliseconds(1));
        poll_lane();
        for (auto it = kept_.begin(); it != kept_.end(); ++it) {
          if (it->type != MessageType::kReply || it->request != request) continue;
          found = std::move(*it);
          kept_.erase(it);
          return true;
        }
        return false;
      },
      timeout_ms);
  if (!found) return Status(StatusCode::kTimeout, "no reply");
  wire::Reader reader(found->body);
  protocol::ReplyHead head;
  reader(head);
  if (head.code != StatusCode::kOk) return Status(head.code, head.message);
  return std::string(wire::as_text(reader.take(reader.remaining())));
}

Result<uint64_t> TestClient::register_job(const std::string& python) {
  protocol::RegisterJob job;
  job.name_space = "test";
  job.python = python;
  job.cwd = "/";
  SHEAF_ASSIGN(auto reply, ask_for<protocol::RegisterJobReply>(MessageType::kRegisterJob, job));
  return uint64_t{reply.job};
}

std::string TestClient::query(const std::string& what, std::map<std::string, std::string> filters) {
  protocol::StateQuery query;
  query.what = what;
  query.filters = std::move(filters);
  auto reply = ask_for<protocol::StateReply>(MessageType::kStateQuery, query);
  return reply ? reply->text : reply.status().to_string();
}

bool TestClient::wait_for(transport::Lane& lane, int timeout_ms) {
  return eventually(
      [&] {
        lane.flush();
        return lane.peek().has_value();
      },
      timeout_ms);
}

bool TestClient::disconnected(int timeout_ms) {
  pollfd p{socket_, POLLIN, 0};
  if (poll(&p, 1, timeout_ms) != 1) return false;
  auto packet = receive_packet(socket_, 16);
  return !packet || packet->end;
}

}  // namespace sheaf::launchers::testing
