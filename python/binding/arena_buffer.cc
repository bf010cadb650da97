#include "python/binding/arena_buffer.h"

#include <vector>

#include "runtime/release_arena.h"

namespace sheaf::python {

namespace {

struct PinObject {
  PyObject_HEAD
  uint32_t epoch;
  uint64_t pin;
};

struct ArenaBufferObject {
  PyObject_HEAD
  PyObject* pin;
  const char* data;
  Py_ssize_t size;
};

PyTypeObject PinType = {PyVarObject_HEAD_INIT(nullptr, 0)};
PyTypeObject ArenaBufferType = {PyVarObject_HEAD_INIT(nullptr, 0)};

// By epoch. Guarded by the interpreter lock.
std::vector<size_t>& live_pins() {
  static auto* counts = new std::vector<size_t>();
  return *counts;
}

void pin_dealloc(PyObject* self) {
  auto* pin = reinterpret_cast<PinObject*>(self);
  const bool last = --live_pins()[pin->epoch] == 0;
  if (Runtime* rt = runtime_of_epoch(pin->epoch)) rt->unpin(pin->pin);
  else if (last) release_unseen_arena(pin->epoch);
  PyObject_Free(self);
}

void buffer_dealloc(PyObject* self) {
  Py_XDECREF(reinterpret_cast<ArenaBufferObject*>(self)->pin);
  PyObject_Free(self);
}

int buffer_get(PyObject* self, Py_buffer* view, int flags) {
  auto* buffer = reinterpret_cast<ArenaBufferObject*>(self);
  return PyBuffer_FillInfo(view, self, const_cast<char*>(buffer->data), buffer->size, 1, flags);
}

PyBufferProcs buffer_procs = {buffer_get, nullptr};

}  // namespace

void release_unseen_arena(uint32_t epoch) {
  if (g_engine.forked || epoch == 0) return;   // a child shares its parent's past
  if (epoch < live_pins().size() && live_pins()[epoch] > 0) return;
  if (Runtime* rt = past_runtime(epoch)) runtime::release_arena(*rt);
}

PyObject* new_pin(uint64_t pin) {
  PinObject* self = PyObject_New(PinObject, &PinType);
  if (!self) {
    if (g_engine.runtime) g_engine.runtime->unpin(pin);
    return nullptr;
  }
  self->epoch = g_engine.epoch;
  self->pin = pin;
  if (live_pins().size() <= self->epoch) live_pins().resize(self->epoch + 1);
  ++live_pins()[self->epoch];
  return reinterpret_cast<PyObject*>(self);
}

PyObject* new_arena_buffer(PyObject* pin, const char* data, size_t size) {
  ArenaBufferObject* self = PyObject_New(ArenaBufferObject, &ArenaBufferType);
  if (!self) return nullptr;
  self->pin = Py_NewRef(pin);
  self->data = data;
  self->size = static_cast<Py_ssize_t>(size);
  return reinterpret_cast<PyObject*>(self);
}

bool ready_arena_buffer_types() {
  PinType.tp_name = "sheaf._core.Pin";
  PinType.tp_basicsize = sizeof(PinObject);
  PinType.tp_flags = Py_TPFLAGS_DEFAULT;
  PinType.tp_dealloc = pin_dealloc;
  ArenaBufferType.tp_name = "sheaf._core.ArenaBuffer";
  ArenaBufferType.tp_basicsize = sizeof(ArenaBufferObject);
  ArenaBufferType.tp_flags = Py_TPFLAGS_DEFAULT;
  ArenaBufferType.tp_dealloc = buffer_dealloc;
  ArenaBufferType.tp_as_buffer = &buffer_procs;
  return PyType_Ready(&PinType) == 0 && PyType_Ready(&ArenaBufferType) == 0;
}

}  // namespace sheaf::python
