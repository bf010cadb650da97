// AsyncCall: one call of an async actor as its event loop sees it, and the module functions around it.
#pragma once

#include "python/binding/engine.h"

namespace sheaf::python {

bool ready_async_call_type();
PyObject* py_task_fd(PyObject* module, PyObject* unused);
PyObject* py_loop_fd(PyObject* module, PyObject* unused);
PyObject* py_loop_sleep(PyObject* module, PyObject* may_spin);
PyObject* py_loop_woke(PyObject* module, PyObject* unused);
PyObject* py_cancel_fd(PyObject* module, PyObject* unused);
PyObject* py_take_calls(PyObject* module, PyObject* unused);
PyObject* py_take_cancelled(PyObject* module, PyObject* unused);
PyObject* py_exiting(PyObject* module, PyObject* unused);
PyObject* py_async_variable(PyObject* module, PyObject* unused);

}  // namespace sheaf::python
