// The worker's side of tasks: what callers sent, in order of arrival, until some thread takes it and answers.
//
// Records are copied out of the lane at once, so a slow task never blocks a caller's ring. A task that was not started
// can be given back at any time (steal-back, or because this worker blocks in get()). Replies go out when a task ends,
// never batched. Methods need the runtime's lock unless they say that they take it.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/made_values.h"
#include "runtime/task.h"

namespace sheaf::runtime {

// What IncomingTask is in truth.
struct Incoming : IncomingTask {
  std::string record;                       // owns payload and inline dependencies
  std::shared_ptr<LeaseInfo> lease_keep;
  std::unique_ptr<TemplateDef> own_definition;   // constructors
  protocol::ActorStart actor_start;
  std::vector<objstore::Locator> dep_locators;   // parallel to deps; for arena values
  std::vector<uint64_t> pins;
  std::string made;                         // bytes of dependencies that were made here
  int64_t start_ns = 0;                     // steady clock
  uint64_t items_sent = 0, items_consumed = 0;
  bool cancel_requested = false;
  bool cancel_children = false;
  bool early = false;                       // some dependencies are made here: see Executor::take_made()

  // Ready for the next task's record; what is large is given back to the heap, the rest of the memory stays. What every
  // record sets is left as it is.
  void recycle();
  size_t heap_bytes() const;
};

class Executor {
 public:
  // `slots`: how many tasks of one lease run here at the same time; callers learn of it before their first task starts.
  Executor(Runtime::Impl& rt, uint32_t slots) : rt_(rt), slots_(slots) {}

  void handle(Peer& peer, const transport::Message& message);
  void start_actor(protocol::ActorStart start);
  void caller_gone(Peer& peer);
  void request_exit(bool graceful);
  // This process ends of its own will: what is queued stays unanswered, so that its callers learn of the end.
  void leave();
  // The answer that comes next is this worker's last (max_calls): what is queued goes back to its callers.
  void last_task();
  bool exiting() const { return exiting_; }
  bool has_task() const { return !leaving_ && !queue_.empty(); }
  size_t running() const { return running_.size(); }

  Incoming* pop();
  // The values of those arguments that tasks made here, which came before. False: not all of them are at hand.
  bool take_made(Incoming* task);
  // Answers and frees the task. With an error, `values` are the returns that were made before it; there may be none.
  void reply(Incoming* task, ReplyStatus status, std::span<const ReturnValue> values, const std::string* error);
  void send_item(Incoming* task, const ReturnValue& value);
  bool consumer_keeps_up(const Incoming* task) const;
  bool cancel_requested(const IncomingTask* task) const;
  // This worker is about to wait: callers get back what it has not started.
  void give_back_all();
  void flush_deferred();

  // What people see this worker do: the name of what has run for some milliseconds, else of the actor, else "IDLE".
  std::string_view title() const;
  // Adds finished tasks since the last call to `out`, and how many were forgotten.
  void take_events(protocol::TaskEvents* out);

 private:
  struct Texts {
    std::string name, error;
  };
  struct Finished {   // one cache line: a busy worker writes a million a second
    TaskId task;
    int64_t start_ns, end_ns;
    const TemplateDef* definition;   // null: the name is in `texts` (definitions of constructors go with their task)
    std::unique_ptr<Texts> texts;    // null: no error, and the definition has the name
    uint16_t attempt;
    TaskKind kind;
    bool failed;
  };
  static_assert(sizeof(Finished) <= 64);
  void handle_task(Peer& peer, wire::Bytes payload);
  bool parse(Incoming* task, wire::Bytes record, ProcessId caller);
  void refuse_malformed(Peer& peer, wire::Bytes payload, const char* what);
  void handle_cancel(Peer& peer, const CancelHead& head);
  void give_back(ProcessId caller, uint32_t n);
  void give_back_loose(ProcessId caller, uint32_t n);
  void keep_made(const Incoming& task, std::span<const ReturnValue> values);
  void tell_slots(ProcessId caller, uint32_t n);
  void answer(ProcessId caller, uint64_t cookie, ReplyStatus status);
  ReplyStatus flagged(ReplyStatus status) const {
    return static_cast<ReplyStatus>(static_cast<uint16_t>(status) | reply_flags_);
  }
  void send_record(ProcessId caller, LaneType type, const std::string& record);
  bool reply_small(const Incoming& task, const ReturnValue& value, int64_t us);
  void done(Incoming* task, ReplyStatus status, const std::string* error, int64_t end_ns);
  void append_value(const ReturnValue& value, ProcessId caller, std::string* out);
  void remember(const Incoming& task, bool failed, const std::string* error, int64_t end_ns);

  Runtime::Impl& rt_;
  std::deque<std::unique_ptr<Incoming>> queue_;
  std::vector<std::unique_ptr<Incoming>> running_;
  std::vector<std::unique_ptr<Incoming>> spare_;   // finished; reused, as a task's memory costs more than a short task
  struct Deferred { ProcessId to; LaneType type; std::string record; };
  std::deque<Deferred> deferred_;     // replies behind hold counts that the daemon's lane had no room for
  MadeValues made_;
  bool keeps_made_ = false;           // some caller sends tasks before their arguments are made
  std::string reply_scratch_;
  std::vector<std::unique_ptr<TemplateDef>> retired_;   // described anew, or of callers gone; kept, finished_ points to them
  std::vector<Finished> finished_;    // a ring once it is full: the oldest is at finished_next_
  size_t finished_next_ = 0;
  uint64_t finished_dropped_ = 0;
  int64_t chained_ns_ = 0;            // when the last task ended, if another was queued then: it starts then
  const uint32_t slots_;
  bool exiting_ = false;
  bool leaving_ = false;
  std::string actor_class_;           // once this worker is an actor
  uint16_t reply_flags_ = 0;          // kReplyLeaving once last_task() was called
};

}  // namespace sheaf::runtime
