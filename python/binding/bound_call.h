// BoundTask and BoundMethod: `remote` as the engine's own call. Options are resolved once, at creation; a call encodes
// its arguments and submits, with no Python code in between unless an argument needs pickling.
#pragma once

#include "python/binding/engine.h"

namespace sheaf::python {

extern PyTypeObject BoundTaskType;
extern PyTypeObject BoundMethodType;
bool ready_bound_call_types();

class Frame;
// Appends a call's arguments to the frame (kArguments). False with an exception set.
bool encode_call(Frame& frame, PyObject* const* args, Py_ssize_t nargs, PyObject* names);

}  // namespace sheaf::python
