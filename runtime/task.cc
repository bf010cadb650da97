#include "runtime/task.h"

#include <new>

namespace sheaf::runtime {

void TaskList::push_back(Task* t) {
  t->list = this;
  t->prev = tail;
  t->next = nullptr;
  (tail ? tail->next : head) = t;
  tail = t;
  ++size;
}

void TaskList::push_front(Task* t) {
  t->list = this;
  t->prev = nullptr;
  t->next = head;
  (head ? head->prev : tail) = t;
  head = t;
  ++size;
}

void TaskList::insert_after(Task* place, Task* t) {
  if (!place) return push_front(t);
  if (place == tail) return push_back(t);
  t->list = this;
  t->prev = place;
  t->next = place->next;
  place->next->prev = t;
  place->next = t;
  ++size;
}

void TaskList::remove(Task* t) {
  (t->prev ? t->prev->next : head) = t->next;
  (t->next ? t->next->prev : tail) = t->prev;
  t->prev = t->next = nullptr;
  t->list = nullptr;
  --size;
}

Task* TaskPool::create(uint16_t n_returns, const Arguments& args) {
  size_t slots = n_returns + args.deps.size() + args.nested.size();
  size_t bytes = sizeof(Task) + slots * sizeof(Slot) + args.payload.size();
  size_t kind = kind_of(bytes);
  void* memory = nullptr;
  if (kind == kKinds) {
    memory = malloc(bytes);
  } else if (spare_[kind].empty()) {
    memory = malloc(kBlockBytes[kind]);
  } else {
    memory = spare_[kind].back();
    spare_[kind].pop_back();
  }
  Task* t = new (memory) Task();
  t->n_returns = n_returns;
  t->n_deps = static_cast<uint32_t>(args.deps.size());
  t->n_nested = static_cast<uint32_t>(args.nested.size());
  t->payload_bytes = static_cast<uint32_t>(args.payload.size());
  if (t->n_deps > 0) std::memcpy(t->deps(), args.deps.data(), args.deps.size_bytes());
  if (t->n_nested > 0) std::memcpy(t->nested(), args.nested.data(), args.nested.size_bytes());
  if (t->payload_bytes > 0) std::memcpy(t->payload(), args.payload.data(), args.payload.size());
  return t;
}

}  // namespace sheaf::runtime
