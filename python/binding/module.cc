// sheaf._core: plain C types and functions for what is called millions of times, nanobind for the rest.
#include <nanobind/nanobind.h>

#include "python/binding/arena_buffer.h"
#include "python/binding/async.h"
#include "python/binding/async_call.h"
#include "python/binding/bound_call.h"
#include "python/binding/codec.h"
#include "python/binding/cold_api.h"
#include "python/binding/fork_server.h"
#include "python/binding/generator.h"
#include "python/binding/get_put_wait.h"
#include "python/binding/object_ref.h"
#include "python/binding/task_context.h"
#include "python/binding/template_heap.h"
#include "python/binding/thread_pool.h"
#include "python/binding/worker_loop.h"

namespace nb = nanobind;

namespace sheaf::python {

namespace {

template <class Function>
PyCFunction as_c_function(Function function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

constexpr const char* kPutDoc = R"(put($module, value, *, replicas=1, _owner=None, _tensor_transport=None)
--

Stores a value, gives a reference to it. Starts or joins a cluster when there is none.

Args:
    value: anything that can be pickled; large NumPy arrays are copied once and read without a copy.
    replicas: nodes that shall have the value's bytes, this one included, so that it outlives
        replicas - 1 of them. Others follow in the background, as far as the cluster has so many.
    _owner, _tensor_transport: accepted because programs written for Ray pass them; no effect.

Raises: TypeError for a reference or for what cannot be pickled (naming the attribute), ValueError
for replicas below 1, ObjectStoreFullError.

Example::

    ref = sheaf.put([1, 2, 3])
)";

constexpr const char* kGetDoc = R"(get($module, /, object_refs, timeout=None)
--

The value of a reference, or the list of values of a list of references; waits for them.

Args:
    object_refs: an ObjectRef or a list of them. Arrays come back as read-only views of shared memory.
    timeout: seconds to wait at most; None waits for ever, 0 only looks.

Raises: the exception of the task that failed (RayTaskError, also of the user's own type), GetTimeoutError
(a TimeoutError), TaskCancelledError, RayActorError, ObjectLostError; ValueError or TypeError for what is
no reference.

Example::

    assert sheaf.get([sheaf.put(1), sheaf.put(2)]) == [1, 2]
)";

PyMethodDef g_functions[] = {
    {"put", as_c_function(py_put), METH_FASTCALL | METH_KEYWORDS, kPutDoc},
    {"get", as_c_function(py_get), METH_FASTCALL | METH_KEYWORDS, kGetDoc},
    {"wait", as_c_function(py_wait), METH_FASTCALL | METH_KEYWORDS, "Splits references into ready and not ready."},
    {"worker_main", py_worker_main, METH_NOARGS, "Serves tasks until the worker shall leave."},
    {"_await_submitted", py_await_submitted, METH_NOARGS, nullptr},
    {"_pool_thread", py_pool_thread, METH_O, nullptr},
    {"_ref_at", ref_at, METH_O, nullptr},
    {"_note_ref", note_ref, METH_O, nullptr},
    {"_rebuild_ref", rebuild_ref, METH_O, nullptr},
    {"_ready_fd", py_ready_fd, METH_NOARGS, nullptr},
    {"_notify", py_notify, METH_O, nullptr},
    {"_take_ready", py_take_ready, METH_NOARGS, nullptr},
    {"_task_fd", py_task_fd, METH_NOARGS, nullptr},
    {"_loop_fd", py_loop_fd, METH_NOARGS, nullptr},
    {"_loop_sleep", py_loop_sleep, METH_O, nullptr},
    {"_loop_woke", py_loop_woke, METH_NOARGS, nullptr},
    {"_cancel_fd", py_cancel_fd, METH_NOARGS, nullptr},
    {"_take_calls", py_take_calls, METH_NOARGS, nullptr},
    {"_take_cancelled", py_take_cancelled, METH_NOARGS, nullptr},
    {"_exiting", py_exiting, METH_NOARGS, nullptr},
    {"_next_request", as_c_function(py_next_request), METH_FASTCALL, nullptr},
    {"_fill_heap_gaps", py_fill_heap_gaps, METH_NOARGS, nullptr},
    {"_async_variable", py_async_variable, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr}};

void add_type(nb::module_& m, const char* name, PyTypeObject* type) {
  if (PyModule_AddObjectRef(m.ptr(), name, reinterpret_cast<PyObject*>(type)) < 0) throw nb::python_error();
}

}  // namespace

NB_MODULE(_core, m) {
  nb::set_leak_warnings(false);
  if (!ready_object_ref_type() || !ready_generator_type() || !ready_bound_call_types() ||
      !ready_arena_buffer_types() || !ready_async_types() || !ready_async_call_type()) {
    throw nb::python_error();
  }
  add_type(m, "ObjectRef", &ObjectRefType);
  add_type(m, "ObjectRefGenerator", &ObjectRefGeneratorType);
  add_type(m, "BoundTask", &BoundTaskType);
  add_type(m, "BoundMethod", &BoundMethodType);
  if (PyModule_AddFunctions(m.ptr(), g_functions) < 0) throw nb::python_error();
  bind_connection(m);
  bind_cold_api(m);
  m.def("_main_task_cancelled", &main_task_cancelled);
}

}  // namespace sheaf::python
