// The journal on a real disk: order, group commit, kill -9, damage, a full disk.
#include "scheduler/journal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>

namespace sheaf::scheduler::journal_test {
namespace {

class Completions {
 public:
  Journal::OnCompletion callback() {
    return [this](JournalCompletion done) {
      std::lock_guard lock(mutex_);
      durable_ = std::max(durable_, done.durable);
      for (auto& [sequence, status] : done.failed) failed_.emplace(sequence, status);
      ++calls_;
      changed_.notify_all();
    };
  }
  void wait(uint64_t sequence) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return durable_ >= sequence; });
  }
  std::map<uint64_t, Status> failed() {
    std::lock_guard lock(mutex_);
    return failed_;
  }
  int calls() {
    std::lock_guard lock(mutex_);
    return calls_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t durable_ = 0;
  std::map<uint64_t, Status> failed_;
  int calls_ = 0;
};

class JournalTest : public ::testing::Test {
 protected:
  JournalTest() {
    std::string pattern = ::testing::TempDir() + "sheaf-journal-XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
    path_ = directory_ + "/journal.db";
  }
  ~JournalTest() override { std::filesystem::remove_all(directory_); }

  std::unique_ptr<Journal> open(ReplayReport* report = nullptr, SqliteJournalOptions options = {}) {
    options.path = path_;
    auto journal = open_sqlite_journal(options, done_.callback());
    EXPECT_TRUE(journal.has_value()) << journal.status().to_string();
    if (!journal) return nullptr;
    auto replayed = (*journal)->replay();
    EXPECT_TRUE(replayed.has_value()) << replayed.status().to_string();
    if (report && replayed) *report = *replayed;
    return std::move(*journal);
  }
  static JournalRecord put(std::string key, std::string value) {
    return {RecordKind::kKeyValue, std::move(key), std::move(value)};
  }
  static std::map<std::string, std::string> state(const ReplayReport& report) {
    std::map<std::string, std::string> out;
    for (const JournalRecord& record : report.records) out[record.key] = *record.value;
    return out;
  }
  int sql(const std::string& statement) {
    sqlite3* db = nullptr;
    sqlite3_open(path_.c_str(), &db);
    const int code = sqlite3_exec(db, statement.c_str(), nullptr, nullptr, nullptr);
    sqlite3_close(db);
    return code;
  }

  std::string directory_, path_;
  Completions done_;
};

TEST_F(JournalTest, KeepsTheLastRecordOfEachKey) {
  auto journal = open();
  journal->append(1, {put("a", "1"), put(std::string("b\0c", 3), std::string("\0x", 2))});
  journal->append(2, {put("a", "2"), put("gone", "x")});
  journal->append(3, {{RecordKind::kKeyValue, "gone", std::nullopt}});
  done_.wait(3);
  EXPECT_TRUE(journal->close().is_ok());
  ReplayReport report;
  auto again = open(&report);
  const std::map<std::string, std::string> expected{
      {"a", "2"}, {std::string("b\0c", 3), std::string("\0x", 2)}};
  EXPECT_EQ(state(report), expected);
  EXPECT_TRUE(report.quarantined.empty());
}

TEST_F(JournalTest, FilesArePrivateAndTheJournalHasOneUser) {
  auto journal = open();
  journal->append(1, {put("a", "1")});
  done_.wait(1);
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
    struct stat info {};
    ASSERT_EQ(::stat(entry.path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u) << entry.path();
  }
  SqliteJournalOptions options;
  options.path = path_;
  auto second = open_sqlite_journal(options, nullptr);
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.status().code(), StatusCode::kAlreadyExists);
}

TEST_F(JournalTest, CommitsInGroups) {
  auto journal = open();
  constexpr uint64_t kRecords = 20000;
  for (uint64_t i = 1; i <= kRecords; ++i) journal->append(i, {put(std::to_string(i % 100), "v")});
  done_.wait(kRecords);
  // Far fewer, where the machine has nothing else to do.
  EXPECT_LT(static_cast<uint64_t>(done_.calls()), kRecords / 2);
  EXPECT_TRUE(done_.failed().empty());
}

