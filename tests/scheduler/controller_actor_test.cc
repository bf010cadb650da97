#include <gtest/gtest.h>

#include "machines.h"

namespace sheaf::scheduler::controller_actor_test {
namespace {

using namespace testing;
using protocol::ActorState;
using protocol::ErrorKind;
constexpr ProcessId kDriver = 2, kWorker = 50, kOther = 3;

protocol::ActorSpec spec_of(uint64_t n, std::string name = "", bool detached = false) {
  protocol::ActorSpec spec;
  spec.actor = ActorId::make(kDriver, n);
  spec.name = std::move(name);
  spec.detached = detached;
  spec.class_name = "Counter";
  spec.handle = "handle";
  spec.creation_resources = cpus(1);
  return spec;
}

class ControllerActorTest : public ::testing::Test {
 protected:
  ControllerActorTest() {
    bench.add_node();
    bench.add_driver(kDriver, "space");
    bench.sync();
    bench.log.clear();
  }
  const ActorInfo& actor(const ActorId& id) { return bench.machine.actors().at(id); }
  uint64_t create(const protocol::ActorSpec& spec, ProcessId process = kDriver) {
    return bench.ask(process, protocol::ActorCreate{spec});
  }
  void run(const ActorId& id, ProcessId worker = kWorker) {
    const uint32_t incarnation = actor(id).incarnation;
    bench.send(ClientJoined{worker, protocol::ClientKind::kWorker, 1});
    bench.report(ActorAssigned{id, incarnation, worker});
    bench.post(worker, protocol::ActorStarted{id, incarnation, true, {}});
  }
  void lose(const ActorId& id, ErrorKind kind = ErrorKind::kWorkerCrashed) {
    bench.report(ActorLost{id, actor(id).incarnation, {kind, "crash", "", {}}});
  }

