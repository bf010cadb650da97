// The threads of a threaded actor. Each concurrency group has threads of its own, made as they are needed up to its
// limit; calls of a group start in the order in which they came. The main thread is one of the default group's: where
// its limit is 1 all its calls run there.
//
// One idle thread of any group leads: it waits for calls outside of the interpreter lock and gives each to its group.
// Before it runs a call of its own the lead goes on to another. So while a method holds the interpreter lock the next
// call queues for it, and starts the moment the method blocks or ends. Needs the interpreter lock.
#pragma once

#include <string>

#include "python/binding/engine.h"

namespace sheaf::python {

// Whether this worker's actor runs several calls at a time.
bool is_threaded();
// Serves calls in the main thread, and in those that it starts, until the worker shall leave and what runs has ended.
void serve_threads(Runtime* rt);
// Body of one more thread of a group; `_worker.py` starts it.
PyObject* py_pool_thread(PyObject* module, PyObject* group_name);

}  // namespace sheaf::python
