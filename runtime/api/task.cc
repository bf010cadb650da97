#include "runtime/api/task.h"

namespace sheaf::internal {

Slot submit_task(Connection& c, runtime::TemplateId id, const CallBuffer& call) {
  Slot slot = kNoSlot;
  check(c.runtime->submit(id, call.arguments(), current_cookie(), &slot));
  return slot;
}

FunctionEntry* function_or_throw(const PointerKey& key) {
  FunctionEntry* entry = find_function(key);
  if (!entry) throw_argument("this function is not registered: write SHEAF_REMOTE(its name); where it is defined");
  return entry;
}

}  // namespace sheaf::internal
