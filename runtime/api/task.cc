#include "runtime/api/task.h"

namespace sheaf::internal {

void submit_task(Connection& c, runtime::TemplateId id, const CallBuffer& call, Slot* returns) {
  check(c.runtime->submit(id, call.arguments(), current_cookie(), returns));
}

FunctionEntry* function_or_throw(const PointerKey& key) {
  FunctionEntry* entry = find_function(key);
  if (!entry) throw_argument("this function is not registered: write SHEAF_REMOTE(its name); where it is defined");
  return entry;
}

}  // namespace sheaf::internal
