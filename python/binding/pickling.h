// The way to Python's pickle, for values that have no native encoding.
#pragma once

#include "python/binding/codec.h"

namespace sheaf::python {

// Appends kPickle, kPickleRefs or kPickleBuffers.
bool pickle_value(Frame& frame, PyObject* value);
// `data` is any bytes-like object; `buffers` a list of them, or null.
PyObject* unpickle(PyObject* data, PyObject* buffers);

}  // namespace sheaf::python
