#include "runtime/api/objects.h"

namespace sheaf {

namespace internal {

std::vector<size_t> wait_indices(std::span<const RefBase* const> refs, size_t needed, Deadline deadline) {
  if (needed > refs.size()) throw_argument("wait(): num_returns is larger than the number of references");
  std::vector<size_t> ready;
  if (refs.empty()) return ready;
  std::vector<Slot> slots;
  for (const RefBase* ref : refs) {
    if (!*ref) throw_argument("wait(): one of the references refers to nothing");
    slots.push_back(ref->slot());
  }
  Status status = wait_for(refs[0]->runtime(), slots, needed, deadline);
  if (status.code() != StatusCode::kTimeout) check(status);
  for (size_t i = 0; i < refs.size() && ready.size() < needed; ++i) {
    if (refs[i]->is_ready()) ready.push_back(i);
  }
  return ready;
}

bool next_of_stream(const RefBase& generator, Deadline deadline, Slot* item) {
  if (!generator) return false;
  for (;;) {
    bool done = false;
    switch (generator.runtime()->next_item(generator.slot(), deadline, item, &done)) {
      case runtime::WaitOutcome::kReady: return true;
      case runtime::WaitOutcome::kTimeout:
        throw_status(Status(StatusCode::kTimeout, "the next item was not there in time"));
      case runtime::WaitOutcome::kDisconnected:
        if (done) return false;
        throw_status(Status(StatusCode::kDisconnected, "the cluster is gone"));
      case runtime::WaitOutcome::kInterrupted: break;
    }
  }
}

}  // namespace internal

bool cancel(const internal::RefBase& ref, bool force, bool recursive) {
  if (!ref) internal::throw_argument("cancel() of an ObjectRef that refers to nothing");
  return internal::check(ref.runtime()->cancel(ref.slot(), force, recursive));
}

bool cancelled() { return internal::current_task_cancelled(); }

}  // namespace sheaf
