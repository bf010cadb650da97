// References in event loops: await, .future() and the completion notices behind them. The bookkeeping is Python
// (sheaf/_async.py), imported at the first use; it watches one descriptor of the engine per loop.
#pragma once

#include "python/binding/engine.h"

namespace sheaf::python {

bool ready_async_types();
PyObject* make_awaitable(PyObject* ref);                     // am_await of ObjectRef
PyObject* make_future(PyObject* ref, PyObject* unused);      // ObjectRef.future()
PyObject* make_loop_future(PyObject* ref, PyObject* unused, PyObject* unused_names);   // ObjectRef.as_future()
PyObject* make_async_next(PyObject* generator);              // am_anext of ObjectRefGenerator

// Module functions for _async.py.
PyObject* py_ready_fd(PyObject* module, PyObject* unused);
PyObject* py_notify(PyObject* module, PyObject* ref_or_generator);   // -> the key that take_ready() will give
PyObject* py_take_ready(PyObject* module, PyObject* unused);         // -> list of keys

}  // namespace sheaf::python
