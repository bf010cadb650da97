#include <gtest/gtest.h>

#include "machines.h"

namespace sheaf::scheduler::controller_job_test {
namespace {

using namespace testing;
constexpr ProcessId kDriver = 2, kOther = 3;

class ControllerJobTest : public ::testing::Test {
 protected:
  ControllerJobTest() {
    bench.add_node();
    bench.add_driver(kDriver);
    bench.sync();
    bench.log.clear();
  }
  std::optional<std::string> get(ControllerBench& b, std::string key, ProcessId process = kDriver) {
    const auto request = b.ask(process, protocol::KvGet{"user", std::move(key), 0});
    return b.payload<protocol::KvGetReply>(request).value;
  }
  ControllerBench bench;
};

TEST_F(ControllerJobTest, DriversGetJobsOfTheirOwn) {
  const JobId second = bench.add_driver(kOther, "mine");
  EXPECT_NE(second, bench.machine.job_of(kDriver));
  EXPECT_EQ(bench.machine.jobs().at(second).spec.name_space, "mine");
  EXPECT_EQ(bench.machine.jobs().at(bench.machine.job_of(kDriver)).spec.name_space, "anonymous-1");
  bench.send(ClientLeft{kOther, {}});
  EXPECT_FALSE(bench.machine.jobs().at(second).alive);
  EXPECT_EQ(bench.take<JobFinished>().size(), 1u);
  EXPECT_EQ(bench.to_node<EndJob>().size(), 1u);
}

TEST_F(ControllerJobTest, WritesAreAnsweredWhenDurable) {
  const auto put = bench.ask(kDriver, protocol::KvPut{"user", "a", "1", true});
  EXPECT_FALSE(bench.answer(put));
  const auto read = bench.ask(kDriver, protocol::KvGet{"user", "a", 0});
  EXPECT_FALSE(bench.answer(read)) << "a read may not show what a crash could take back";
  const auto keys = bench.ask(kDriver, protocol::KvKeys{"user", ""});
  EXPECT_FALSE(bench.answer(keys));
  bench.sync();
  EXPECT_TRUE(bench.payload<protocol::KvPutReply>(put).added);
  EXPECT_EQ(bench.payload<protocol::KvGetReply>(read).value, "1");
  EXPECT_EQ(bench.payload<protocol::KvKeysReply>(keys).keys, std::vector<std::string>{"a"});
}

TEST_F(ControllerJobTest, PutWithoutOverwriteKeepsTheFirst) {
  const auto first = bench.ask(kDriver, protocol::KvPut{"user", "a", "1", false});
  const auto second = bench.ask(kDriver, protocol::KvPut{"user", "a", "2", false});
  bench.sync();
  EXPECT_TRUE(bench.payload<protocol::KvPutReply>(first).added);
  EXPECT_FALSE(bench.payload<protocol::KvPutReply>(second).added);
  EXPECT_EQ(get(bench, "a"), "1");
}

TEST_F(ControllerJobTest, FailedWritesLeaveNoTrace) {
  bench.ask(kDriver, protocol::KvPut{"user", "a", "old", true});
  bench.sync();
  const auto first = bench.ask(kDriver, protocol::KvPut{"user", "a", "1", true});
  const auto second = bench.ask(kDriver, protocol::KvPut{"user", "a", "2", true});
  const auto read = bench.ask(kDriver, protocol::KvGet{"user", "a", 0});
  bench.fail_journal();
  EXPECT_EQ(bench.answer(first)->code, StatusCode::kOutOfMemory);
  EXPECT_EQ(bench.answer(second)->code, StatusCode::kOutOfMemory);
  EXPECT_EQ(bench.payload<protocol::KvGetReply>(read).value, "old");
}

TEST_F(ControllerJobTest, FailureOfOneWriteKeepsTheNext) {
  const auto first = bench.ask(kDriver, protocol::KvPut{"user", "a", "1", true});
  const uint64_t failed = bench.take<AppendJournal>()[0].sequence;
  const auto second = bench.ask(kDriver, protocol::KvPut{"user", "a", "2", true});
  const uint64_t last = bench.take<AppendJournal>()[0].sequence;
  bench.send(JournalSynced{{last, {{failed, Status(StatusCode::kOutOfMemory, "full")}}}});
  EXPECT_EQ(bench.answer(first)->code, StatusCode::kOutOfMemory);
  EXPECT_EQ(bench.answer(second)->code, StatusCode::kOk);
  EXPECT_EQ(get(bench, "a"), "2");
}

TEST_F(ControllerJobTest, DeletesByKeyAndPrefix) {
  for (const char* key : {"a/1", "a/2", "b"}) bench.ask(kDriver, protocol::KvPut{"user", key, "v",
                                                        true});
  bench.sync();
  const auto one = bench.ask(kDriver, protocol::KvDelete{"user", "b", false});
  const auto none = bench.ask(kDriver, protocol::KvDelete{"user", "a", false});
  const auto two = bench.ask(kDriver, protocol::KvDelete{"user", "a/", true});
  bench.sync();
  EXPECT_EQ(bench.payload<protocol::KvDeleteReply>(one).deleted, 1u);
  EXPECT_EQ(bench.payload<protocol::KvDeleteReply>(none).deleted, 0u);
  EXPECT_EQ(bench.payload<protocol::KvDeleteReply>(two).deleted, 2u);
  EXPECT_TRUE(bench.machine.key_values().empty());
}

TEST_F(ControllerJobTest, GetMayWaitForAKey) {
  const auto found = bench.ask(kDriver, protocol::KvGet{"user", "a", 1000});
  const auto late = bench.ask(kDriver, protocol::KvGet{"user", "b", 1000});
  bench.ask(kDriver, protocol::KvPut{"user", "a", "1", true});
  EXPECT_FALSE(bench.answer(found));
  bench.sync();
  EXPECT_EQ(bench.payload<protocol::KvGetReply>(found).value, "1");
  EXPECT_FALSE(bench.answer(late));
  bench.advance_by(1100ms);
  EXPECT_EQ(bench.payload<protocol::KvGetReply>(late).value, std::nullopt);
}

TEST_F(ControllerJobTest, FunctionsAreAnsweredAtOnceAndGoWithTheirLastJob) {
  bench.add_driver(kOther);
  const auto put = bench.ask(kDriver, protocol::KvPut{"fn", "hash", "code", false});
  EXPECT_TRUE(bench.answer(put));
  const auto again = bench.ask(kOther, protocol::KvPut{"fn", "hash", "code", false});
  EXPECT_FALSE(bench.payload<protocol::KvPutReply>(again).added);
  bench.send(ClientLeft{kDriver, {}});
  EXPECT_EQ(bench.machine.key_values().size(), 1u);
  bench.send(ClientLeft{kOther, {}});
  EXPECT_TRUE(bench.machine.key_values().empty());
}

TEST_F(ControllerJobTest, DetachedActorKeepsItsJobsFunctionsThroughARestart) {
  bench.ask(kDriver, protocol::KvPut{"fn", "hash", "code", false});
  protocol::ActorSpec spec;
  spec.actor = ActorId::make(kDriver, 1);
  spec.detached = true;
  spec.max_restarts = -1;
  bench.ask(kDriver, protocol::ActorCreate{spec});
  bench.sync();
  bench.send(ClientLeft{kDriver, {}});
  bench.sync();
  EXPECT_EQ(bench.machine.key_values().size(), 1u);

  ControllerBench next(bench);
  EXPECT_TRUE(next.strange.empty());
  EXPECT_EQ(next.machine.key_values().size(), 1u);
  EXPECT_EQ(next.machine.jobs().size(), 1u);
  next.add_node();
  const JobId job = next.add_driver(kOther);
  EXPECT_FALSE(bench.machine.jobs().contains(job)) << "job numbers are not used twice";
  next.ask(kOther, protocol::ActorKill{spec.actor, true});
  next.sync();
  EXPECT_TRUE(next.machine.key_values().empty());
  EXPECT_EQ(next.disk_records().size(), 2u) << "boot and the new job";
}

TEST_F(ControllerJobTest, FullDiskAtStartStillLosesWhatTheLastLifeLeft) {
  bench.ask(kDriver, protocol::KvPut{"fn", "hash", "code", false});
  bench.sync();
  ASSERT_EQ(bench.disk_records().size(), 3u) << "boot, the job, its function";
  ControllerBench next(bench, false);
  next.sync_on_full_disk();
  EXPECT_EQ(next.disk_records().size(), 1u);
}

TEST_F(ControllerJobTest, NoJobStartsBeforeTheBootNumberIsDurable) {
  ControllerBench next(bench, false);
  next.add_node();
  next.send(ClientJoined{kOther, protocol::ClientKind::kDriver, 0});
  const auto refused = next.ask(kOther, protocol::RegisterJob{});
  EXPECT_FALSE(next.answer(refused));
  next.sync_on_full_disk();
  EXPECT_EQ(next.answer(refused)->code, StatusCode::kOutOfMemory);
  const auto second = next.ask(kOther, protocol::RegisterJob{});   // tries the disk again at once
  next.sync();
  EXPECT_EQ(next.answer(second)->code, StatusCode::kOk);
  EXPECT_GT(next.machine.job_of(kOther), bench.machine.job_of(kDriver));
}

TEST_F(ControllerJobTest, BootNumberIsWrittenAgainAfterAWhile) {
  ControllerBench next(bench, false);
  next.sync_on_full_disk();
  next.advance_by(600ms);
  next.sync();
  EXPECT_NE(next.add_driver(kOther), 0u);
}

TEST_F(ControllerJobTest, JobGoesWhenTheRecordOfItsLastDetachedActorFails) {
  protocol::ActorSpec spec;
  spec.actor = ActorId::make(kDriver, 1);
  spec.detached = true;
  bench.ask(kDriver, protocol::ActorCreate{spec});
  bench.send(ClientLeft{kDriver, {}});   // while the actor may still come to be
  bench.sync_on_full_disk();
  bench.sync();
  EXPECT_EQ(bench.disk_records().size(), 1u) << "boot";
}

TEST_F(ControllerJobTest, DetachedActorBringsRecordsThatFoundNoRoom) {
  const JobId job = bench.add_driver(kOther, "late");
  bench.ask(kOther, protocol::KvPut{"fn", "hash", "code", false});
  bench.sync_on_full_disk();
  bench.ask(kOther, protocol::KvPut{"fn", "second", "code", false});   // under way
  protocol::ActorSpec spec;
  spec.actor = ActorId::make(kOther, 1);
  spec.detached = true;
  spec.max_restarts = -1;
  bench.ask(kOther, protocol::ActorCreate{spec});
  bench.sync();
  ControllerBench next(bench);
  EXPECT_TRUE(next.machine.jobs().contains(job));
  EXPECT_EQ(next.machine.key_values().size(), 2u);
}

TEST_F(ControllerJobTest, StrangeRecordsAreReportedAndSkipped) {
  ControllerBench next;
  std::vector<JournalRecord> records{{RecordKind::kActor, "nonsense", "xx"},
                                     {RecordKind::kGroup, "", ""},
                                     {RecordKind::kJob, "12x", "y"},
                                     {RecordKind::kKeyValue, "no-separator", "v"},
                                     {RecordKind::kKeyValue, std::string("user\0k", 6), "v"},
                                     {static_cast<RecordKind>(77), "k", "v"}};
  EXPECT_EQ(next.machine.restore(records).size(), 5u);
  EXPECT_EQ(next.machine.key_values().size(), 1u);
}

}  // namespace
}  // namespace sheaf::scheduler::controller_job_test
