// The worker's main loop.
#pragma once

#include "python/binding/engine.h"

namespace sheaf::python {

// Serves tasks in the calling (main) thread until the worker shall leave. Returns the exit code.
PyObject* py_worker_main(PyObject* module, PyObject* unused);
// Waits until what this process has submitted has its results.
PyObject* py_await_submitted(PyObject* module, PyObject* unused);

}  // namespace sheaf::python
