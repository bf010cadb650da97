// What the extension knows about its process: the runtime, once connected, and the number of that connection.
//
// Guarded by the interpreter lock. After a fork in user code the child's engine is poisoned: runtime() raises, and
// destructors only free memory. A reference made on an earlier connection is dead but harmless.
#pragma once

#include "python/binding/py.h"
#include "core/ids.h"
#include "core/status.h"
#include "runtime/runtime.h"

namespace sheaf::python {

using runtime::Bytes;
using runtime::Runtime;
using runtime::Slot;

struct Engine {
  Runtime* runtime = nullptr;   // null: not connected, shut down, or forked
  uint32_t epoch = 0;           // of `runtime`; 0 while there is none
  bool forked = false;
  bool is_worker = false;
};
extern Engine g_engine;

// The runtime, or null with RuntimeError set.
Runtime* runtime_or_raise();
// Starts or joins a cluster first when there is none.
Runtime* runtime_or_connect();
inline Runtime* runtime_of_epoch(uint32_t epoch) {
  return epoch == g_engine.epoch && epoch != 0 ? g_engine.runtime : nullptr;
}
// Also of connections that have ended: their tables can still be read.
Runtime* past_runtime(uint32_t epoch);
// The first connection installs the fork handlers.
void engine_connected(Runtime* rt, bool worker);
// Nothing reaches the runtime from here on. Returns what has to be shut down, or null.
Runtime* engine_detach();

// Ids in Python are 16 bytes, most significant first, so that .binary().hex() == .hex().
void id_to_binary(uint64_t hi, uint64_t lo, char* out);
bool id_from_binary(const char* data, size_t size, uint64_t* hi, uint64_t* lo);
template <class Tag>
PyObject* id_bytes(const Id<Tag>& id) {
  char raw[16];
  id_to_binary(id.hi, id.lo, raw);
  return PyBytes_FromStringAndSize(raw, sizeof raw);
}
// From a bytes object of 16 bytes; false with ValueError or TypeError set, which calls it `what`.
bool id_from_object(PyObject* object, const char* what, uint64_t* hi, uint64_t* lo);

// ---- Errors (errors.cc). Each sets the Python exception and returns null.
PyObject* raise_status(const Status& status);
// sheaf.exceptions.`type`(text).
PyObject* raise_named(const char* type, const char* text);
PyObject* raise_record(Bytes encoded_record, const ObjectId& object);
// The value of `object` could not be read: RaySystemError caused by the present exception.
PyObject* raise_unreadable(const ObjectId& object);

}  // namespace sheaf::python
