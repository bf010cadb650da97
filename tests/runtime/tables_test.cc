// The process's object table and the task lists, without a cluster.
#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <random>

#include "runtime/entry_table.h"
#include "runtime/made_values.h"
#include "runtime/task.h"

namespace sheaf::runtime {
namespace {

constexpr ProcessId kMe = 7;

TEST(EntryTableTest, OwnObjectsAreFoundByTheirId) {
  EntryTable table(kMe);
  Slot a = table.create_own(), b = table.create_own();
  EXPECT_NE(table.at(a).id, table.at(b).id);
  EXPECT_EQ(table.find(table.at(a).id), a);
  EXPECT_EQ(table.find_own(table.at(b).id.lo), b);
  EXPECT_EQ(table.at(a).id.process(), kMe);
  EXPECT_EQ(table.live(), 2u);
}

TEST(EntryTableTest, ReusedSlotHasANewId) {
  EntryTable table(kMe);
  Slot a = table.create_own();
  ObjectId old = table.at(a).id;
  table.erase(a);
  EXPECT_EQ(table.find(old), kNoSlot);
  Slot b = table.create_own();
  EXPECT_EQ(a, b);
  EXPECT_EQ(table.find(old), kNoSlot);
  EXPECT_NE(table.at(b).id, old);
}

TEST(EntryTableTest, ForeignObjectsAreHashed) {
  EntryTable table(kMe);
  ObjectId id = ObjectId::make(9, 123);
  Slot slot = table.create_foreign(id);
  EXPECT_EQ(table.find(id), slot);
  EXPECT_EQ(table.find_own(id.lo), kNoSlot);
  table.erase(slot);
  EXPECT_EQ(table.find(id), kNoSlot);
}

TEST(EntryTableTest, ValuesOfEverySizeAreKept) {
  EntryTable table(kMe);
  for (size_t n : {0, 1, 31, 32, 33, 8192}) {
    Slot slot = table.create_own();
    std::string value(n, 'v');
    table.at(slot).set_bytes(ValueState::kInline, wire::as_bytes(value));
    EXPECT_EQ(wire::as_text(table.at(slot).bytes()), value);
    value += 'e';   // errors are never empty
    table.at(slot).set_bytes(ValueState::kError, wire::as_bytes(value));   // replaces, frees the first
    EXPECT_EQ(wire::as_text(table.at(slot).bytes()), value);
    table.at(slot).set_locator({});
    EXPECT_FALSE(table.at(slot).has_bytes());
    table.erase(slot);
  }
}

TEST(MadeValuesTest, LaterResultsTakeThePlaceOfEarlierOnes) {
  MadeValues made;
  ReturnValue value;
  std::string text = "one";
  value.inline_bytes = wire::as_bytes(text);
  ObjectId id = ObjectId::make(kMe, 5), same_place = ObjectId::make(kMe, 5 + MadeValues::kPlaces);
  EXPECT_EQ(made.find(id), nullptr);
  made.keep(id, value);
  ASSERT_NE(made.find(id), nullptr);
  EXPECT_EQ(made.find(id)->bytes, "one");
  EXPECT_EQ(made.find(ObjectId::make(kMe + 1, 5)), nullptr) << "of another process";
  made.keep(same_place, value);
  EXPECT_EQ(made.find(id), nullptr);
  ReturnValue large;
  large.sealed = objstore::Locator{};
  made.keep(id, large);
  ASSERT_NE(made.find(id), nullptr);
  EXPECT_EQ(made.find(id)->state, ValueState::kArena);
}

TEST(MadeValuesTest, BytesAreBounded) {
  MadeValues made;
  std::string text(8192, 'v');
  ReturnValue value;
  value.inline_bytes = wire::as_bytes(text);
  for (uint64_t i = 0; i < 10 * MadeValues::kPlaces; ++i) {
    made.keep(ObjectId::make(kMe, i), value);
    ASSERT_LE(made.bytes(), MadeValues::kBytesMax + 2 * text.size());
    ASSERT_NE(made.find(ObjectId::make(kMe, i)), nullptr);
  }
  value.inline_bytes = {};
  for (uint64_t i = 0; i < 2 * MadeValues::kPlaces; ++i) made.keep(ObjectId::make(kMe, i), value);
  EXPECT_LE(made.bytes(), MadeValues::kBytesMax) << "memory of long values that are gone counts";
}

TEST(EntryTableTest, FreedBytesStayForThoseWhoReadThem) {
  EntryTable table(kMe);
  for (size_t n : {0, 1, 32, 33, 8192}) {
    Slot slot = table.create_own();
    std::string value(n, 'v');
    table.at(slot).set_bytes(ValueState::kInline, wire::as_bytes(value));
    Bytes seen = table.at(slot).bytes();
    for (int again = 0; again < 2; ++again) table.at(slot).set_freed();
    EXPECT_EQ(wire::as_text(seen), value);
    EXPECT_EQ(table.at(slot).state, ValueState::kError);
    auto error = wire::decode<protocol::ErrorRecord>(table.at(slot).value_or_error());
    ASSERT_TRUE(error.has_value());
    EXPECT_EQ(error->kind, protocol::ErrorKind::kObjectFreed);
    table.erase(slot);
  }
}

TEST(EntryTableTest, RandomCreationsAndErasuresAgreeWithAMap) {
  uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  EntryTable table(kMe);
  std::unordered_map<ObjectId, Slot> model;
  for (int i = 0; i < 20000; ++i) {
    uint64_t what = random() % 3;
    if (what == 0) {
      Slot s = table.create_own();
      model[table.at(s).id] = s;
    } else if (what == 1) {
      ObjectId id = ObjectId::make(8, random() % 1000);
      if (!model.contains(id)) model[id] = table.create_foreign(id);
    } else if (!model.empty()) {
      auto it = std::next(model.begin(), static_cast<long>(random() % std::min<size_t>(model.size(), 50)));
      table.erase(it->second);
      EXPECT_EQ(table.find(it->first), kNoSlot);
      model.erase(it);
    }
    ASSERT_EQ(table.live(), model.size());
  }
  for (auto& [id, slot] : model) EXPECT_EQ(table.find(id), slot);
}

std::vector<Task*> in_order(const TaskList& list) {
  std::vector<Task*> out;
  for (Task* t = list.head; t; t = t->next) out.push_back(t);
  return out;
}

TEST(TaskListTest, RandomOperationsAgreeWithAList) {
  uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  std::vector<Task> tasks(40);
  TaskList list;
  std::vector<Task*> model;
  for (int i = 0; i < 20000; ++i) {
    Task* t = &tasks[random() % tasks.size()];
    auto at = std::find(model.begin(), model.end(), t);
    if (at != model.end()) {
      list.remove(t);
      model.erase(at);
      EXPECT_EQ(t->list, nullptr);
    } else if (random() % 3 == 0) {
      list.push_front(t);
      model.insert(model.begin(), t);
    } else if (random() % 2 == 0 || model.empty()) {
      list.push_back(t);
      model.push_back(t);
    } else {
      size_t place = random() % model.size();
      list.insert_after(model[place], t);
      model.insert(model.begin() + static_cast<long>(place) + 1, t);
    }
    ASSERT_EQ(list.size, model.size());
    ASSERT_EQ(in_order(list), model);
    ASSERT_EQ(list.tail, model.empty() ? nullptr : model.back());
  }
}

TEST(TaskTest, OneAllocationHoldsEverything) {
  std::vector<Slot> deps = {1, 2, 3}, nested = {9};
  std::string payload = "the arguments";
  TaskPool pool;
  Task* task = pool.create(2, {wire::as_bytes(payload), deps, nested});
  EXPECT_EQ(std::vector<Slot>(task->deps(), task->deps() + 3), deps);
  EXPECT_EQ(task->nested()[0], 9u);
  EXPECT_EQ(std::string(task->payload(), task->payload_bytes), payload);
  Task* small = pool.create(1, {{}, {}, {}});
  pool.destroy(small);
  task->attempt = 7;
  pool.destroy(task);
  Task* next = pool.create(1, {{}, {}, {}});
  EXPECT_EQ(next, small);   // the memory of one of its size again, as new
  EXPECT_EQ(next->n_deps + next->n_nested + next->payload_bytes + next->attempt, 0u);
  pool.destroy(next);
  next = pool.create(1, {{}, deps, nested});
  EXPECT_EQ(next, task);
  EXPECT_EQ(next->n_nested + next->attempt, 1u);
  pool.destroy(next);
  std::string large(100000, 'x');
  Task* big = pool.create(1, {wire::as_bytes(large), {}, {}});
  EXPECT_EQ(std::string_view(big->payload(), big->payload_bytes), large);
  pool.destroy(big);
}

}  // namespace
}  // namespace sheaf::runtime
