// The journal in SQLite: WAL mode, a full sync at each commit, one commit for all that has queued
// up meanwhile. Everything here runs on the journal's thread except append() and the ends.
#include <fcntl.h>
#include <fmt/format.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "objstore/checksum.h"
#include "scheduler/journal.h"

namespace sheaf::scheduler {

namespace {

constexpr size_t kBatchesPerCommit = 4096;

constexpr const char* kSchema = R"(
  CREATE TABLE IF NOT EXISTS records(kind INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL,
    checksum INTEGER NOT NULL, PRIMARY KEY(kind, key)) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS quarantine(kind INTEGER, key BLOB, value BLOB, checksum INTEGER,
    reason TEXT);)";

struct Row {
  int64_t kind = 0;
  std::string key, value;
  int64_t checksum = 0;
};

int64_t checksum_of(int64_t kind, std::string_view key, std::string_view value) {
  uint32_t sum = objstore::crc32c(&kind, sizeof kind);
  const uint64_t size = key.size();
  sum = objstore::crc32c(&size, sizeof size, sum);
  sum = objstore::crc32c(key.data(), key.size(), sum);
  return objstore::crc32c(value.data(), value.size(), sum);
}

bool is_known(int64_t kind) {
  return kind >= static_cast<int64_t>(RecordKind::kBoot) &&
         kind <= static_cast<int64_t>(RecordKind::kNode);
}

bool is_damage(int code) {
  return (code & 0xff) == SQLITE_CORRUPT || (code & 0xff) == SQLITE_NOTADB;
}

class Database {
 public:
  ~Database() { close(); }

  // SQLITE_OK or its error code.
  int open(const std::string& path, int64_t max_pages) {
    // SQLite gives its -wal file the mode of the database.
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return SQLITE_CANTOPEN;
    ::close(fd);
    int code = sqlite3_open_v2(path.c_str(), &db_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOFOLLOW,
                                          nullptr);
    if (code == SQLITE_OK) code = run("PRAGMA locking_mode=EXCLUSIVE");
    if (code == SQLITE_OK) code = run("PRAGMA journal_mode=WAL");
    if (code == SQLITE_OK) code = run("PRAGMA synchronous=FULL");
    if (code == SQLITE_OK) code = run(kSchema);
    if (code == SQLITE_OK && max_pages > 0) {
      code = run(fmt::format("PRAGMA max_page_count={}", max_pages).c_str());
    }
    if (code == SQLITE_OK) {
      code = prepare("INSERT OR REPLACE INTO records VALUES(?1,?2,?3,?4)", &upsert_);
    }
    if (code == SQLITE_OK) code = prepare("DELETE FROM records WHERE kind=?1 AND key=?2", &erase_);
    return code;
  }

  void close() {
    sqlite3_finalize(upsert_);
    sqlite3_finalize(erase_);
    upsert_ = erase_ = nullptr;
    sqlite3_close_v2(db_);
    db_ = nullptr;
  }

  int run(const char* sql) { return sqlite3_exec(db_, sql, nullptr, nullptr, nullptr); }
  std::string error() const { return db_ ? sqlite3_errmsg(db_) : "cannot open the file"; }
  int last_system_error() const { return db_ ? sqlite3_system_errno(db_) : errno; }

  int write(const JournalRecord& record) {
    sqlite3_stmt* statement = record.value ? upsert_ : erase_;
    const auto kind = static_cast<int64_t>(record.kind);
    sqlite3_bind_int64(statement, 1, kind);
    bind(statement, 2, record.key);
    if (record.value) {
      bind(statement, 3, *record.value);
      sqlite3_bind_int64(statement, 4, checksum_of(kind, record.key, *record.value));
    }
    const int code = sqlite3_step(statement);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return code == SQLITE_DONE ? SQLITE_OK : code;
  }

  // All rows that can be read; the code says why it ended early, if it did.
  int read(std::vector<Row>& rows) {
    sqlite3_stmt* statement = nullptr;
    int code = prepare("SELECT kind, key, value, checksum FROM records", &statement);
    while (code == SQLITE_OK && (code = sqlite3_step(statement)) == SQLITE_ROW) {
      rows.push_back({sqlite3_column_int64(statement, 0), blob(statement, 1), blob(statement, 2),
                      sqlite3_column_int64(statement, 3)});
      code = SQLITE_OK;
    }
    sqlite3_finalize(statement);
    return code == SQLITE_DONE ? SQLITE_OK : code;
  }

