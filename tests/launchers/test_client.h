// A client that speaks the control protocol by itself: handshake, lane 0, direct lanes. One thread.
#pragma once

#include <sys/types.h>

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "objstore/arena.h"
#include "scheduler/protocol.h"
#include "transport/bell.h"
#include "transport/lane.h"
#include "transport/lane_region.h"

namespace sheaf::launchers::testing {

// A raw connection; -1 when refused.
int connect_raw(const std::string& path);
// One packet, or nothing at end of file or after `timeout_ms`.
std::optional<std::string> receive_raw(int fd, int timeout_ms);

struct Received {
  protocol::MessageType type;
  uint64_t request = 0;
  std::string body;
};

class TestClient {
 public:
  static Result<std::unique_ptr<TestClient>> connect(
      const std::string& socket_path, protocol::ClientKind kind = protocol::ClientKind::kDriver,
      uint64_t token = 0);
  ~TestClient();

  const protocol::Welcome& welcome() const { return welcome_; }
  ProcessId id() const { return welcome_.process; }
  std::byte* arena() const { return arena_->write_base(); }
  ObjectId new_object() {
    return ObjectId::make(id(), ++objects_);
  }
  Status hold_lock();

  template <class T>
  void send(protocol::MessageType type, const T& message, uint64_t request = 0) {
    send_bytes(static_cast<uint16_t>(type), request, wire::encode(message));
  }
  void send_bytes(uint16_t type, uint64_t request, const std::string& body);
  // Sends a request and waits for its reply; other messages are kept for next().
  template <class T>
  Result<std::string> ask(protocol::MessageType type, const T& message, int timeout_ms = 20000) {
    uint64_t request = ++requests_;
    send(type, message, request);
    return wait_reply(request, timeout_ms);
  }
  template <class Reply, class T>
  Result<Reply> ask_for(protocol::MessageType type, const T& message) {
    auto body = ask(type, message);
    if (!body) return body.status();
    return wire::decode<Reply>(*body);
  }
  // The next message of this type (kept ones first). kFlushRequest is answered by itself.
  std::optional<Received> next(protocol::MessageType type, int timeout_ms = 20000);
  template <class T>
  std::optional<T> expect(protocol::MessageType type, int timeout_ms = 20000) {
    auto r = next(type, timeout_ms);
    if (!r) return std::nullopt;
    auto value = wire::decode<T>(r->body);
    return value ? std::optional<T>(std::move(*value)) : std::nullopt;
  }
  Result<uint64_t> register_job(const std::string& python = "");
  std::string query(const std::string& what, std::map<std::string, std::string> filters = {});

  Result<transport::Lane> open(const transport::LaneInfo& info) {
    return transport::Lane::open(*region_, info);
  }
  // Waits until the lane has a message.
  bool wait_for(transport::Lane& lane, int timeout_ms = 20000);
  // The daemon has closed the connection.
  bool disconnected(int timeout_ms);

 private:
  TestClient() = default;
  Result<std::string> wait_reply(uint64_t request, int timeout_ms);
  bool poll_lane();

  int socket_ = -1;
  protocol::Welcome welcome_;
  std::unique_ptr<transport::LaneRegion> region_;
  std::unique_ptr<objstore::Arena> arena_;
  std::unique_ptr<transport::Bell> bell_;
  std::optional<transport::Lane> lane_;
  std::deque<Received> kept_;
  uint64_t requests_ = 0, objects_ = 0;
};

}  // namespace sheaf::launchers::testing
