#include "launchers/task_table.h"

#include <algorithm>

namespace sheaf::launchers {

using protocol::TaskEventState;

void TaskTable::add(const protocol::TaskEvents& events, ProcessId sender, int32_t pid, JobId job,
                    bool is_worker) {
  dropped_ += events.dropped;
  for (const protocol::TaskEvent& e : events.events) {
    auto [it, fresh] = index_.try_emplace({e.task, e.attempt});
    if (fresh) {
      rows_.push_front({});
      it->second = rows_.begin();
      rows_.front().task = e.task;
      rows_.front().attempt = e.attempt;
      rows_.front().job = job;
    }
    TaskRow& row = *it->second;
    row.kind = e.kind;
    if (!e.name.empty()) row.name = e.name;
    if (!e.error.empty()) row.error = e.error;
    if (!e.actor.is_nil()) row.actor = e.actor;
    if (is_worker && e.state != TaskEventState::kSubmitted) {
      row.worker = sender;
      row.worker_pid = pid;
    }
    if (e.state == TaskEventState::kSubmitted)
      row.submitted_ns = e.start_ns;
    else if (e.start_ns != 0)
      row.start_ns = e.start_ns;
    if (e.end_ns != 0) row.end_ns = e.end_ns;
    bool ended = row.state >= TaskEventState::kFinished;
    if (!ended && e.state == TaskEventState::kFinished) ++finished_total_;
    if (!ended && e.state == TaskEventState::kFailed) ++failed_total_;
    row.state = std::max(row.state, e.state);  // processes report in any order
  }
  while (rows_.size() > limit_) {
    index_.erase({rows_.back().task, rows_.back().attempt});
    rows_.pop_back();
    ++dropped_;
  }
}

void TaskTable::worker_died(ProcessId worker, const std::string& error) {
  for (TaskRow& row : rows_) {
    if (row.worker != worker || row.state != TaskEventState::kRunning) continue;
    row.state = TaskEventState::kFailed;
    row.error = error;
    ++failed_total_;
  }
}

}  // namespace sheaf::launchers