  int set_aside(const Row& row, const std::string& reason) {
    sqlite3_stmt* statement = nullptr;
    int code = prepare("INSERT INTO quarantine VALUES(?1,?2,?3,?4,?5)", &statement);
    if (code != SQLITE_OK) return code;
    sqlite3_bind_int64(statement, 1, row.kind);
    bind(statement, 2, row.key);
    bind(statement, 3, row.value);
    sqlite3_bind_int64(statement, 4, row.checksum);
    bind(statement, 5, reason);
    code = sqlite3_step(statement);
    sqlite3_finalize(statement);
    if (code != SQLITE_DONE) return code;
    code = prepare("DELETE FROM records WHERE kind=?1 AND key=?2", &statement);
    if (code != SQLITE_OK) return code;
    sqlite3_bind_int64(statement, 1, row.kind);
    bind(statement, 2, row.key);
    code = sqlite3_step(statement);
    sqlite3_finalize(statement);
    return code == SQLITE_DONE ? SQLITE_OK : code;
  }

 private:
  int prepare(const char* sql, sqlite3_stmt** statement) {
    return sqlite3_prepare_v2(db_, sql, -1, statement, nullptr);
  }
  static void bind(sqlite3_stmt* statement, int at, const std::string& bytes) {
    sqlite3_bind_blob64(statement, at, bytes.data(), bytes.size(), SQLITE_STATIC);
  }
  static std::string blob(sqlite3_stmt* statement, int at) {
    const void* data = sqlite3_column_blob(statement, at);
    const int size = sqlite3_column_bytes(statement, at);
    return data ? std::string(static_cast<const char*>(data), static_cast<size_t>(size)) : "";
  }

  sqlite3* db_ = nullptr;
  sqlite3_stmt* upsert_ = nullptr;
  sqlite3_stmt* erase_ = nullptr;
};

class SqliteJournal : public Journal {
 public:
  SqliteJournal(SqliteJournalOptions options, OnCompletion done)
      : options_(std::move(options)), done_(std::move(done)) {}
  ~SqliteJournal() override { (void)close(); }

  Status open();
  Result<ReplayReport> replay() override;
  void append(uint64_t sequence, std::vector<JournalRecord> records) override;
  Status close() override;

 private:
  struct Batch {
    uint64_t sequence = 0;
    std::vector<JournalRecord> records;
  };

  Status move_aside(const std::string& why);
  void fill_reserve();
  void run();
  JournalCompletion commit(std::vector<Batch>& batches);
  int write_all(const Batch* first, const Batch* last);
  bool is_full(int code) const {
    return (code & 0xff) == SQLITE_FULL ||
           (code != SQLITE_OK && db_.last_system_error() == ENOSPC);
  }
  Status write_alone(const Batch& batch);

  SqliteJournalOptions options_;
  OnCompletion done_;
  Database db_;
  std::vector<std::string> reports_;
  bool broken_ = false;   // a sync failed: what the disk holds is unknown, nothing more is accepted
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Batch> queue_;   // guarded by mutex_
  bool closing_ = false;       // guarded by mutex_
  std::thread thread_;
};

Status SqliteJournal::open() {
  int code = db_.open(options_.path, options_.max_pages);
  if (is_damage(code)) {
    SHEAF_TRY(move_aside(db_.error()));
    code = db_.open(options_.path, options_.max_pages);
  }
  if (code != SQLITE_OK) {
    const bool busy = (code & 0xff) == SQLITE_BUSY;
    return {busy ? StatusCode::kAlreadyExists : StatusCode::kInternal,
            fmt::format("journal {}: {}", options_.path,
                        busy ? "another daemon uses it" : db_.error())};
  }
  fill_reserve();
  return Status::ok();
}

// The damaged file is kept for people under another name; what could be read of it moves over.
Status SqliteJournal::move_aside(const std::string& why) {
  db_.close();
  std::string target;
  for (int n = 1; n < 10000; ++n) {
    target = fmt::format("{}.corrupt-{}", options_.path, n);
    if (::access(target.c_str(), F_OK) != 0) break;
  }
  if (::rename(options_.path.c_str(), target.c_str()) != 0) {
    return Status::from_errno("moving a damaged journal aside", errno);
  }
  (void)::rename((options_.path + "-wal").c_str(), (target + "-wal").c_str());
  ::unlink((options_.path + "-shm").c_str());
  reports_.push_back(fmt::format("{} is damaged ({}); kept as {}", options_.path, why, target));
  return Status::ok();
}

void SqliteJournal::fill_reserve() {
  if (options_.reserve_bytes == 0) return;
  const std::string path = options_.path + ".reserve";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return;
  // Best effort: with no room now it is tried again after a later commit.
  (void)::posix_fallocate(fd, 0, static_cast<off_t>(options_.reserve_bytes));
  ::close(fd);
}

Result<ReplayReport> SqliteJournal::replay() {
  std::vector<Row> rows;
  int code = db_.read(rows);
  if (is_damage(code)) {
    SHEAF_TRY(move_aside(db_.error()));
    code = db_.open(options_.path, options_.max_pages);
    if (code == SQLITE_OK) code = db_.run("BEGIN IMMEDIATE");
    for (const Row& row : rows) {
      if (code != SQLITE_OK) break;
      if (checksum_of(row.kind, row.key,
                      row.value) != row.checksum || !is_known(row.kind)) continue;
      code = db_.write({static_cast<RecordKind>(row.kind), row.key, row.value});
    }
    if (code == SQLITE_OK) code = db_.run("COMMIT");
  }
  if (code != SQLITE_OK) {
    return Status(StatusCode::kCorrupt, fmt::format("reading the journal: {}", db_.error()));
  }
  ReplayReport report;
  report.quarantined = std::move(reports_);
  for (const Row& row : rows) {
    std::string reason;
    if (checksum_of(row.kind, row.key, row.value) != row.checksum) reason = "wrong checksum";
    else if (!is_known(row.kind)) reason = "unknown kind";
    if (reason.empty()) {
      report.records.push_back({static_cast<RecordKind>(row.kind), row.key, row.value});
      continue;
    }
    report.quarantined.push_back(
        fmt::format("record of kind {}, {} bytes: {}", row.kind, row.value.size(), reason));
    (void)db_.set_aside(row, reason);
  }
  thread_ = std::thread([this] { run(); });
  return report;
}

void SqliteJournal::append(uint64_t sequence, std::vector<JournalRecord> records) {
  {
    std::lock_guard lock(mutex_);
    queue_.push_back({sequence, std::move(records)});
  }
  wake_.notify_one();
}

Status SqliteJournal::close() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
  db_.close();
  return broken_ ? Status(StatusCode::kInternal, "the journal's disk failed") : Status::ok();
}

