#include "python/binding/bound_call.h"

#include <new>

#include "python/binding/codec.h"
#include "python/binding/dicts.h"
#include "python/binding/generator.h"
#include "python/binding/object_ref.h"
#include "python/binding/task_context.h"
#include "runtime/value.h"

namespace sheaf::python {

namespace {

constexpr uint16_t kReturnsOnStack = 16;

struct BoundCall {
  PyObject_HEAD
  CallOptions* options;
  PyObject* check;                  // null: no check
  long least_args, most_args;
  runtime::TemplateId definition;   // valid in connection `epoch`
  uint32_t epoch;
  ActorId actor;                    // nil: a function
  uint32_t hold_epoch;              // connection in which this object holds the actor; 0: it does not (option "weak")
};

BoundCall* as_call(PyObject* o) { return reinterpret_cast<BoundCall*>(o); }

// A TypeError now, in the caller, rather than in a worker later.
bool check_arguments(BoundCall* self, PyObject* const* args, Py_ssize_t nargs, PyObject* names) {
  if (!names && nargs >= self->least_args && nargs <= self->most_args) [[likely]] return true;
  if (!self->check) return true;
  Ref positional(PyTuple_New(nargs)), keywords(PyDict_New());
  if (!positional || !keywords) return false;
  for (Py_ssize_t i = 0; i < nargs; ++i) PyTuple_SET_ITEM(positional.get(), i, Py_NewRef(args[i]));
  for (Py_ssize_t i = 0; names && i < PyTuple_GET_SIZE(names); ++i) {
    if (PyDict_SetItem(keywords.get(), PyTuple_GET_ITEM(names, i), args[nargs + i]) < 0) return false;
  }
  Ref done(PyObject_CallFunctionObjArgs(self->check, positional.get(), keywords.get(), nullptr));
  return static_cast<bool>(done);
}

bool define(BoundCall* self, Runtime* rt) {
  self->definition = rt->define_template(self->options->task);
  self->epoch = g_engine.epoch;
  return true;
}

PyObject* wrap_results(const CallOptions& options, const Slot* slots) {
  if (options.streaming) return new_generator(slots[0]);
  if (options.n_returns == 1) [[likely]] return new_ref(slots[0]);
  if (options.n_returns == 0) {
    if (g_engine.runtime) g_engine.runtime->release(slots[0]);
    Py_RETURN_NONE;
  }
  Ref list(PyList_New(options.n_returns));
  for (int i = 0; list && i < options.n_returns; ++i) {
    PyObject* ref = new_ref(slots[i]);
    if (!ref) return nullptr;
    PyList_SET_ITEM(list.get(), i, ref);
  }
  return list.release();
}

PyObject* call_remote(PyObject* object, PyObject* const* args, Py_ssize_t nargs, PyObject* names) {
  BoundCall* self = as_call(object);
  Runtime* rt = runtime_or_raise();
  if (!rt || !check_arguments(self, args, nargs, names)) return nullptr;
  FrameScope frame;
  frame->plain = self->options->plain;
  if (!encode_call(*frame, args, nargs, names)) return nullptr;
  rt = runtime_of_frame(*frame);   // pickling may have run anything, a shutdown too
  if (!rt || (self->epoch != g_engine.epoch && !define(self, rt))) return nullptr;
  const CallOptions& options = *self->options;
  Slot on_stack[kReturnsOnStack];
  std::vector<Slot> many;
  Slot* slots = on_stack;
  if (options.n_returns > kReturnsOnStack) {
    many.resize(static_cast<size_t>(options.n_returns));
    slots = many.data();
  }
  runtime::Arguments arguments;
  arguments.payload = std::as_bytes(std::span(frame->bytes.data(), frame->bytes.size()));
  arguments.deps = frame->deps;
  if (!frame->refs.empty()) arguments.nested = frame->nested_slots(0);
  Status status = self->actor.is_nil()
                      ? rt->submit(self->definition, arguments, current_parent(), slots)
                      : rt->submit_method(self->actor, self->definition, arguments, options.max_task_retries,
                                          options.max_pending_calls, current_parent(), slots);
  if (!status.is_ok()) [[unlikely]] return raise_status(status);
  return wrap_results(options, slots);
}

BoundCall* create(PyTypeObject* type, const nb::dict& dict) {
  auto options = std::make_unique<CallOptions>(call_options_from(dict));
  BoundCall* self = PyObject_GC_New(BoundCall, type);
  if (!self) throw nb::python_error();
  self->least_args = options->least_args;
  self->most_args = options->most_args;
  nb::object check = std::move(options->check);
  self->check = check.is_valid() && !check.is_none() ? check.release().ptr() : nullptr;
  self->options = options.release();
  self->epoch = 0;
  self->actor = {};
  self->hold_epoch = 0;
  PyObject_GC_Track(self);
  return self;
}

// Runs `make` with C++ exceptions turned into Python's.
template <class Make>
PyObject* guarded(Make make) {
  try {
    return reinterpret_cast<PyObject*>(make());
  } catch (nb::python_error& e) {
    e.restore();
  } catch (nb::builtin_exception& e) {
    PyErr_SetString(e.type() == nb::exception_type::type_error ? PyExc_TypeError : PyExc_ValueError, e.what());
  } catch (const std::bad_cast&) {
    PyErr_SetString(PyExc_TypeError, "an option has the wrong type");
  } catch (const std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
  }
  return nullptr;
}

PyObject* new_task(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  PyObject *function = nullptr, *dict = nullptr;
  static const char* const names[] = {"function_id", "options", nullptr};
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!", const_cast<char**>(names), &function, &PyDict_Type, &dict)) {
    return nullptr;
  }
  FunctionId id;
  if (!id_from_object(function, "a function id", &id.hi, &id.lo)) return nullptr;
  return guarded([&] {
    BoundCall* self = create(type, nb::borrow<nb::dict>(dict));
    self->options->task.function = id;
    return self;
  });
}

PyObject* new_method(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  PyObject *actor = nullptr, *name = nullptr, *dict = nullptr;
  static const char* const names[] = {"actor_id", "method", "options", nullptr};
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OUO!", const_cast<char**>(names), &actor, &name, &PyDict_Type,
                                   &dict)) {
    return nullptr;
  }
  ActorId id;
  if (!id_from_object(actor, "an actor id", &id.hi, &id.lo)) return nullptr;
  return guarded([&] {
    BoundCall* self = create(type, nb::borrow<nb::dict>(dict));
    self->actor = id;
    PyObject* weak = PyDict_GetItemString(dict, "weak");
    if (g_engine.runtime && weak != Py_True) {
      g_engine.runtime->retain_actor(id);
      self->hold_epoch = g_engine.epoch;
    }
    self->options->task.flags |= runtime::kActorMethod;
    self->options->task.method = text_of(name);
    return self;
  });
}

