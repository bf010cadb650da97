// The template process's work between two of its jobs: it forks what the node daemon asks for and reports what ended.
//
// In C++ because each page that the template writes between two forks is copied for it anew: one that ran Python there
// took a hundred faults a fork. Requests that lie there together are forked one right after the other. The interpreter
// lock is held but for the wait. Owned by the template's only thread.
#pragma once

#include "python/binding/engine.h"

namespace sheaf::python {

// _next_request(channel, timeout_ms, read, only_known_hooks, become). Serves fork requests until there is something that
// is Python's business:
//   None      nothing came for timeout_ms (never when that is negative)
//   bytes     any other message of the daemon; empty at the end of the channel
// A child calls become(read(request) with its token) and never returns from that: in a session of its own, its parent's
// death is its own, the request's descriptors are its standard output and standard error. Where the dict has a
// "directory" (bytes), no environment has to be made: it is there then, and the channel is closed.
// `only_known_hooks`: none of os.register_at_fork() has anything to do in a child of a process with one thread.
PyObject* py_next_request(PyObject* module, PyObject* const* arguments, Py_ssize_t count);

}  // namespace sheaf::python
