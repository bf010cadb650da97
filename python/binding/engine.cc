#include "python/binding/engine.h"

#include <pthread.h>
#include <unistd.h>

#include <mutex>
#include <vector>

namespace sheaf::python {

Engine g_engine;

namespace {

// By epoch. Never shrinks: a Runtime lives until the process ends.
std::vector<Runtime*>& past() {
  static auto* list = new std::vector<Runtime*>{nullptr};
  return *list;
}

void poison_child() {
  if (g_engine.runtime) g_engine.forked = true;
  g_engine.runtime = nullptr;
  g_engine.epoch = 0;
}

}  // namespace

bool is_main_thread() { return gettid() == getpid(); }

void park_forever() {
  for (;;) pause();
}

Runtime* runtime_or_raise() {
  if (g_engine.runtime) [[likely]] return g_engine.runtime;
  if (g_engine.forked) {
    PyErr_SetString(PyExc_RuntimeError,
                    "This process was forked from one that is connected to a Sheaf cluster, and the connection does "
                    "not survive a fork. Use the 'spawn' or 'forkserver' start method, or a Sheaf task.");
  } else {
    PyErr_SetString(PyExc_RuntimeError, "Sheaf is not connected: call sheaf.init() first.");
  }
  return nullptr;
}

Runtime* runtime_or_connect() {
  if (g_engine.runtime) [[likely]] return g_engine.runtime;
  if (g_engine.forked) return runtime_or_raise();
  static PyObject* ensure = nullptr;
  PyObject* connect = imported(&ensure, "sheaf._state", "ensure_connected");
  Ref done(connect ? PyObject_CallNoArgs(connect) : nullptr);
  return done ? runtime_or_raise() : nullptr;
}

Runtime* past_runtime(uint32_t epoch) { return epoch < past().size() ? past()[epoch] : nullptr; }

void engine_connected(Runtime* rt, bool worker) {
  static std::once_flag once;
  std::call_once(once, [] { pthread_atfork(nullptr, nullptr, poison_child); });
  past().push_back(rt);
  g_engine.runtime = rt;
  g_engine.epoch = static_cast<uint32_t>(past().size() - 1);
  g_engine.forked = false;
  g_engine.is_worker = worker;
}

Runtime* engine_detach() {
  Runtime* rt = g_engine.runtime;
  g_engine.runtime = nullptr;
  g_engine.epoch = 0;
  return rt;
}

void id_to_binary(uint64_t hi, uint64_t lo, char* out) {
  hi = __builtin_bswap64(hi);
  lo = __builtin_bswap64(lo);
  memcpy(out, &hi, 8);
  memcpy(out + 8, &lo, 8);
}

bool id_from_binary(const char* data, size_t size, uint64_t* hi, uint64_t* lo) {
  if (size != 16) return false;
  memcpy(hi, data, 8);
  memcpy(lo, data + 8, 8);
  *hi = __builtin_bswap64(*hi);
  *lo = __builtin_bswap64(*lo);
  return true;
}

bool id_from_object(PyObject* object, const char* what, uint64_t* hi, uint64_t* lo) {
  if (!PyBytes_Check(object)) {
    PyErr_Format(PyExc_TypeError, "%s is made of 16 bytes, not of %.100s", what, Py_TYPE(object)->tp_name);
    return false;
  }
  if (!id_from_binary(PyBytes_AS_STRING(object), static_cast<size_t>(PyBytes_GET_SIZE(object)), hi, lo)) {
    PyErr_Format(PyExc_ValueError, "%s takes 16 bytes, got %zd", what, PyBytes_GET_SIZE(object));
    return false;
  }
  return true;
}

PyObject* imported(PyObject** cache, const char* module, const char* name) {
  if (*cache) [[likely]] return *cache;
  Ref m(PyImport_ImportModule(module));
  if (!m) return nullptr;
  *cache = PyObject_GetAttrString(m.get(), name);
  return *cache;
}

Ref take_exception() {
#if PY_VERSION_HEX >= 0x030c0000
  return Ref(PyErr_GetRaisedException());
#else
  PyObject *type = nullptr, *value = nullptr, *trace = nullptr;
  PyErr_Fetch(&type, &value, &trace);
  if (!type) return Ref();
  PyErr_NormalizeException(&type, &value, &trace);
  if (trace) PyException_SetTraceback(value, trace);
  Py_XDECREF(type);
  Py_XDECREF(trace);
  return Ref(value);
#endif
}

}  // namespace sheaf::python
