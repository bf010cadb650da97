// The journal: what must survive the daemon, as a keyed set of records.
//
// append() takes records in order; a later record of the same {kind, key} replaces the earlier,
// one without a value erases it. Whatever is durable is a prefix of what was appended (except
// records reported as failed). replay() gives the surviving state. Completions are posted from the
// journal's own thread and must only queue an event. Interface: called by the daemon's loop alone.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/status.h"

namespace sheaf::scheduler {

// Numbers are on disk: append only.
enum class RecordKind : uint16_t {
  kBoot = 1,       // key "": how often this journal has been opened
  kKeyValue = 2,   // key "<space>\0<key>"
  kJob = 3,
  kActor = 4,      // detached actors
  kGroup = 5,      // detached placement groups
  kNode = 6,       // key "<number>": who has it; key "last": the last that was given out
};
struct JournalRecord {
  RecordKind kind = RecordKind::kBoot;
  std::string key;
  std::optional<std::string> value;   // nothing: erase
  bool operator==(const JournalRecord&) const = default;
};

// `sequence` numbers come from append()'s caller and grow. All up to `durable` are on disk, but
// for those in `failed`.
struct JournalCompletion {
  uint64_t durable = 0;
  std::vector<std::pair<uint64_t, Status>> failed;
};

struct ReplayReport {
  std::vector<JournalRecord> records;       // in no particular order, values only
  std::vector<std::string> quarantined;     // what was cut or set aside and why, for the log
};

class Journal {
 public:
  using OnCompletion = std::function<void(JournalCompletion)>;

  virtual ~Journal() = default;
  // What survived. Call once, before the first append. Bad records are set aside and reported,
  // never returned.
  virtual Result<ReplayReport> replay() = 0;
  // Never blocks on the disk. Erasing records are kept committing when the disk is full, others
  // fail (kOutOfMemory).
  virtual void append(uint64_t sequence, std::vector<JournalRecord> records) = 0;
  // Waits until all that was appended is durable or failed, then stops. No completion comes after
  // it.
  virtual Status close() = 0;
};

struct SqliteJournalOptions {
  std::string path;                      // node-local; made 0600, with -wal and -shm beside it
  int64_t max_pages = 0;                 // 4 KiB each; 0: as many as the disk takes
  size_t reserve_bytes = 256 * 1024;     // given up to keep erasures going when the disk is full
};
// Opens or makes the file; one that is not a database is renamed to "<path>.corrupt-<n>" and
// reported by replay().
Result<std::unique_ptr<Journal>> open_sqlite_journal(SqliteJournalOptions options,
                                                     Journal::OnCompletion done);

// For clusters that end with their driver, and for the simulator: nothing outlives the object.
// Appends are durable when sync() is called (`auto_sync`: at once); crash() forgets the others, as
// a power cut would.
class MemoryJournal : public Journal {
 public:
  explicit MemoryJournal(OnCompletion done, bool auto_sync = true);

  Result<ReplayReport> replay() override;
  void append(uint64_t sequence, std::vector<JournalRecord> records) override;
  Status close() override;

  // At most `batches` appends become durable.
  void sync(size_t batches = SIZE_MAX);
  // Of the appends not synced the first `keep` survive, unacknowledged.
  void crash(size_t keep = 0);
  void reopen(OnCompletion done);
  void fail_creates(bool full) { full_ = full; }
  size_t unsynced() const { return pending_.size(); }

 private:
  struct Batch {
    uint64_t sequence;
    std::vector<JournalRecord> records;
  };
  void apply(const Batch& batch);

  OnCompletion done_;
  bool auto_sync_;
  bool full_ = false;
  std::map<std::pair<RecordKind, std::string>, std::string> state_;
  std::deque<Batch> pending_;
};

}  // namespace sheaf::scheduler
