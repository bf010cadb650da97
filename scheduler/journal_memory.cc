#include "scheduler/journal.h"

#include <algorithm>

namespace sheaf::scheduler {

MemoryJournal::MemoryJournal(OnCompletion done, bool auto_sync)
    : done_(std::move(done)), auto_sync_(auto_sync) {}

Result<ReplayReport> MemoryJournal::replay() {
  ReplayReport report;
  for (const auto& [key, value] : state_) report.records.push_back({key.first, key.second, value});
  return report;
}

void MemoryJournal::append(uint64_t sequence, std::vector<JournalRecord> records) {
  pending_.push_back({sequence, std::move(records)});
  if (auto_sync_) sync();
}

void MemoryJournal::sync(size_t batches) {
  JournalCompletion completion;
  for (; batches > 0 && !pending_.empty(); --batches) {
    const Batch batch = std::move(pending_.front());
    pending_.pop_front();
    completion.durable = batch.sequence;
    const bool creates = std::any_of(batch.records.begin(), batch.records.end(),
                                     [](const JournalRecord& r) { return r.value.has_value(); });
    if (full_ && creates) {
      completion.failed.emplace_back(
          batch.sequence, Status(StatusCode::kOutOfMemory, "the journal's disk is full"));
    } else {
      apply(batch);
    }
  }
  if (completion.durable != 0 && done_) done_(std::move(completion));
}

void MemoryJournal::apply(const Batch& batch) {
  for (const JournalRecord& record : batch.records) {
    if (record.value) state_[{record.kind, record.key}] = *record.value;
    else state_.erase({record.kind, record.key});
  }
}

void MemoryJournal::crash(size_t keep) {
  done_ = nullptr;
  for (; keep > 0 && !pending_.empty(); --keep) {
    apply(pending_.front());
    pending_.pop_front();
  }
  pending_.clear();
}

void MemoryJournal::reopen(OnCompletion done) { done_ = std::move(done); }

Status MemoryJournal::close() {
  sync();
  done_ = nullptr;
  return Status::ok();
}

}  // namespace sheaf::scheduler
