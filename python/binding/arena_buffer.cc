#include "python/binding/arena_buffer.h"

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

void pin_dealloc(PyObject* self) {
  auto* pin = reinterpret_cast<PinObject*>(self);
  if (Runtime* rt = runtime_of_epoch(pin->epoch)) rt->unpin(pin->pin);
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

PyObject* new_pin(uint64_t pin) {
  PinObject* self = PyObject_New(PinObject, &PinType);
  if (!self) {
    if (g_engine.runtime) g_engine.runtime->unpin(pin);
    return nullptr;
  }
  self->epoch = g_engine.epoch;
  self->pin = pin;
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
