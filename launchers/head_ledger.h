// What the processes of a member have said to the controller and its next life has to hear: kept by
// the member's daemon, as it dies with the head.
//
// Requests without an answer, in order; handles and subscriptions; the actors that they created and
// that are not journaled; constructors that have ended and actors that have left; functions that
// they use, so that tasks go on without the head. A plain book: no I/O, owned by the daemon's loop.
// The head's own processes need none, as they die with it.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "launchers/node_wire.h"
#include "scheduler/controller.h"

namespace sheaf::launchers {

// The key-value space of functions: keys are hashes of the values, which never change.
inline constexpr std::string_view kFunctionSpace = "fn";

class HeadLedger {
 public:
  // A client's message to the controller; `event` is what `forwarded` says.
  void said(const scheduler::ControllerEvent& event, ForwardedRequest forwarded,
            scheduler::Time now);
  // A reply: Envelope, ReplyHead, payload. Gives what the request had this daemon hold: the
  // arguments of a constructor.
  std::vector<ObjectId> answered(ProcessId process, wire::Bytes reply);
  void updated(ProcessId subscriber, const protocol::ActorUpdate& update);
  // As answered(), for all of its requests.
  std::vector<ObjectId> client_left(ProcessId process);

  struct GivenUp {
    ProcessId process = 0;
    uint64_t request = 0;
    std::vector<ObjectId> held;  // as of answered()
  };
  // Requests said before `before`, which count as answered now. Not actors without a name, nor
  // functions: nobody waits for these but calls and tasks, which wait for a cluster as ever.
  std::vector<GivenUp> give_up(scheduler::Time before);

  // Code, by its hash; null when it was not put or asked for here lately.
  const std::string* function(const std::string& key) const;

  // For NodeJoin.
  void describe(scheduler::LiveClient& client) const;
  // Its worker has said ActorStarted{ok}.
  bool has_started(ProcessId worker) const;
  std::vector<scheduler::ExitedActor> exited() const;

  // What is to be said again after the node has joined: constructors' failures, then requests. A
  // request that may not be done twice, and may have been done, is answered by `refuse` instead and
  // is not in the ledger any more.
  std::vector<ForwardedRequest> to_repeat(
      const std::function<void(ProcessId process, uint64_t request)>& refuse);

 private:
  struct Book {  // of one process
    std::set<ActorId> holds, watches, created;
    std::set<PlacementGroupId> watched_groups;
    std::deque<ActorId> ended;
  };
  struct Created {
    std::shared_ptr<const protocol::ActorSpec> spec;
    bool ran = false;
    uint32_t incarnation = 0;  // the newest heard of
    uint32_t restarts = 0;     // that it had to pay for
  };
  struct Unanswered {
    ForwardedRequest request;
    scheduler::Time since{0};
  };
  struct Started {
    ForwardedRequest message;
    bool ok = false;
  };
  using RequestKey = std::pair<ProcessId, uint64_t>;
  std::vector<ObjectId> held_by(const ForwardedRequest& request) const;
  void keep_function(const std::string& key, const std::string& code);

  std::map<ProcessId, Book> books_;
  std::map<ActorId, Created> created_;
  std::map<ProcessId, Started> started_;  // by worker
  std::deque<scheduler::ExitedActor> exits_;
  std::map<uint64_t, Unanswered> unanswered_;  // by order
  std::map<RequestKey, uint64_t> orders_;
  uint64_t next_order_ = 1;
  std::map<std::string, std::string> functions_;
  std::deque<std::string> functions_in_order_;
  size_t function_bytes_ = 0;
};

}  // namespace sheaf::launchers