int call_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(as_call(self)->check);
  return 0;
}

int call_clear(PyObject* self) {
  Py_CLEAR(as_call(self)->check);
  return 0;
}

void call_dealloc(PyObject* self) {
  PyObject_GC_UnTrack(self);
  call_clear(self);
  if (Runtime* rt = runtime_of_epoch(as_call(self)->hold_epoch)) rt->release_actor(as_call(self)->actor);
  delete as_call(self)->options;
  PyObject_GC_Del(self);
}

PyMethodDef call_methods[] = {
    {"remote", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call_remote)), METH_FASTCALL | METH_KEYWORDS,
     "Submits the call; returns at once."},
    {nullptr, nullptr, 0, nullptr}};

bool ready(PyTypeObject* t, const char* name, newfunc make) {
  t->tp_name = name;
  t->tp_basicsize = sizeof(BoundCall);
  t->tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC;
  t->tp_new = make;
  t->tp_dealloc = call_dealloc;
  t->tp_traverse = call_traverse;
  t->tp_clear = call_clear;
  t->tp_methods = call_methods;
  return PyType_Ready(t) == 0;
}

}  // namespace

PyTypeObject BoundTaskType = {PyVarObject_HEAD_INIT(nullptr, 0)};
PyTypeObject BoundMethodType = {PyVarObject_HEAD_INIT(nullptr, 0)};

bool ready_bound_call_types() {
  return ready(&BoundTaskType, "sheaf._core.BoundTask", new_task) &&
         ready(&BoundMethodType, "sheaf._core.BoundMethod", new_method);
}

bool encode_call(Frame& frame, PyObject* const* args, Py_ssize_t nargs, PyObject* names) {
  Py_ssize_t keywords = names ? PyTuple_GET_SIZE(names) : 0;
  char* head = frame.bytes.extend(9);
  head[0] = static_cast<char>(runtime::ValueTag::kArguments);
  uint32_t counts[2] = {static_cast<uint32_t>(nargs), static_cast<uint32_t>(keywords)};
  memcpy(head + 1, counts, sizeof counts);
  for (Py_ssize_t i = 0; i < nargs; ++i) {
    if (!encode_argument(frame, args[i])) [[unlikely]] return false;
  }
  for (Py_ssize_t i = 0; i < keywords; ++i) {
    if (!encode_value(frame, PyTuple_GET_ITEM(names, i)) || !encode_argument(frame, args[nargs + i])) return false;
  }
  return true;
}

}  // namespace sheaf::python
