// The part of Submitter that makes lost objects again, from the tasks that made them.
//
// Only the maker (the process that the object's id names) runs the task once more; whoever else asks for the object is
// kept waiting by the daemon until it is sealed again or the maker publishes an error. A worker that finds an argument
// lost gives its task back, so that no chain of lost arguments holds more workers than it has tasks to run.
#include "runtime/impl.h"

namespace sheaf::runtime {

using protocol::ErrorKind;
using protocol::ErrorRecord;

void Submitter::object_lost(Slot slot, wire::Bytes error) {
  Entry& e = rt_.objects.at(slot);
  if (e.state == ValueState::kArena) {
    if (auto pin = rt_.pin(e)) {   // news of the time before it was made again
      rt_.pins.unpin(*pin);
      return;
    }
    rt_.objects.set_moved(slot);
  }
  if (e.ready()) {   // we have a value that the daemon has not: freed here, or dropped there
    e.flags = static_cast<uint8_t>(e.flags & ~kPublished);
    return rt_.objects.publish(slot);
  }
  if (!make_again(slot)) rt_.objects.set_bytes(slot, ValueState::kError, error);
}

bool Submitter::make_again(Slot slot) {
  Entry& e = rt_.objects.at(slot);
  Task* task = e.task;
  if (!task) return false;
  if (task->state != TaskState::kDone) return true;   // under way
  if (task->rebuilds >= kRebuildsMax) return false;
  ++task->rebuilds;
  if (task->retries_left > 0) --task->retries_left;
  ++task->attempt;
  for (uint16_t i = 0; i < task->n_returns; ++i) {
    Slot& r = task->returns()[i];
    if (rt_.objects.at(r).task == task) {
      rt_.objects.retain(r);
    } else {   // dropped since: the run needs a place for it all the same
      r = rt_.objects.create();
      rt_.objects.at(r).task = task;
    }
  }
  task->cookie = rt_.objects.at(task->returns()[0]).id.lo;
  argument_lost(task);
  return true;
}

// The daemon is asked about every argument before a worker is: lost ones among them are made again first, recursively.
void Submitter::argument_lost(Task* task) {
  if (task->cancelled) return complete_error(task, {ErrorKind::kCancelled, "the task was cancelled", "", {}});
  for (uint32_t i = 0; i < task->n_deps; ++i) {
    if (rt_.objects.at(task->deps()[i]).state == ValueState::kArena) rt_.objects.set_moved(task->deps()[i]);
  }
  task->state = TaskState::kWaiting;
  if (await_dependencies(task) && !fail_on_dependency(task)) enqueue(task, true);
}

}  // namespace sheaf::runtime
