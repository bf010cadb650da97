// The part of Submitter that lets others make our objects again, and makes theirs.
//
// A record holds all that a worker has to be sent, with arguments as ids: who adopts the task asks for them as for any
// foreign object, so that lost ones among them are made again first, by whomever. The run of an adopted task answers to
// an entry of our own, its carrier; its returns keep the ids that others know.
#include <algorithm>

#include "runtime/impl.h"

namespace sheaf::runtime {

using protocol::ErrorKind;
using protocol::ErrorRecord;

namespace {

struct RecordedTask {
  std::string definition;   // TaskTemplate
  std::vector<ObjectId> deps, nested;
  std::string payload;
  template <class A>
  void fields(A& a) { a(definition, deps, nested, payload); }
};

bool can_be_adopted(const Task& task) {
  return !task.recorded && !task.adopted && !task.actor && task.retries_left != 0 &&
         !(task.definition->flags & kStreaming);
}

}  // namespace

// ---- Out ---------------------------------------------------------------------------------------------------------------

void Submitter::escape(Task* escaping) {
  if (rt_.kind != protocol::ClientKind::kWorker || !can_be_adopted(*escaping)) return;
  std::vector<Task*> work{escaping};   // a work list, as a chain of a million would overflow the stack
  escaping->recorded = true;
  while (!work.empty()) {
    Task* task = work.back();
    work.pop_back();
    RecordedTask record;
    protocol::TaskLineage message;
    record.definition = wire::encode(RecordedDefinition{*task->definition});
    record.payload.assign(task->payload(), task->payload_bytes);
    message.runs_left = task->retries_left;
    std::vector<Slot> known;   // to the daemon, from now on
    auto refer = [&](Slot slot, std::vector<ObjectId>* ids) {
      const Entry& e = rt_.objects.at(slot);
      ids->push_back(e.id);
      message.arguments.push_back(e.id);
      if (!e.has(kOwn)) return;
      if (e.task && can_be_adopted(*e.task)) {
        e.task->recorded = true;
        work.push_back(e.task);
      }
      known.push_back(slot);
    };
    for (uint32_t i = 0; i < task->n_deps; ++i) refer(task->deps()[i], &record.deps);
    for (uint32_t i = 0; i < task->n_nested; ++i) refer(task->nested()[i], &record.nested);
    for (uint16_t i = 0; i < task->n_returns; ++i) {
      Slot slot = task->returns()[i];
      bool needed = rt_.objects.at(slot).task == task;
      if (!needed) slot = rt_.objects.create();   // dropped, or a value that its owner has: a run needs an id for it
      message.returns.push_back(rt_.objects.at(slot).id);
      if (needed) known.push_back(slot);
      else rt_.objects.release(slot);
    }
    message.task = wire::encode(record);
    for (Slot slot : known) rt_.objects.publish(slot);   // first: a record of what nobody holds goes at once
    rt_.daemon.send(protocol::MessageType::kTaskLineage, message);
  }
}

// ---- In ----------------------------------------------------------------------------------------------------------------

void Submitter::adopt(const protocol::TaskLineage& message) {
  if (message.returns.empty()) return;
  const ObjectId first = message.returns.front();
  if (auto it = adoptions_.find(first); it != adoptions_.end()) {
    it->second.again = true;   // what this run brought may be lost by now
    return;
  }
  if (rebuild_own(message)) return;
  Task* task = decode_adopted(message);
  if (!task) return fail_adoption(message, "its record cannot be read");
  Slot carrier = rt_.objects.create();
  rt_.objects.at(carrier).task = task;
  task->cookie = rt_.objects.at(carrier).id.lo;
  adoptions_[first] = {task, carrier, false, message};
  if (await_dependencies(task) && !fail_on_dependency(task)) {
    enqueue(task);
    push_out();
  }
}

// We submitted it, and still have the task. False: we have not.
bool Submitter::rebuild_own(const protocol::TaskLineage& message) {
  Task* task = nullptr;
  for (const ObjectId& id : message.returns) {
    Slot slot = rt_.objects.table().find(id);
    if (slot != kNoSlot && rt_.objects.at(slot).has(kOwn) && rt_.objects.at(slot).task) task = rt_.objects.at(slot).task;
  }
  if (!task) return false;
  if (task->state != TaskState::kDone) {   // its end comes first
    task->watched = true;
    adoptions_[message.returns.front()] = {task, kNoSlot, true, message};
    return true;
  }
  ErrorRecord error{ErrorKind::kObjectLost, "the object was lost, and made again as often as may be", "", {}};
  std::string bytes = wire::encode(error);
  for (const ObjectId& id : message.returns) {
    Slot slot = rt_.objects.table().find(id);
    if (slot != kNoSlot && rt_.objects.at(slot).has(kOwn)) object_lost(slot, wire::as_bytes(bytes));
  }
  push_out();
  return true;
}

Task* Submitter::decode_adopted(const protocol::TaskLineage& message) {
  auto record = wire::decode<RecordedTask>(message.task);
  if (!record) return nullptr;
  auto definition = wire::decode<RecordedDefinition>(record->definition);
  if (!definition || std::max<size_t>(definition->n_returns, 1) != message.returns.size()) return nullptr;
  TemplateId template_id = define(std::move(*definition));
  std::vector<Slot> deps, nested;
  for (const ObjectId& id : record->deps) deps.push_back(rt_.objects.import(id));
  for (const ObjectId& id : record->nested) nested.push_back(rt_.objects.import(id));
  Arguments args{wire::as_bytes(record->payload), deps, nested};
  Template& t = templates_[template_id];
  Task* task = tasks_.create(static_cast<uint16_t>(message.returns.size()), args);   // takes over those counts
  task->definition = &t.definition;
  task->sched = t.sched;
  task->template_id = template_id;
  task->retries_left = message.runs_left;
  task->adopted = task->watched = true;
  for (uint16_t i = 0; i < task->n_returns; ++i) {
    Slot slot = task->returns()[i] = rt_.objects.import(message.returns[i]);
    Entry& e = rt_.objects.at(slot);
    if (!e.has(kOwn)) e.flags |= kAdopted;
    if (e.state == ValueState::kInline) {   // we have read it before: there it is
      if (e.has(kOwn)) e.flags = static_cast<uint8_t>(e.flags & ~kPublished);
      if (e.has(kOwn)) rt_.objects.publish(slot);
      else rt_.objects.tell_owner(slot);
    } else if (e.ready()) {
      rt_.objects.set_moved(slot);
    }
    e.task = task;
  }
  return task;
}

// For everybody who waits.
void Submitter::fail_adoption(const protocol::TaskLineage& message, const std::string& why) {
  ErrorRecord error{ErrorKind::kObjectLost, "the object was lost, and cannot be made again: " + why, "", {}};
  for (const ObjectId& id : message.returns) {
    protocol::ObjectPublish answer{id, ValueState::kError, wire::encode(error), {}};
    rt_.daemon.send(protocol::MessageType::kObjectMade, answer);
  }
}

void Submitter::adoption_ended(const Task* run) {
  auto it = std::find_if(adoptions_.begin(), adoptions_.end(), [&](const auto& a) { return a.second.run == run; });
  if (it == adoptions_.end()) return;
  Adoption ended = std::move(it->second);
  adoptions_.erase(it);
  if (ended.carrier != kNoSlot) {
    rt_.objects.at(ended.carrier).task = nullptr;
    rt_.objects.release(ended.carrier);
    for (const ObjectId& id : ended.task.returns) {   // those that we go on using are foreign objects as any
      Slot slot = rt_.objects.table().find(id);
      if (slot != kNoSlot) rt_.objects.at(slot).flags = static_cast<uint8_t>(rt_.objects.at(slot).flags & ~kAdopted);
    }
  }
  if (ended.again) adopt(ended.task);
}

}  // namespace sheaf::runtime
