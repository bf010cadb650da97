// What a template does to its heaps before it forks: it takes the gaps between what is used, for good, and gives whole
// pages among them back to the system.
//
// A child allocates a few hundred blocks before its first task. From gaps each lies on a page of its own, which is
// copied for the child at 3 us; behind everything that is used they lie together. For a process with one thread.
#pragma once

#include "python/binding/engine.h"

namespace sheaf::python {

// _fill_heap_gaps().
PyObject* py_fill_heap_gaps(PyObject* module, PyObject* none);

}  // namespace sheaf::python