TEST_F(JournalTest, EverythingAcknowledgedSurvivesKill9) {
  for (int round = 0; round < 5; ++round) {
    int acknowledged[2];
    ASSERT_EQ(::pipe2(acknowledged, O_CLOEXEC), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      const int out = acknowledged[1];
      SqliteJournalOptions options;
      options.path = path_;
      auto journal = open_sqlite_journal(options, [out](JournalCompletion done) {
        (void)!::write(out, &done.durable, sizeof done.durable);
      });
      if (!journal || !(*journal)->replay()) ::_exit(1);
      for (uint64_t i = 1;; ++i) {
        (*journal)->append(i, {put("counter", std::to_string(i)),
                               put(std::to_string(i % 50), std::string(200, 'x'))});
        if (i % 16 == 0) ::usleep(50);
      }
    }
    ::close(acknowledged[1]);
    uint64_t last = 0;
    for (int n = 0; n < 10 + 7 * round; ++n) {
      ASSERT_EQ(::read(acknowledged[0], &last, sizeof last), static_cast<ssize_t>(sizeof last));
    }
    ::kill(child, SIGKILL);
    uint64_t more = 0;
    while (::read(acknowledged[0], &more, sizeof more) == sizeof more) last = more;
    ::waitpid(child, nullptr, 0);
    ::close(acknowledged[0]);
    ReplayReport report;
    auto journal = open(&report);
    ASSERT_TRUE(journal);
    EXPECT_GE(std::stoull(state(report)["counter"]), last);
    EXPECT_TRUE(report.quarantined.empty());
  }
}

TEST_F(JournalTest, BadAndUnknownRecordsAreSetAside) {
  auto journal = open();
  journal->append(1, {put("good", "1"), put("bad", "2"), put("strange", "3")});
  done_.wait(1);
  (void)journal->close();
  ASSERT_EQ(sql("UPDATE records SET value='9' WHERE key=CAST('bad' AS BLOB)"), SQLITE_OK);
  ASSERT_EQ(sql("INSERT INTO records SELECT 99, key, value, checksum FROM records LIMIT 1"),
                SQLITE_OK);
  ReplayReport report;
  journal = open(&report);
  EXPECT_EQ(report.quarantined.size(), 2u);
  EXPECT_EQ(state(report).count("bad"), 0u);
  EXPECT_EQ(state(report).at("good"), "1");
  (void)journal->close();
  journal = open(&report);
  EXPECT_TRUE(report.quarantined.empty()) << "reported once";
}

TEST_F(JournalTest, TornTailLosesOnlyTheTail) {
  auto journal = open();
  for (uint64_t i = 1; i <= 50; ++i) {
    journal->append(i, {put(std::to_string(i), "v")});
    done_.wait(i);
  }
  // As a crash would leave them: the files of a journal that was never closed.
  const std::string crashed = directory_ + "/crashed.db";
  std::filesystem::copy_file(path_, crashed);
  std::filesystem::copy_file(path_ + "-wal", crashed + "-wal");
  (void)journal->close();
  const auto whole = std::filesystem::file_size(crashed + "-wal");
  size_t before = 51;
  for (size_t cut = 0; cut < whole; cut += whole / 20 + 1) {
    const std::string torn = directory_ + "/torn.db";
    std::filesystem::copy_file(crashed, torn, std::filesystem::copy_options::overwrite_existing);
    std::filesystem::copy_file(crashed + "-wal", torn + "-wal",
                               std::filesystem::copy_options::overwrite_existing);
    std::filesystem::resize_file(torn + "-wal", whole - cut);
    path_ = torn;
    ReplayReport report;
    auto reopened = open(&report);
    ASSERT_TRUE(reopened);
    const size_t kept = state(report).size();
    EXPECT_LE(kept, before);
    for (size_t i = 1; i <= kept; ++i) EXPECT_TRUE(state(report).contains(std::to_string(i)));
    before = kept;
  }
}

