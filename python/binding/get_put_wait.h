// put, get and wait as Python sees them, and reading one object's value.
#pragma once

#include "python/binding/engine.h"

namespace sheaf::python {

// Waits with the interpreter lock held for a moment, then without it, until `needed` of the slots are ready. False with
// an exception set: the deadline (GetTimeoutError if `raise_timeout`, else true is returned), a signal handler that
// raised, or the loss of the node daemon. `fail_fast`: returns true as soon as some slot holds an error.
struct WaitRequest {
  std::span<const Slot> slots;
  size_t needed = 1;
  runtime::Deadline deadline = runtime::kNever;
  bool raise_timeout = true;
  bool fail_fast = false;
};
bool wait_for(Runtime* rt, const WaitRequest& request);

// The value of an object; waits for it when need be. An error value is raised.
PyObject* read_object(Runtime* rt, Slot slot, runtime::Deadline deadline = runtime::kNever);
// None = never. False with an exception set for other types and negative numbers.
bool parse_timeout(PyObject* timeout, runtime::Deadline* deadline);

PyObject* py_put(PyObject* module, PyObject* const* args, Py_ssize_t nargs, PyObject* names);
PyObject* py_get(PyObject* module, PyObject* const* args, Py_ssize_t nargs, PyObject* names);
PyObject* py_wait(PyObject* module, PyObject* const* args, Py_ssize_t nargs, PyObject* names);

}  // namespace sheaf::python