  ControllerBench bench;
};

TEST_F(ControllerActorTest, IsPlacedStartedAndPushedToSubscribers) {
  auto spec = spec_of(1);
  bench.post(kDriver, protocol::ActorSubscribe{spec.actor});
  auto early = bench.take<PushActorUpdate>();
  ASSERT_EQ(early.size(), 1u);
  EXPECT_EQ(early[0].update.state, ActorState::kPending) << "not created yet, but it may be";
  const uint64_t request = create(spec);
  EXPECT_TRUE(bench.answer(request)) << "not detached: nothing to wait for";
  ASSERT_EQ(bench.to_node<PlaceActor>().size(), 1u);
  run(spec.actor);
  EXPECT_EQ(bench.to_node<ActorRunning>().size(), 1u);
  auto pushes = bench.take<PushActorUpdate>();
  ASSERT_EQ(pushes.size(), 1u);
  EXPECT_EQ(pushes[0].update.state, ActorState::kAlive);
  EXPECT_EQ(pushes[0].update.process, kWorker);
}

TEST_F(ControllerActorTest, ConstructorErrorIsFinal) {
  auto spec = spec_of(1);
  spec.max_restarts = -1;
  create(spec);
  bench.report(ActorAssigned{spec.actor, 0, kWorker});
  bench.post(kWorker, protocol::ActorStarted{spec.actor, 0, false, {ErrorKind::kUserException,
             "bad", "pickle", {}}});
  EXPECT_EQ(actor(spec.actor).state, ActorState::kDead);
  EXPECT_EQ(actor(spec.actor).cause.kind, ErrorKind::kActorDied);
  EXPECT_EQ(actor(spec.actor).cause.payload, "pickle");
  EXPECT_EQ(bench.to_node<ReleaseActor>().size(), 1u);
  EXPECT_EQ(bench.take<ActorGone>().size(), 1u);
}

TEST_F(ControllerActorTest, RestartsAsOftenAsAllowedWithNewIncarnations) {
  auto spec = spec_of(1);
  spec.max_restarts = 2;
  create(spec);
  for (uint32_t life = 0; life < 3; ++life) {
    EXPECT_EQ(actor(spec.actor).incarnation, life);
    run(spec.actor, kWorker + life);
    EXPECT_EQ(actor(spec.actor).state, ActorState::kAlive);
    lose(spec.actor);
  }
  EXPECT_EQ(actor(spec.actor).state, ActorState::kDead);
  EXPECT_EQ(actor(spec.actor).cause.kind, ErrorKind::kActorDied);
  EXPECT_EQ(bench.to_node<PlaceActor>().size(), 3u);
}

TEST_F(ControllerActorTest, OlderIncarnationsAreRefused) {
  auto spec = spec_of(1);
  spec.max_restarts = -1;
  create(spec);
  run(spec.actor, kWorker);
  lose(spec.actor);
  bench.report(ActorAssigned{spec.actor, 0, kWorker});
  EXPECT_EQ(actor(spec.actor).process, kNoProcess);
  bench.post(kWorker, protocol::ActorStarted{spec.actor, 0, true, {}});
  bench.post(kWorker, protocol::ActorStarted{spec.actor, 1, true, {}});
  EXPECT_EQ(actor(spec.actor).state, ActorState::kRestarting);
  bench.report(ActorLost{spec.actor, 0, {}});
  EXPECT_EQ(actor(spec.actor).incarnation, 1u);
  run(spec.actor, kWorker + 1);
  EXPECT_EQ(actor(spec.actor).state, ActorState::kAlive);
}

TEST_F(ControllerActorTest, IntendedExitIsNotRestarted) {
  auto spec = spec_of(1);
  spec.max_restarts = -1;
  create(spec);
  run(spec.actor);
  bench.post(kWorker, protocol::ActorExiting{spec.actor, 0, true, "exit_actor() was called"});
  lose(spec.actor);
  EXPECT_EQ(actor(spec.actor).state, ActorState::kDead);
  EXPECT_EQ(actor(spec.actor).cause.message, "exit_actor() was called");
}

TEST_F(ControllerActorTest, KillIsFinalUnlessRestartIsAskedFor) {
  auto spec = spec_of(1);
  spec.max_restarts = 1;
  create(spec);
  run(spec.actor);
  bench.ask(kDriver, protocol::ActorKill{spec.actor, false});
  EXPECT_EQ(bench.to_node<ReleaseActor>().size(), 1u);
  lose(spec.actor);
  EXPECT_EQ(actor(spec.actor).state, ActorState::kRestarting);
  run(spec.actor, kWorker + 1);
  const uint64_t request = bench.ask(kDriver, protocol::ActorKill{spec.actor, true});
  EXPECT_EQ(actor(spec.actor).state, ActorState::kDead);
  EXPECT_TRUE(bench.answer(request));
  bench.report(ActorLost{spec.actor, 1, {}});
  EXPECT_EQ(actor(spec.actor).state, ActorState::kDead);
}

TEST_F(ControllerActorTest, EndsGracefullyWhenNobodyHoldsIt) {
  auto spec = spec_of(1);
  create(spec);
  run(spec.actor);
  bench.send(ClientJoined{kOther, protocol::ClientKind::kWorker, 1});
  bench.post(kOther, protocol::ActorHold{spec.actor, 1});
  bench.post(kDriver, protocol::ActorHold{spec.actor, -1});
  bench.advance_by(1s);
  EXPECT_TRUE(bench.to_node<ReleaseActor>().empty());
  bench.send(ClientLeft{kOther, {}});
  bench.advance_by(1s);
  auto release = bench.to_node<ReleaseActor>();
  ASSERT_EQ(release.size(), 1u);
  EXPECT_TRUE(release[0].graceful);
  lose(spec.actor);
  EXPECT_EQ(actor(spec.actor).state, ActorState::kDead);
}

TEST_F(ControllerActorTest, HandleDroppedBeforeTheStartStillLetsCallsRun) {
  auto spec = spec_of(1);
  create(spec);
  bench.post(kDriver, protocol::ActorSubscribe{spec.actor});
  bench.post(kDriver, protocol::ActorHold{spec.actor, -1});
  bench.advance_by(1s);
  EXPECT_NE(actor(spec.actor).state, ActorState::kDead);
  run(spec.actor);
  EXPECT_EQ(bench.to_node<ReleaseActor>().size(), 1u);
}

TEST_F(ControllerActorTest, InterestBeforeCreationCounts) {
  auto spec = spec_of(1);
  bench.send(ClientJoined{kOther, protocol::ClientKind::kWorker, 1});
  bench.post(kOther, protocol::ActorHold{spec.actor, 1});
  bench.post(kOther, protocol::ActorSubscribe{spec.actor});
  create(spec);
  run(spec.actor);
  bench.post(kDriver, protocol::ActorHold{spec.actor, -1});
  bench.advance_by(1s);
  EXPECT_EQ(actor(spec.actor).state, ActorState::kAlive);
  bench.log.clear();
  const ActorId never = ActorId::make(kDriver, 99), foreign = ActorId::make(777, 1);
  bench.post(kOther, protocol::ActorSubscribe{foreign});
  auto dead = bench.take<PushActorUpdate>();
  ASSERT_EQ(dead.size(), 1u);
  EXPECT_EQ(dead[0].update.state, ActorState::kDead);
  bench.post(kOther, protocol::ActorSubscribe{never});
  bench.take<PushActorUpdate>();
  bench.send(ClientLeft{kDriver, {}});
  std::set<ActorId> told;
  for (const PushActorUpdate& push : bench.take<PushActorUpdate>()) {
    if (push.update.state == ActorState::kDead) told.insert(push.update.actor);
  }
  EXPECT_TRUE(told.contains(never));
}

TEST_F(ControllerActorTest, NamesAreUniquePerNamespace) {
  create(spec_of(1, "n"));
  const uint64_t again = create(spec_of(2, "n"));
  EXPECT_EQ(bench.answer(again)->code, StatusCode::kAlreadyExists);
  auto elsewhere = spec_of(3, "n");
  elsewhere.name_space = "other";
  EXPECT_EQ(bench.answer(create(elsewhere))->code, StatusCode::kOk);
  auto reuse = spec_of(4, "n");
  reuse.get_if_exists = true;
  auto found = bench.payload<protocol::ActorCreateReply>(create(reuse));
  EXPECT_EQ(found.existing, spec_of(1).actor);
  EXPECT_EQ(found.handle, "handle");
  auto lookup = bench.payload<protocol::ActorLookupReply>(
      bench.ask(kDriver, protocol::ActorLookup{"n", ""}));
  EXPECT_EQ(lookup.actor, spec_of(1).actor);
  auto names = bench.payload<protocol::ActorNamesReply>(
      bench.ask(kDriver, protocol::ActorNames{true, ""}));
  EXPECT_EQ(names.names.size(), 2u);
  bench.ask(kDriver, protocol::ActorKill{spec_of(1).actor, true});
  auto gone = bench.answer(bench.ask(kDriver, protocol::ActorLookup{"n", ""}));
  EXPECT_EQ(gone->code, StatusCode::kNotFound);
  EXPECT_NE(gone->message.find("killed"), std::string::npos);
  EXPECT_EQ(bench.answer(create(spec_of(5, "n")))->code, StatusCode::kOk);
}

TEST_F(ControllerActorTest, DetachedOneIsAnsweredAndPlacedOnlyWhenDurable) {
  auto spec = spec_of(1, "d", true);
  const uint64_t request = create(spec);
  EXPECT_FALSE(bench.answer(request));
  EXPECT_TRUE(bench.to_node<PlaceActor>().empty());
  const uint64_t lookup = bench.ask(kDriver, protocol::ActorLookup{"d", ""});
  EXPECT_FALSE(bench.answer(lookup)) << "not durable: nobody may see it";
  bench.sync();
  EXPECT_TRUE(bench.answer(request));
  EXPECT_TRUE(bench.answer(lookup));
  EXPECT_EQ(bench.to_node<PlaceActor>().size(), 1u);
}

TEST_F(ControllerActorTest, FullDiskRefusesDetachedActors) {
  const uint64_t request = create(spec_of(1, "d", true));
  const uint64_t second = create(spec_of(2, "d", true));
  bench.fail_journal();
  EXPECT_EQ(bench.answer(request)->code, StatusCode::kOutOfMemory);
  bench.sync();
  EXPECT_EQ(bench.answer(second)->code, StatusCode::kOk) << "the name was never taken";
}

TEST_F(ControllerActorTest, DetachedOneOutlivesItsJobOthersDoNot) {
  create(spec_of(1, "d", true));
  bench.sync();
  create(spec_of(2));
  bench.send(ClientLeft{kDriver, {}});
  EXPECT_EQ(bench.to_node<EndJob>().size(), 1u);
  EXPECT_NE(actor(spec_of(1).actor).state, ActorState::kDead);
  EXPECT_EQ(actor(spec_of(2).actor).state, ActorState::kDead);
}

TEST_F(ControllerActorTest, NextLifeRestartsDetachedActors) {
  auto restartable = spec_of(1, "again", true), mortal = spec_of(2, "once", true);
  restartable.max_restarts = -1;
  create(restartable);
  create(mortal);
  bench.sync();
  run(mortal.actor, 77);
  bench.sync();
  run(restartable.actor);
  lose(restartable.actor);
  bench.sync();
  EXPECT_EQ(actor(restartable.actor).incarnation, 1u);

  ControllerBench next(bench);
  EXPECT_TRUE(next.strange.empty());
  EXPECT_EQ(next.machine.boot(), 2u);
  next.add_node();
  auto placed = next.to_node<PlaceActor>();
  ASSERT_EQ(placed.size(), 1u);
  EXPECT_EQ(placed[0].actor, restartable.actor);
  EXPECT_EQ(placed[0].incarnation, 2u << 16) << "the second life's";
  EXPECT_TRUE(placed[0].job_ended);
  next.add_driver(kOther, "space");
  const auto found = next.ask(kOther, protocol::ActorLookup{"again", ""});
  EXPECT_EQ(next.payload<protocol::ActorLookupReply>(found).handle, "handle");
  auto lost = next.answer(next.ask(kOther, protocol::ActorLookup{"once", ""}));
  EXPECT_EQ(lost->code, StatusCode::kNotFound);
  EXPECT_NE(lost->message.find("node daemon"), std::string::npos) << lost->message;
}

TEST_F(ControllerActorTest, IncarnationsOfTwoLivesNeverMeet) {
  auto spec = spec_of(1, "again", true);
  spec.max_restarts = -1;
  create(spec);
  bench.sync();
  run(spec.actor);
  for (int i = 0; i < 3; ++i) lose(spec.actor);   // of these the disk never hears
  const uint32_t last = actor(spec.actor).incarnation;
  ControllerBench next(bench, false);
  next.add_node();
  EXPECT_TRUE(next.to_node<PlaceActor>().empty()) << "the new life's number is not durable";
  next.sync();
  auto placed = next.to_node<PlaceActor>();
  ASSERT_EQ(placed.size(), 1u);
  EXPECT_GT(placed[0].incarnation, last);
}

TEST_F(ControllerActorTest, InfeasibleOneWaitsWarnsAndRunsWhenItCan) {
  auto spec = spec_of(1);
  spec.placement.resources = gpus(1);
  create(spec);
  EXPECT_EQ(bench.take<WarnJob>().size(), 1u);
  EXPECT_TRUE(bench.to_node<PlaceActor>().empty());
  bench.advance_by(31s);
  EXPECT_EQ(bench.take<WarnJob>().size(), 1u);
  ResourceMap more = cpus(4);
  more["GPU"] = kResourceUnit;
  bench.report(ReportResources{more, more});
  EXPECT_EQ(bench.to_node<PlaceActor>().size(), 1u);
}

TEST_F(ControllerActorTest, DeadOnesAreForgottenInTheEnd) {
  ControllerConfig config;
  config.dead_actors_kept = 2;
  ControllerBench small(config);
  small.add_node();
  small.add_driver(kDriver);
  for (uint64_t n = 1; n <= 5; ++n) {
    small.ask(kDriver, protocol::ActorCreate{spec_of(n)});
    small.ask(kDriver, protocol::ActorKill{spec_of(n).actor, true});
  }
  EXPECT_EQ(small.machine.actors().size(), 2u);
  small.log.clear();
  small.post(kDriver, protocol::ActorSubscribe{spec_of(1).actor});
  auto push = small.take<PushActorUpdate>();
  ASSERT_EQ(push.size(), 1u);
  EXPECT_EQ(push[0].update.state, ActorState::kDead);
}

}  // namespace
}  // namespace sheaf::scheduler::controller_actor_test
