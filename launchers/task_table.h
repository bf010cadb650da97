// What is known of tasks for people: the events that processes send, put together by task and
// attempt, bounded.
//
// The newest kept; of the others only counts by state remain. Owned by the loop.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <string>
#include <unordered_map>

#include "core/ids.h"
#include "scheduler/protocol.h"

namespace sheaf::launchers {

struct TaskRow {
  TaskId task;
  uint16_t attempt = 0;
  protocol::TaskEventState state = protocol::TaskEventState::kSubmitted;
  uint8_t kind = 0;
  JobId job = 0;
  ProcessId worker = 0;  // who ran it; 0: nobody yet
  int32_t worker_pid = 0;
  int64_t submitted_ns = 0, start_ns = 0, end_ns = 0;
  ActorId actor;
  std::string name, error;
};

class TaskTable {
 public:
  explicit TaskTable(size_t limit) : limit_(limit) {}
  // `is_worker`: the sender runs tasks (its running and finished events say where).
  void add(const protocol::TaskEvents& events, ProcessId sender, int32_t pid, JobId job,
           bool is_worker);
  // A worker died: what it was running has failed, unless somebody says otherwise.
  void worker_died(ProcessId worker, const std::string& error);
  // Newest first.
  const std::list<TaskRow>& rows() const { return rows_; }
  uint64_t dropped() const { return dropped_; }
  uint64_t finished_total() const { return finished_total_; }
  uint64_t failed_total() const { return failed_total_; }

 private:
  struct Key {
    TaskId task;
    uint16_t attempt;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& k) const { return IdHash()(k.task) ^ k.attempt; }
  };
  size_t limit_;
  std::list<TaskRow> rows_;
  std::unordered_map<Key, std::list<TaskRow>::iterator, KeyHash> index_;
  uint64_t dropped_ = 0, finished_total_ = 0, failed_total_ = 0;
};

}  // namespace sheaf::launchers
