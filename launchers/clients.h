// The processes of this node's cluster: their shared-memory blocks, their lane 0, and the end of
// their lives.
//
// A client dies once. Three things tell of it: its death lock (dead, memory still there), its
// pidfd, and the end of its socket (both: reaped). After the first of them what is left in its lane
// 0 is handled, then `on_dead` is called once, and `on_reaped` once, at that moment or later. A
// worker is given kCauseGrace to let its wait status arrive before, so that its peers are told why.
// Its block (bell, rings, pins, lock) goes back when it has been reaped and no peer can ring its
// bell any more (LaneBroker counts those). Owned by the loop; only the death watcher has threads.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/event_loop.h"
#include "core/fd.h"
#include "launchers/handshake.h"
#include "objstore/pins.h"
#include "scheduler/protocol.h"
#include "transport/bell.h"
#include "transport/death_lock.h"
#include "transport/lane.h"
#include "transport/lane_region.h"

namespace sheaf::launchers {

// Spent only where the template is late to collect its child: busy machines, large processes.
inline constexpr auto kCauseGrace = std::chrono::milliseconds(200);
inline constexpr auto kLingerAfterClose =
    std::chrono::seconds(5);  // of a worker whose session has ended

// Numbers at a bell: the lowest free one first, 0 when there is none left (0 itself is never given
// out).
class LaneNumbers {
 public:
  uint32_t take();
  void give_back(uint32_t number) { used_[number] = false; }

 private:
  std::vector<bool> used_ = {true};
};

// What a process has in the lane region, one allocation.
struct ProcessBlock {
  transport::RegionOffset offset = 0;
  size_t size = 0;
  transport::RegionOffset bell = 0, death_lock = 0, to_client = 0, to_daemon = 0, pins = 0;
  uint32_t users = 0;  // itself, and every peer that may ring its bell
};

struct Client {
  ProcessId id = 0;
  protocol::ClientKind kind = protocol::ClientKind::kDriver;
  pid_t pid = 0;
  JobId job = 0;
  uint64_t job_request = 0;      // its RegisterJob
  bool warm_python = false;      // workers are started for it as soon as it has a job
  uint64_t spawn_token = 0;
  std::chrono::steady_clock::time_point since{};
  Fd socket, pidfd;
  uint32_t daemon_lane = 0;  // its number at our bell
  std::optional<transport::Lane> lane;
  LaneNumbers lane_numbers;  // at its bell
  bool dying = false;        // a sign of its death was seen
  bool dead = false;         // on_dead was called
  bool reaped = false;
  bool memory_told = false;                   // the service's: on_dead knew that it was reaped
  bool broken = false;                        // it sent nonsense: its lane is not read any more
  std::optional<protocol::ErrorRecord> doom;  // why we ended it
  std::optional<int> wait_status;
  bool alive() const { return !dying; }
};

struct ClientHooks {
  std::function<void(Client& client)> drain;  // handle all that waits in its lane
  std::function<void(Client& client, const protocol::ErrorRecord& cause)> on_dead;
  std::function<void(Client& client)> on_reaped;
};

class Clients {
 public:
  static Result<std::unique_ptr<Clients>> create(EventLoop& loop, transport::LaneRegion& region,
                                                 ClientHooks hooks);
  ~Clients();

  // Fills the places of `welcome` that concern this client and sends it with `fds`. On error
  // nothing is left behind.
  Result<Client*> admit(Greeting greeting, JobId job, protocol::Welcome welcome,
                        std::span<const int> fds);

  Client* find(ProcessId id);
  // Not dead and not dying; what is pushed to others is pointless.
  Client* alive(ProcessId id);
  Client* by_lane(uint32_t daemon_lane);
  Client* by_pid(pid_t pid);
  const std::map<ProcessId, std::unique_ptr<Client>>& all() const { return clients_; }

  // kill -9 of the process and its group; `cause` is what its peers will hear.
  void kill(Client& client, protocol::ErrorRecord cause);
  // It broke the protocol: nothing more is read. Workers are killed, others lose their connection.
  void end_session(Client& client, const std::string& why);
  void note_exit(pid_t pid, int wait_status);

  // The daemon's own bell.
  transport::Bell& bell() { return bell_; }
  transport::RegionOffset bell_offset() const { return bell_offset_; }
  // Numbers at that bell for lanes other than the clients' lane 0; 0: none is left.
  uint32_t take_daemon_lane() { return lane_numbers_.take(); }
  void give_back_daemon_lane(uint32_t number) { lane_numbers_.give_back(number); }
  ProcessBlock& block(ProcessId id) { return blocks_.at(id); }
  // A peer that knew this bell has let go.
  void release_block(ProcessId id);
  // Forgets those who are dead and reaped. Call when no reference to a Client is held.
  void sweep();

 private:
  Clients(EventLoop& loop, transport::LaneRegion& region, ClientHooks hooks,
          transport::RegionOffset bell);
  Result<ProcessBlock> make_block(ProcessId id);
  void watch(Client& client);
  void sign_of_death(Client& client, bool reaped);
  void declare(Client& client);
  void reap(Client& client);
  void end_group(const Client& client);
  protocol::ErrorRecord cause_of(const Client& client) const;

  EventLoop& loop_;
  transport::LaneRegion& region_;
  ClientHooks hooks_;
  transport::RegionOffset bell_offset_;
  transport::Bell bell_;
  std::unique_ptr<transport::DeathWatcher> watcher_;  // null: the kernel has no futex_waitv
  LaneNumbers lane_numbers_;
  uint32_t next_number_ = kDaemonProcess + 1;
  std::map<ProcessId, std::unique_ptr<Client>> clients_;
  std::unordered_map<ProcessId, ProcessBlock> blocks_;
  std::vector<Client*> by_lane_;
  std::map<pid_t, Client*> by_pid_;  // the latest with this pid
  std::vector<ProcessId> finished_;  // to be swept
};

}  // namespace sheaf::launchers
