// Messages: order, sizes, credits, queues.
#include "tests/fabric/fabric_fixture.h"

namespace sheaf::transport::test {
namespace {

class FabricMessageTest : public FabricTest {};
INSTANTIATE_TEST_SUITE_P(Backends, FabricMessageTest, testing::ValuesIn(all_backends()),
                         [](const auto& one) { return one.param.name; });

std::string text(size_t number, size_t size) {
  std::string out(size, '\0');
  for (size_t i = 0; i < size; ++i) out[i] = static_cast<char>(number * 131 + i * 7 + i / 251);
  return out;
}

TEST_P(FabricMessageTest, SizeEdgesArriveWholeAndInOrder) {
  auto a = node(1), b = node(2);
  join(*a, *b);
  const std::vector<size_t> sizes = {0,     1,     7,     8191,  8192,      8193,
                                     16383, 16384, 16385, 65536, (1 << 20) - 1, 1 << 20, 3};
  for (size_t i = 0; i < sizes.size(); ++i) {
    std::string payload = text(i, sizes[i]);
    Status sent = a->fabric->send({2, 1}, static_cast<uint16_t>(i), wire::as_bytes(payload));
    ASSERT_TRUE(sent.is_ok()) << sent.to_string();
  }
  ASSERT_TRUE(run_until([&] { return b->inbox.size() == sizes.size(); }));
  for (size_t i = 0; i < sizes.size(); ++i) {
    EXPECT_EQ(b->inbox[i].type, i);
    EXPECT_EQ(b->inbox[i].from, (PeerId{1, 1}));
    EXPECT_TRUE(b->inbox[i].payload == text(i, sizes[i])) << sizes[i];
  }
  std::string large((1 << 20) + 1, 'x');
  EXPECT_EQ(a->fabric->send({2, 1}, 1, wire::as_bytes(large)).code(), StatusCode::kInvalidArgument);
}

TEST_P(FabricMessageTest, TwentyThousandBothWaysStayInOrder) {
  auto a = node(1), b = node(2);
  join(*a, *b);
  constexpr size_t kCount = 20000;
  size_t sent_a = 0, sent_b = 0;
  auto push = [&](Node& from, PeerId to, size_t& sent) {
    while (sent < kCount &&
           from.fabric->send(to, 1, wire::as_bytes(std::to_string(sent))).is_ok()) {
      ++sent;
    }
  };
  ASSERT_TRUE(run_until([&] {
    push(*a, {2, 1}, sent_a);
    push(*b, {1, 1}, sent_b);
    return a->inbox.size() == kCount && b->inbox.size() == kCount;
  }));
  for (size_t i = 0; i < kCount; ++i) {
    ASSERT_EQ(a->inbox[i].payload, std::to_string(i));
    ASSERT_EQ(b->inbox[i].payload, std::to_string(i));
  }
}

TEST_P(FabricMessageTest, AReceiverThatHoldsItsCreditGetsNoMore) {
  auto a = node(1), b = node(2);
  join(*a, *b);
  b->hold = true;
  for (size_t i = 0; i < kFabricCreditMessages + 44; ++i) {
    ASSERT_TRUE(a->fabric->send({2, 1}, 1, {}).is_ok());
  }
  ASSERT_TRUE(run_until([&] { return b->inbox.size() == kFabricCreditMessages; }));
  run_for(milliseconds(50));
  EXPECT_EQ(b->inbox.size(), kFabricCreditMessages);
  b->hold = false;
  b->holds.clear();
  EXPECT_TRUE(run_until([&] { return b->inbox.size() == kFabricCreditMessages + 44; }));
}

TEST_P(FabricMessageTest, CreditCountsBytesToo) {
  auto a = node(1), b = node(2);
  join(*a, *b);
  b->hold = true;
  constexpr size_t kFit = kFabricCreditBytes / kFabricFragmentBytes;
  std::string full(kFabricFragmentBytes, 'f');
  for (size_t i = 0; i < kFit + 1; ++i) {
    ASSERT_TRUE(a->fabric->send({2, 1}, 1, wire::as_bytes(full)).is_ok());
  }
  ASSERT_TRUE(run_until([&] { return b->inbox.size() == kFit; }));
  run_for(milliseconds(50));
  EXPECT_EQ(b->inbox.size(), kFit);
  b->holds.clear();
  b->hold = false;
  EXPECT_TRUE(run_until([&] { return b->inbox.size() == kFit + 1; }));
}

TEST_P(FabricMessageTest, AFullQueueSaysSoAndTellsWhenThereIsRoom) {
  auto a = node(1), b = node(2);
  join(*a, *b);
  b->hold = true;
  std::string full(kFabricFragmentBytes, 'f');
  size_t sent = 0;
  Status last;
  while (sent < 100'000 && last.is_ok()) {
    last = a->fabric->send({2, 1}, 1, wire::as_bytes(full));
    sent += last.is_ok();
  }
  EXPECT_EQ(last.code(), StatusCode::kOverloaded);
  EXPECT_LT(sent * full.size(), size_t{8} << 20);  // bounded memory
  run_for(milliseconds(20));
  EXPECT_EQ(a->room, 0u);
  b->hold = false;
  b->holds.clear();
  EXPECT_TRUE(run_until([&] { return b->inbox.size() == sent; }));
  EXPECT_EQ(a->room, 1u);
  EXPECT_TRUE(a->fabric->send({2, 1}, 1, wire::as_bytes(full)).is_ok());
}

TEST_P(FabricMessageTest, WithoutASessionNothingIsSent) {
  auto a = node(1);
  EXPECT_EQ(a->fabric->send({2, 1}, 1, {}).code(), StatusCode::kDisconnected);
  EXPECT_EQ(a->fabric->send({1, 1}, 1, {}).code(), StatusCode::kDisconnected);
}

TEST_P(FabricMessageTest, AHandlerMayEndItsOwnSession) {
  auto a = node(1), b = node(2);
  join(*a, *b);
  b->on_message = [&](const Received& got) {
    b->fabric->fail(got.from, {StatusCode::kDisconnected, "enough"});
  };
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(a->fabric->send({2, 1}, 1, {}).is_ok());
  EXPECT_TRUE(run_until([&] { return a->downs() == 1 && b->downs() == 1; }));
  EXPECT_EQ(b->inbox.size(), 1u);
}

TEST_P(FabricMessageTest, ACreditMayOutliveItsSession) {
  auto a = node(1), b = node(2);
  join(*a, *b);
  b->hold = true;
  ASSERT_TRUE(a->fabric->send({2, 1}, 1, {}).is_ok());
  ASSERT_TRUE(run_until([&] { return b->holds.size() == 1; }));
  a->fabric->fail({2, 1}, {StatusCode::kDisconnected, "test"});
  ASSERT_TRUE(run_until([&] { return b->downs() == 1; }));
  b->holds.clear();
}

TEST_P(FabricMessageTest, MessagesPassWhileAPullIsUnderWay) {
  auto a = node(1), b = node(2);
  b->export_bytes(size_t{128} << 20);
  join(*a, *b);
  b->on_message = [&](const Received&) { (void)b->fabric->send({1, 1}, 2, {}); };
  auto bulk = pull(*a, {2, 1}, 0, b->memory.size(), {PullPriority::kReplicate});
  size_t rounds = 0;
  ASSERT_TRUE(run_until([&] {
    if (a->inbox.size() == rounds && !bulk->ended()) {
      (void)a->fabric->send({2, 1}, 1, {});
      ++rounds;
    }
    return bulk->ended();
  }));
  EXPECT_EQ(bulk->end(), StatusCode::kOk);
  EXPECT_GT(a->inbox.size(), 20u);  // a message that waited for the pull would be the only one
}

}  // namespace
}  // namespace sheaf::transport::test
