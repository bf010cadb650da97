// What a template does to its heaps before it forks. For a process with one thread.
//
// It takes the gaps between what is used, for good, and gives whole pages among them back to the system: a child
// allocates a few hundred blocks before its first task, and from gaps each lies on a page of its own, which is copied
// for the child at 3 us; behind everything that is used they lie together. And it makes large pages of small ones: a
// fork copies an entry for each.
#pragma once

#include "python/binding/engine.h"

namespace sheaf::python {

// _fill_heap_gaps().
PyObject* py_fill_heap_gaps(PyObject* module, PyObject* none);

// Worth its milliseconds where many processes are forked. What children have of the small pages stays theirs: that
// memory is there twice until they end.
void join_heap_pages();

}  // namespace sheaf::python
