// SockFabric's tables; private to sock_*.cc.
//
// A session is known by a number of this process that is never reused. When it ends it leaves the
// table of live ones at once, and stays as a `closing` one until the bulk thread has let go of all
// memory; only then do its pulls report. Owned by the loop.
#pragma once

#include <array>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "transport/fabric/sock_bulk.h"
#include "transport/fabric/sock_fabric.h"
#include "transport/fabric/sock_greeting.h"
#include "transport/fabric/sock_link.h"
#include "transport/fabric/sock_listener.h"

namespace sheaf::transport {

inline constexpr size_t kPullPriorities = 4;

struct Pull {
  PullId id = 0;
  uint64_t session = 0;
  PeerId from;
  RemoteRange range;
  std::span<std::byte> into;
  PullOptions options;
  EventLoop::TimePoint started{};
  uint64_t granted = 0, received = 0;
  bool opened = false;
  bool ending = false;  // `status` is why; waits for the bulk thread
  Status status;
  EventLoop::TimerId timer = 0;
  Fabric::OnPulled done;
};

struct Held {
  RemoteRange range;
};

struct Session {
  uint64_t number = 0;
  PeerId peer;
  uint64_t secret = 0;  // what a bulk connection names
  bool dialer = false;
  FabricAddress address;  // dialer: where the bulk connection goes
  std::shared_ptr<SockLink> link;
  std::unique_ptr<Greeting> bulk_dial;
  bool has_bulk = false;
  bool closing = false;
  // By priority: pulls that are not granted in full, oldest first, and when one last got its turn.
  std::array<std::set<PullId>, kPullPriorities> wanting;
  std::array<EventLoop::TimePoint, kPullPriorities> served{};
  std::set<PullId> pulls;  // all of this session
  size_t opened = 0;
  uint64_t on_the_way = 0;  // granted and not yet received
  std::map<PullId, Held> held;  // by the peer's numbers
};

struct Waiter {
  uint64_t number = 0;
  PeerId expected;
  EventLoop::TimerId timer = 0;
  Fabric::OnConnected done;
};

// A node to which we are connecting; without a greeting it is the other side's turn.
struct Dial {
  PeerId expected;
  FabricAddress address;
  uint64_t number = 0;
  std::unique_ptr<Greeting> greeting;
  std::vector<Waiter> waiters;
};

struct NodeMemory {
  uint64_t incarnation = 0;  // the latest life that authenticated
  uint64_t fence = 0;        // lives below it are refused
  uint64_t last_dial = 0;    // of that life
  uint64_t abandoned = 0;    // its dials up to here are void
};

struct Export {
  std::span<const std::byte> memory;
  RangeGuard* guard = nullptr;
  size_t held = 0;
  bool withdrawn = false;
  std::function<void()> on_free;
};

class SockFabric : public Fabric {
 public:
  SockFabric(EventLoop& loop, SockFabricOptions options)
      : loop_(loop), options_(std::move(options)) {}
  ~SockFabric() override { close(); }
  Status start();

  PeerId self() const override { return options_.self; }
  FabricAddress address() const override {
    return listener_ ? listener_->address() : FabricAddress{};
  }
  FabricCapabilities capabilities() const override;
  FabricStats stats() const override;
  void connect(const PeerId& peer, const FabricAddress& address, EventLoop::TimePoint deadline,
               OnConnected done) override;
  bool is_up(const PeerId& peer) const override { return by_peer_.contains(peer); }
  Status send(const PeerId& to, uint16_t type, wire::Bytes payload) override;
  CreditHold hold_credit() override;
  Status export_region(uint32_t region, std::span<const std::byte> memory,
                       RangeGuard* guard) override;
  void withdraw_region(uint32_t region, std::function<void()> done) override;
  Result<PullId> pull(const PeerId& from, const RemoteRange& range, std::span<std::byte> into,
                      const PullOptions& options, OnPulled done) override;
  void cancel(PullId id) override;
  void fail(const PeerId& peer, const Status& why) override;
  void fence(uint32_t node, uint64_t incarnation) override;
  void close() override;

 private:
  // Sessions: sock_fabric.cc and sock_sessions.cc.
  Welcome judge(const Hello& hello);
  Status judge_control(const Hello& hello);
  Status judge_bulk(const Hello& hello);
  void on_greeted(Greeted greeted, const FabricAddress& from);
  void start_dial(Dial& dial);
  void on_dialed(uint32_t node, uint64_t number, Greeted greeted);
  void end_dial(uint32_t node, const Result<PeerId>& result);
  void waiter_expired(uint32_t node, uint64_t waiter);
  void adopt(Greeted greeted, const PeerId& peer, bool dialer, const FabricAddress& address);
  SockLink::Events link_events(uint64_t number);
  void on_frame(uint64_t number, const Frame& frame);
  void end_session(uint64_t number, const Status& why);
  void finish_session(uint64_t number);
  Session* live(uint64_t number);
  Session* live(const PeerId& peer);
  template <class F>
  void post(F f);
  SockBulk& bulk(uint64_t session) { return *bulks_[session % bulks_.size()]; }

  // Pulls, the reader's side: sock_pulls.cc.
  void grant(Session& session);
  PullId next_to_grant(const Session& session) const;
  void stop_pull(PullId id, Status why);
  void finish_pull(PullId id, Status status);
  void on_progress(uint64_t session, PullId id, uint64_t bytes);
  void on_received(PullId id);
  void on_detached(PullId id);
  void need_bulk(Session& session);
  // Pulls, the exporter's side: sock_pulls.cc.
  void on_pull_open(Session& session, const PullOpen& open);
  void on_pull_end(Session& session, const PullFailed& end);
  void on_sent(uint64_t session, PullId id, uint64_t bytes);
  void release(Session& session, PullId id);
  SockBulk::Events bulk_events();

  EventLoop& loop_;
  const SockFabricOptions options_;
  std::shared_ptr<bool> gate_ = std::make_shared<bool>(true);  // closed closures do not run
  bool closed_ = false;
  std::shared_ptr<TlsContext> tls_;
  std::unique_ptr<SockListener> listener_;
  std::vector<std::unique_ptr<SockBulk>> bulks_;

  std::map<uint64_t, std::unique_ptr<Session>> sessions_;
  std::map<PeerId, uint64_t> by_peer_;  // live ones
  std::map<uint32_t, NodeMemory> nodes_;
  std::map<uint32_t, Dial> dials_;
  std::unordered_map<PullId, std::unique_ptr<Pull>> pulls_;
  std::map<uint32_t, Export> exports_;
  uint64_t next_session_ = 1, next_dial_ = 1, next_waiter_ = 1;
  PullId next_pull_ = 1;
  uint64_t handling_ = 0;  // the session whose message is being handled
  FabricStats stats_;
};

template <class F>
void SockFabric::post(F f) {
  loop_.post([gate = std::weak_ptr<bool>(gate_), f = std::move(f)]() mutable {
    if (!gate.expired()) f();
  });
}

}  // namespace sheaf::transport