void SqliteJournal::run() {
  for (;;) {
    std::vector<Batch> batches;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return closing_ || !queue_.empty(); });
      if (queue_.empty()) return;
      const size_t n = std::min(queue_.size(), kBatchesPerCommit);
      batches.assign(std::make_move_iterator(queue_.begin()),
                     std::make_move_iterator(queue_.begin() + static_cast<ptrdiff_t>(n)));
      queue_.erase(queue_.begin(), queue_.begin() + static_cast<ptrdiff_t>(n));
    }
    JournalCompletion completion = commit(batches);
    if (done_) done_(std::move(completion));
  }
}

int SqliteJournal::write_all(const Batch* first, const Batch* last) {
  int code = db_.run("BEGIN IMMEDIATE");
  for (; code == SQLITE_OK && first != last; ++first) {
    for (const JournalRecord& record : first->records) {
      code = db_.write(record);
      if (code != SQLITE_OK) break;
    }
  }
  if (code == SQLITE_OK) code = db_.run("COMMIT");
  if (code == SQLITE_OK) return code;
  // After a failed sync the page cache may lie: nothing is written over it.
  if (!is_full(code) && ((code & 0xff) == SQLITE_IOERR || is_damage(code))) broken_ = true;
  (void)db_.run("ROLLBACK");
  return code;
}

JournalCompletion SqliteJournal::commit(std::vector<Batch>& batches) {
  JournalCompletion completion;
  completion.durable = batches.back().sequence;
  if (!broken_ && write_all(batches.data(), batches.data() + batches.size()) == SQLITE_OK) {
    return completion;
  }
  for (const Batch& batch : batches) {
    Status status = write_alone(batch);
    if (!status.is_ok()) completion.failed.emplace_back(batch.sequence, std::move(status));
  }
  return completion;
}

Status SqliteJournal::write_alone(const Batch& batch) {
  if (broken_) return {StatusCode::kInternal, "the journal's disk failed"};
  int code = write_all(&batch, &batch + 1);
  const bool erases_only = std::none_of(batch.records.begin(), batch.records.end(),
                                        [](const JournalRecord& r) { return r.value.has_value(); });
  if (is_full(code) && erases_only) {
    ::unlink((options_.path + ".reserve").c_str());
    code = write_all(&batch, &batch + 1);
    if (code == SQLITE_OK) {
      (void)db_.run("PRAGMA wal_checkpoint(TRUNCATE)");
      fill_reserve();
    }
  }
  if (code == SQLITE_OK) return Status::ok();
  if (is_full(code)) return {StatusCode::kOutOfMemory, "the journal's disk is full"};
  return {StatusCode::kInternal, fmt::format("the journal cannot be written: {}", db_.error())};
}

}  // namespace

Result<std::unique_ptr<Journal>> open_sqlite_journal(SqliteJournalOptions options,
                                                     Journal::OnCompletion done) {
  auto journal = std::make_unique<SqliteJournal>(std::move(options), std::move(done));
  SHEAF_TRY(journal->open());
  return std::unique_ptr<Journal>(std::move(journal));
}

}  // namespace sheaf::scheduler
