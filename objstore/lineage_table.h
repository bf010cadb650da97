// How objects can be made again whose submitter may be gone: task records, and who runs one now.
//
// A pure state machine, part of NodeTable. A record belongs to the owner of its returns and lives
// until all of them are gone; one process at a time, its *maker*, runs it again. Guarantees: each
// loss is followed by a run that began after it, or by the word that there is none; a maker that
// dies is replaced, and nobody is asked twice for one loss. Node 1 also keeps, as the *sink*, what
// other nodes' objects need to outlive their node; nothing of that acts before it takes them over.
// Owned by the daemon's control loop.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/ids.h"
#include "objstore/node_objects.h"

namespace sheaf::objstore {

class LineageTable {
 public:
  // Where max_retries sets no bound.
  static constexpr uint32_t kRunsMax = 32;

  struct Row {
    TaskRecord record;
    uint32_t alive = 0;                // returns that are not gone
    uint32_t runs = 0;
    bool sunk = false;                 // node 1 was told
    bool seeking = false;              // a maker is being looked for
    ProcessId maker = kNoProcess;
    std::set<ObjectId> awaited;        // were lost when the maker was sought: its run brings them
    std::set<ObjectId> later;          // were lost since: another run has to
    std::set<ProcessId> tried;         // that died, or could not, since the loss
    bool busy() const { return seeking || maker != kNoProcess; }
  };

  // Null: it is known already.
  Row* add(TaskRecord record);
  // By any of its returns.
  Row* find(const ObjectId& id);
  const Row* find(const ObjectId& id) const { return const_cast<LineageTable*>(this)->find(id); }
  // The object is gone. The record, when that was the last of its returns.
  std::optional<Row> gone(const ObjectId& id);
  // All its returns have values that need no task.
  Row retire(const ObjectId& id);

  // ---- Losses
  enum class Need : uint8_t { kNothing, kMaker, kNothingHelps };
  // Somebody waits for it. `lost`: those of its task's returns that are lost now, `id` among them.
  // kMaker: found() follows.
  Need lost(const ObjectId& id, std::span<const ObjectId> lost);
  // kNoProcess: nobody can. Then, as after made() and maker_gone(): the objects that may be asked
  // for anew.
  std::vector<ObjectId> found(const ObjectId& id, ProcessId maker);
  std::vector<ObjectId> made(const ObjectId& id);
  std::vector<ObjectId> maker_gone(ProcessId maker);
  // Who runs something, and what: never null, until the next call.
  std::vector<ProcessId> makers() const;
  std::vector<const Row*> under_way() const;

  // ---- The sink
  void remember(ProcessId home, Remember told);
  void forget(ProcessId home, const Forget& told);
  // What was kept for that node, which is dead.
  Remember take_over(ProcessId home);

  // ---- Questions
  bool empty() const { return rows_.empty(); }
  size_t size() const { return rows_.size(); }
  size_t kept_for_others() const;
  const std::map<uint64_t, Row>& rows() const { return rows_; }

 private:
  struct Home {
    std::map<ObjectId, TaskRecord> tasks;    // by first return
    std::map<ObjectId, KeptValue> values;
  };
  uint64_t number_of_row(const ObjectId& id) const;
  Row take(uint64_t number);
  std::vector<ObjectId> release(uint64_t number);

  uint64_t last_number_ = 0;
  std::map<uint64_t, Row> rows_;
  std::unordered_map<ObjectId, uint64_t> by_return_;
  std::map<ProcessId, std::set<uint64_t>> by_maker_;   // never empty sets
  std::map<ProcessId, Home> homes_;
};

}  // namespace sheaf::objstore