TEST_F(JournalTest, DamagedFileIsKeptAsideAndReplaced) {
  {
    std::ofstream out(path_, std::ios::binary);
    for (int i = 0; i < 1000; ++i) out << "this is not a database ";
  }
  ReplayReport report;
  auto journal = open(&report);
  ASSERT_TRUE(journal);
  EXPECT_EQ(report.quarantined.size(), 1u);
  EXPECT_TRUE(std::filesystem::exists(path_ + ".corrupt-1"));
  journal->append(1, {put("a", "1")});
  done_.wait(1);
  EXPECT_TRUE(done_.failed().empty());
}

TEST_F(JournalTest, RandomDamageNeverStopsTheStart) {
  auto journal = open();
  const std::string value(300, 'v');
  for (uint64_t i = 1; i <= 200; ++i) journal->append(i, {put(std::to_string(i), value)});
  done_.wait(200);
  (void)journal->close();
  const std::string original = directory_ + "/original.db";
  std::filesystem::copy_file(path_, original);
  uint64_t seed = 42;
  for (int round = 0; round < 60; ++round) {
    std::filesystem::copy_file(original, path_, std::filesystem::copy_options::overwrite_existing);
    std::filesystem::remove(path_ + "-wal");
    const auto size = std::filesystem::file_size(path_);
    std::fstream file(path_, std::ios::binary | std::ios::in | std::ios::out);
    for (int flips = 0; flips < 1 + round % 8; ++flips) {
      seed = seed * 6364136223846793005ull + 1442695040888963407ull;
      file.seekp(static_cast<std::streamoff>((seed >> 20) % size));
      file.put(static_cast<char>(seed >> 56));
    }
    file.close();
    ReplayReport report;
    auto reopened = open(&report);
    ASSERT_TRUE(reopened) << "round " << round;
    for (const auto& [key, kept] : state(report)) EXPECT_EQ(kept, value);
    reopened->append(1, {put("next", "1")});
    done_.wait(1);
    (void)reopened->close();
  }
}

TEST_F(JournalTest, FullDiskRefusesCreatesAndStillErases) {
  SqliteJournalOptions options;
  options.max_pages = 32;
  auto journal = open(nullptr, options);
  uint64_t sequence = 0;
  while (done_.failed().empty()) {
    ++sequence;
    journal->append(sequence, {put(std::to_string(sequence), std::string(4000, 'x'))});
    done_.wait(sequence);
  }
  EXPECT_EQ(done_.failed().begin()->second.code(), StatusCode::kOutOfMemory);
  const uint64_t last_good = sequence - 1;
  journal->append(sequence + 1, {put("another", std::string(4000, 'x'))});
  for (uint64_t i = 1; i <= 3; ++i) {
    journal->append(sequence + 1 + i, {{RecordKind::kKeyValue, std::to_string(i), std::nullopt}});
  }
  done_.wait(sequence + 4);
  EXPECT_EQ(done_.failed().size(), 2u) << "both creates, no erasure";
  journal->append(sequence + 5, {put("room again", "y")});
  done_.wait(sequence + 5);
  EXPECT_EQ(done_.failed().size(), 2u);
  (void)journal->close();
  ReplayReport report;
  journal = open(&report, options);
  EXPECT_EQ(state(report).size(), last_good - 3 + 1);
}

TEST(MemoryJournalTest, CrashForgetsWhatWasNotSynced) {
  std::vector<uint64_t> durable;
  MemoryJournal journal([&](JournalCompletion done) { durable.push_back(done.durable); }, false);
  for (uint64_t i = 1; i <= 4; ++i) {
    journal.append(i, {{RecordKind::kKeyValue, std::to_string(i), "v"}});
  }
  journal.sync(2);
  EXPECT_EQ(durable, std::vector<uint64_t>{2});
  journal.crash(1);
  EXPECT_EQ(journal.replay()->records.size(), 3u) << "one more had reached the disk";
  EXPECT_EQ(durable.size(), 1u);
}

}  // namespace
}  // namespace sheaf::scheduler::journal_test
