// The part of Store that has lost objects made again.
#include <utility>

#include "objstore/store.h"

namespace sheaf::objstore {

Status Store::record_task(ProcessId process, TaskRecord record) {
  bool own = !record.returns.empty();
  for (const ObjectId& id : record.returns) own = own && id.process() == process;
  if (!own)
    return Status(StatusCode::kInvalidArgument, "a process records the tasks that it submitted");
  Actions actions;
  nodes_.record(std::move(record), actions);
  perform(actions);
  return {};
}

Status Store::made(ProcessId, const ObjectId& id, ValueState state, std::string bytes,
                   std::span<const ObjectId> contained) {
  if (state != ValueState::kInline && state != ValueState::kError)
    return Status(StatusCode::kInvalidArgument, "what was made again is inline or an error");
  Actions actions;
  nodes_.made(id, state, std::move(bytes), contained, actions);
  perform(actions);
  return {};
}

void Store::maker_gone(ProcessId maker) {
  Actions actions;
  nodes_.maker_gone(maker, actions);
  perform(actions);
}

void Store::perform_lineage(Action& action) {
  if (auto* find = std::get_if<FindMaker>(&action)) {
    finds_.push_back(std::move(*find));
  } else if (auto* hand = std::get_if<HandTask>(&action)) {
    if (options_.hand_task) options_.hand_task(hand->maker, hand->record);
  }
}

// After the actions that asked, as the answer makes further ones.
void Store::find_makers() {
  Actions actions;
  for (const FindMaker& find : std::exchange(finds_, {})) {
    ProcessId maker = options_.find_maker ? options_.find_maker(find.job, find.tried) : kNoProcess;
    nodes_.maker_found(find.id, maker, actions);
  }
  perform(actions);
}

}  // namespace sheaf::objstore
