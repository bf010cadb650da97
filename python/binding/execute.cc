#include "python/binding/execute.h"

#include <deque>
#include <unordered_map>

#include "python/binding/arena_buffer.h"
#include "python/binding/object_ref.h"
#include "python/binding/task_context.h"

namespace sheaf::python {

using protocol::ErrorKind;
using protocol::ErrorRecord;
using runtime::IncomingTask;
using runtime::ReturnValue;
using runtime::TaskKind;
using runtime::ValueState;

int g_exit_code = 0;

namespace {

constexpr uint32_t kAsyncMaxConcurrency = 1000;   // as sheaf.actor has it

// Functions and classes that this worker has loaded; owned, never dropped.
std::unordered_map<FunctionId, PyObject*> g_functions;
std::unordered_map<FunctionId, uint32_t> g_calls;   // of functions with max_calls

void finish_task(Runtime* rt, IncomingTask* task, std::span<const ReturnValue> values) {
  forget_task(task);
  rt->finish(task, values);
}

void fail_task(Runtime* rt, IncomingTask* task, const ErrorRecord& error, bool retryable,
               std::span<const ReturnValue> values = {}) {
  forget_task(task);
  rt->fail(task, error, retryable, values);
}

// Called from another language: values are plain data.
bool is_foreign(const IncomingTask& task) { return task.definition->blob.starts_with("py:"); }

PyObject* load_function(const runtime::TemplateDef& definition) {
  const FunctionId& id = definition.function;
  auto found = g_functions.find(id);
  if (found != g_functions.end()) [[likely]] return found->second;
  static PyObject *by_id = nullptr, *by_name = nullptr;
  bool named = definition.blob.starts_with("py:");
  PyObject* load = named ? imported(&by_name, "sheaf._worker", "load_by_name")
                         : imported(&by_id, "sheaf._worker", "load_function");
  Ref key(named ? PyUnicode_FromString(definition.blob.c_str()) : id_bytes(id));
  PyObject* function = load && key ? PyObject_CallOneArg(load, key.get()) : nullptr;
  if (function) g_functions.emplace(id, function);
  return function;
}

// Interned, kept for ever.
PyObject* method_name(const std::string& text) {
  using Names = std::unordered_map<std::string, PyObject*>;
  static auto* names = new Names();
  static const Names::value_type* last = nullptr;   // mostly the same one again
  if (last && last->first == text) [[likely]] return last->second;
  auto found = names->find(text);
  if (found == names->end()) {
    PyObject* name = PyUnicode_InternFromString(text.c_str());
    if (!name) return nullptr;
    found = names->emplace(text, name).first;
  }
  last = &*found;
  return found->second;
}

// The method as the class has it: an attribute of the instance does not hide it. What the class lacks may still be the
// instance's own, as for classes with __getattr__. A plain function is not bound: `call` gets the instance before the
// other arguments.
Ref find_method(PyObject* instance, PyObject* name, Call* call) {
  PyTypeObject* type = Py_TYPE(instance);
  Ref method = Ref::borrow(_PyType_Lookup(type, name));
  if (!method) return Ref(PyObject_GetAttr(instance, name));
  if (PyType_HasFeature(Py_TYPE(method.get()), Py_TPFLAGS_METHOD_DESCRIPTOR)) [[likely]] {
    call->add(Py_NewRef(instance));
    return method;
  }
  descrgetfunc get = Py_TYPE(method.get())->tp_descr_get;
  return get ? Ref(get(method.get(), instance, reinterpret_cast<PyObject*>(type))) : std::move(method);
}

Ref read_dependency(Runtime* rt, const IncomingTask& task, uint32_t index) {
  const runtime::ValueView& view = task.deps[index];
  if (view.state == ValueState::kError) {
    raise_record(view.bytes, task.dep_ids[index]);
    return Ref();
  }
  Ref pin;
  if (uint64_t owned = rt->retain_dep(task, index); owned != 0) pin = Ref(new_pin(owned));
  Source source{view.bytes, pin.get()};
  if (view.contained) source.refs = *view.contained;
  Ref value(decode_value(source));
  if (!value) raise_unreadable(task.dep_ids[index]);
  return value;
}

bool decode_arguments(Runtime* rt, const IncomingTask& task, Call* call) {
  Source source{task.payload, nullptr, task.nested};
  if (task.deps.empty()) [[likely]] return decode_call(source, {}, call);
  std::vector<Ref> owned;
  std::vector<PyObject*> values;
  for (uint32_t i = 0; i < task.deps.size(); ++i) {
    owned.push_back(read_dependency(rt, task, i));
    if (!owned.back()) return false;
    values.push_back(owned.back().get());
  }
  return decode_call(source, values, call);
}

// Whether the options say that a call which raised this may be run again.
bool is_retryable(const IncomingTask& task, PyObject* exception) {
  if (!(task.definition->flags & runtime::kRetryExceptions)) return false;
  if (task.definition->blob.empty() || is_foreign(task)) return true;
  static PyObject* loads = nullptr;
  PyObject* load = imported(&loads, "_pickle", "loads");
  const std::string& blob = task.definition->blob;
  Ref types(load ? PyObject_CallFunction(load, "y#", blob.data(), static_cast<Py_ssize_t>(blob.size())) : nullptr);
  int matches = types ? PyObject_IsInstance(exception, types.get()) : -1;
  if (matches < 0) PyErr_Clear();
  return matches > 0;
}

std::string bytes_of(PyObject* object) {
  if (!object || !PyBytes_Check(object)) return {};
  return {PyBytes_AS_STRING(object), static_cast<size_t>(PyBytes_GET_SIZE(object))};
}

// "ValueError: no such thing", for the state API and other languages.
std::string one_line(PyObject* exception) {
  std::string line = Py_TYPE(exception)->tp_name;
  Ref text(PyObject_Str(exception));
  const char* shown = text ? PyUnicode_AsUTF8(text.get()) : nullptr;
  if (!shown) PyErr_Clear();
  else if (*shown) line += std::string(": ") + shown;
  return line;
}

std::string pack_exception(const IncomingTask& task, PyObject* exception) {
  static PyObject* packer = nullptr;
  PyObject* pack = imported(&packer, "sheaf._worker", "pack_exception");
  Ref actor(g_actor.active ? id_bytes(g_actor.spec.actor) : Py_NewRef(Py_None));
  PyObject* instance = g_actor.instance ? g_actor.instance : Py_None;
  Ref packed(pack ? PyObject_CallFunction(pack, "OsOO", exception, task.definition->name.c_str(), instance,
                                          actor.get())
                  : nullptr);
  if (!packed) PyErr_Clear();
  return bytes_of(packed.get());
}

// Encodes one value; `out` points into the frame.
bool encode_result(Runtime* rt, const IncomingTask& task, Frame& frame, uint32_t index, PyObject* value,
                   ReturnValue* out) {
  Frame::Mark mark = frame.mark();
  if (!encode_value(frame, value)) return false;
  StoredValue stored;
  if (!store_value(frame, mark, [&](size_t size) { return rt->return_begin(task, index, size); }, &stored)) {
    return false;
  }
  out->inline_bytes = stored.bytes;
  out->nested = stored.nested;
  if (!stored.buffer) return true;
  Status status = rt->seal_return(*stored.buffer, task, stored.nested);
  if (!status.is_ok()) return raise_status(status), false;
  out->sealed = stored.buffer->locator;
  out->sealed_id = stored.buffer->id;
  return true;
}

bool answer_many(Runtime* rt, IncomingTask* task, PyObject* values) {
  std::deque<FrameScope> frames;
  std::vector<ReturnValue> out(static_cast<size_t>(PyTuple_GET_SIZE(values)));
  bool ok = true;
  for (uint32_t i = 0; ok && i < out.size(); ++i) {
    frames.emplace_back();
    frames.back()->plain = is_foreign(*task);
    ok = encode_result(rt, *task, *frames.back(), i, PyTuple_GET_ITEM(values, i), &out[i]);
  }
  if (ok) finish_task(rt, task, out);
  while (!frames.empty()) frames.pop_back();
  return ok;
}

// Of an exception that user code raised.
ErrorRecord error_record(const IncomingTask& task, PyObject* exception) {
  bool creation = task.kind == TaskKind::kActorCreation;
  ErrorRecord record;
  record.kind = creation ? ErrorKind::kActorDied : ErrorKind::kUserException;
  record.message = one_line(exception);
  record.payload = pack_exception(task, exception);
  if (creation) record.actor = task.actor->spec.actor;
  return record;
}

// The current exception, taken, if what a generator yielded before it may be kept. Null: it ends the task or the worker.
Ref take_late_error() {
  if (PyErr_ExceptionMatches(PyExc_SystemExit) || PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) return Ref();
  return take_exception();
}

// All values are there: what the generator does after the last one is for its own good only.
void run_to_the_end(PyObject* items, Py_ssize_t wanted) {
  Ref surplus(PyIter_Next(items));
  if (surplus) {
    PySys_FormatStderr("The task yields more than num_returns=%zd values: the surplus is dropped.\n", wanted);
  } else if (PyErr_Occurred()) {
    PySys_FormatStderr("The task has raised after the last of its %zd values:\n", wanted);
    PyErr_Print();
  }
}

// num_returns > 0 and a generator: each value is stored as it comes, and kept if a later one fails.
bool answer_yielded(Runtime* rt, IncomingTask* task, PyObject* items) {
  std::deque<FrameScope> frames;
  std::vector<ReturnValue> out;
  uint32_t wanted = task->definition->n_returns;
  while (out.size() < wanted) {
    Ref item(PyIter_Next(items));
    if (!item) break;
    frames.emplace_back();
    frames.back()->plain = is_foreign(*task);
    ReturnValue value;
    if (!encode_result(rt, *task, *frames.back(), static_cast<uint32_t>(out.size()), item.get(), &value)) break;
    out.push_back(value);
  }
  if (out.size() < wanted && !PyErr_Occurred()) {
    PyErr_Format(PyExc_ValueError, "Task returned %zu objects, but num_returns=%u.", out.size(), wanted);
  }
  bool answered = true;
  if (!PyErr_Occurred()) {
    run_to_the_end(items, wanted);
    finish_task(rt, task, out);
  } else if (Ref error = out.empty() ? Ref() : take_late_error()) {
    fail_task(rt, task, error_record(*task, error.get()), is_retryable(*task, error.get()), out);
  } else {
    answered = false;
  }
  while (!frames.empty()) frames.pop_back();
  return answered;
}

// The values of a task with num_returns > 1 that are there already.
Ref spread_result(PyObject* result, Py_ssize_t wanted) {
  if (!PySequence_Check(result)) {
    PyErr_Format(PyExc_ValueError, "Task returned 1 object (a %.100s), but num_returns=%zd.", Py_TYPE(result)->tp_name,
                 wanted);
    return Ref();
  }
  Ref values(PySequence_Tuple(result));
  if (values && PyTuple_GET_SIZE(values.get()) != wanted) {
    PyErr_Format(PyExc_ValueError, "Task returned %zd objects, but num_returns=%zd.", PyTuple_GET_SIZE(values.get()),
                 wanted);
    return Ref();
  }
  return values;
}

bool answer_one(Runtime* rt, IncomingTask* task, PyObject* value) {
  FrameScope frame;
  frame->plain = is_foreign(*task);
  ReturnValue out;
  if (!encode_result(rt, *task, *frame, 0, value, &out)) return false;
  finish_task(rt, task, std::span(&out, 1));
  return true;
}

// A new object with the yielded value.
Ref put_item(PyObject* item) {
  FrameScope frame;
  Frame::Mark mark = frame->mark();
  Slot slot = encode_value(*frame, item) ? put_value(*frame, mark) : runtime::kNoSlot;
  return Ref(slot == runtime::kNoSlot ? nullptr : new_ref(slot));
}

// num_returns="dynamic": every item becomes an object of its own, and their references are the result. The last one is
// the error if the generator fails.
bool answer_dynamic(Runtime* rt, IncomingTask* task, PyObject* result) {
  static PyObject* generator_class = nullptr;
  PyObject* make = imported(&generator_class, "sheaf._generators", "DynamicObjectRefGenerator");
  Ref items(make ? PyObject_GetIter(result) : nullptr);
  Ref refs(items ? PyList_New(0) : nullptr);
  if (!refs) return false;
  while (Ref item = Ref(PyIter_Next(items.get()))) {
    Ref ref = put_item(item.get());
    if (!ref || PyList_Append(refs.get(), ref.get()) < 0) break;
  }
  Ref error;
  ErrorRecord record;
  if (PyErr_Occurred()) {
    error = take_late_error();
    if (!error) return false;
    record = error_record(*task, error.get());
    Ref last(new_ref(rt->put_error(record)));
    if (!last || PyList_Append(refs.get(), last.get()) < 0) return false;
  }
  Ref value(PyObject_CallOneArg(make, refs.get()));
  if (!value || !error) return value && answer_one(rt, task, value.get());
  FrameScope frame;
  ReturnValue out;
  if (!encode_result(rt, *task, *frame, 0, value.get(), &out)) return false;
  fail_task(rt, task, record, is_retryable(*task, error.get()), std::span(&out, 1));
  return true;
}

bool answer_stream(Runtime* rt, IncomingTask* task, PyObject* result) {
  Ref items(PyObject_GetIter(result));
  if (!items) {
    PyErr_Clear();
    PyErr_Format(PyExc_TypeError, "A task with num_returns=\"streaming\" must return an iterator or be a generator "
                 "function, but it returned a %.100s.", Py_TYPE(result)->tp_name);
    return false;
  }
  for (;;) {
    Ref item(PyIter_Next(items.get()));
    if (!item) break;
    if (!send_item(rt, task, item.get())) return false;
  }
  return !PyErr_Occurred() && answer_one(rt, task, Py_None);
}

// Devices, placement and the number of threads belong to a lease or an actor: Python is told if this one, or the last
// one here, has any that are not the usual ones.
bool is_special(const protocol::ResourceMap& resources, const protocol::Strategy& strategy, bool devices) {
  static bool was_special = false;
  auto cpus = resources.find("CPU");
  bool threads = cpus != resources.end() && cpus->second != protocol::kResourceUnit;
  bool special = threads || devices || strategy.capture_child_tasks;
  return std::exchange(was_special, special) || special;
}

bool enter_lease(const IncomingTask& task) {
  static uint64_t seen = 0;
  static PyObject* enter = nullptr;
  if (!task.lease || task.lease->lease == seen) [[likely]] return true;
  seen = task.lease->lease;
  if (!is_special(task.lease->resources, task.lease->strategy, !task.lease->devices.empty())) return true;
  PyObject* function = imported(&enter, "sheaf._worker", "enter_lease");
  Ref done(function ? PyObject_CallNoArgs(function) : nullptr);
  return static_cast<bool>(done);
}

// False also when the class cannot be found: running the constructor reports that.
bool names_async_class(const runtime::TemplateDef& definition) {
  static PyObject* asker = nullptr;
  PyObject* cls = load_function(definition);
  PyObject* ask = cls ? imported(&asker, "sheaf._worker", "is_async_class") : nullptr;
  Ref answer(ask ? PyObject_CallOneArg(ask, cls) : nullptr);
  if (!answer) PyErr_Clear();
  return answer && answer.get() == Py_True;
}

AfterTask start_actor(Runtime* rt, IncomingTask* task) {
  g_actor.active = true;
  g_actor.spec = task->actor->spec;
  g_actor.incarnation = task->actor->incarnation;
  g_actor.devices = task->actor->devices;
  static PyObject* starter = nullptr;
  Call call;
  Ref made;
  {
    RunningScope scope(task, true);
    if (is_foreign(*task) && names_async_class(*task->definition)) {   // its caller could not know
      g_actor.spec.is_async = true;
      if (g_actor.spec.max_concurrency <= 1) g_actor.spec.max_concurrency = kAsyncMaxConcurrency;
    }
    PyObject* prepare = imported(&starter, "sheaf._worker", "prepare_actor");
    const protocol::SchedulingClass& placement = g_actor.spec.placement;
    PyObject* special = is_special(placement.resources, placement.strategy, !g_actor.devices.empty()) ? Py_True : Py_False;
    PyObject* args[] = {g_actor.spec.is_async ? Py_True : Py_False, special};
    Ref done(prepare ? PyObject_Vectorcall(prepare, args, 2, nullptr) : nullptr);
    Ref cls = done ? prepare_task(rt, *task, &call) : Ref();
    if (cls) made = Ref(invoke(cls.get(), &call));
  }
  if (!made) return answer_exception(rt, task);
  g_actor.instance = made.release();
  rt->actor_started(*task, std::nullopt);
  rt->finish(task, {});
  return AfterTask::kGoOn;
}

bool was_last_call(const IncomingTask& task) {
  uint32_t limit = task.definition->max_calls;
  return limit > 0 && task.kind == TaskKind::kFunction && ++g_calls[task.definition->function] >= limit;
}

}  // namespace

bool is_streaming(const IncomingTask& task) { return task.definition->flags & runtime::kStreaming; }

Ref prepare_task(Runtime* rt, const IncomingTask& task, Call* call) {
  Ref function;
  if (task.kind == TaskKind::kActorMethod) {
    if (!g_actor.instance) {
      PyErr_SetString(PyExc_RuntimeError, "the actor has no instance: its constructor failed");
      return Ref();
    }
    PyObject* name = method_name(task.definition->method);
    if (name) function = find_method(g_actor.instance, name, call);
  } else {
    if (!enter_lease(task)) return Ref();
    function = Ref::borrow(load_function(*task.definition));
  }
  if (!function || !decode_arguments(rt, task, call)) return Ref();
  return function;
}

PyObject* invoke(PyObject* function, Call* call) {
  PyObject* result = PyObject_Vectorcall(function, call->values(), call->positional, call->names.get());
  call->clear();
  return result;
}

bool answer(Runtime* rt, IncomingTask* task, PyObject* result) {
  uint32_t flags = task->definition->flags;
  if (flags & runtime::kStreaming) return answer_stream(rt, task, result);
  if (flags & runtime::kDynamicReturns) return answer_dynamic(rt, task, result);
  if (task->definition->n_returns == 1 && !PyGen_CheckExact(result)) [[likely]] return answer_one(rt, task, result);
  if (task->definition->n_returns == 0) return answer_one(rt, task, Py_None);
  if (PyIter_Check(result)) return answer_yielded(rt, task, result);
  Ref values = spread_result(result, task->definition->n_returns);
  return values && answer_many(rt, task, values.get());
}

bool send_item(Runtime* rt, IncomingTask* task, PyObject* item) {
  FrameScope frame;
  ReturnValue value;
  if (!encode_result(rt, *task, *frame, 0, item, &value)) return false;
  PyThreadState* state = release_gil();
  Status status = rt->yield_item(task, value);
  retake_gil(state);
  if (status.is_ok()) return true;
  if (status.code() == StatusCode::kCancelled) PyErr_SetNone(PyExc_KeyboardInterrupt);
  else raise_status(status);
  return false;
}

void answer_cancelled(Runtime* rt, IncomingTask* task) {
  fail_task(rt, task, ErrorRecord{ErrorKind::kCancelled, "the task was cancelled", "", {}}, false);
}

namespace {

// Whether a task that was to be cancelled has ended by that: it was interrupted, or found its children cancelled first.
bool comes_of_cancel(PyObject* exception) {
  if (PyErr_GivenExceptionMatches(exception, PyExc_KeyboardInterrupt)) return true;
  static PyObject* cancelled = nullptr;
  PyObject* type = imported(&cancelled, "sheaf.exceptions", "TaskCancelledError");
  if (!type) PyErr_Clear();
  return type && PyErr_GivenExceptionMatches(exception, type);
}

}  // namespace

AfterTask answer_exception(Runtime* rt, IncomingTask* task) {
  Ref exception = take_exception();
  bool creation = task->kind == TaskKind::kActorCreation;
  if (!exception) {
    fail_task(rt, task, ErrorRecord{ErrorKind::kSystem, "the worker failed without an exception", "", {}}, false);
    return AfterTask::kGoOn;
  }
  PyObject* e = exception.get();
  if (PyErr_GivenExceptionMatches(e, PyExc_SystemExit) && !creation) {
    static PyObject* leaver = nullptr;
    PyObject* leave = imported(&leaver, "sheaf._worker", "exit_code");
    Ref code(leave ? PyObject_CallOneArg(leave, e) : nullptr);
    g_exit_code = code ? static_cast<int>(PyLong_AsLong(code.get())) : 1;
    PyErr_Clear();
    if (g_actor.active && !rt->exiting()) {
      PyThreadState* state = release_gil();
      rt->actor_exit(g_actor.spec.actor, g_actor.incarnation, "the actor called sys.exit()");
      retake_gil(state);
    }
    return AfterTask::kLeave;
  }
  if (rt->cancel_requested(*task) && comes_of_cancel(e)) {
    answer_cancelled(rt, task);
    return AfterTask::kGoOn;
  }
  ErrorRecord record = error_record(*task, e);
  // Without a payload: it was interrupted while it packed the exception.
  if (record.payload.empty() && rt->cancel_requested(*task)) answer_cancelled(rt, task);
  else fail_task(rt, task, record, is_retryable(*task, e));
  return AfterTask::kGoOn;
}

AfterTask run_task(Runtime* rt, IncomingTask* task, bool main_thread) {
  if (task->kind == TaskKind::kActorCreation) return start_actor(rt, task);
  bool last = was_last_call(*task);
  AfterTask after = AfterTask::kGoOn;
  {
    // Answering counts as running: a generator's code runs while its items are sent.
    RunningScope scope(task, main_thread);
    // From here on a cancellation interrupts; one that came before is seen now.
    if (rt->cancel_requested(*task)) {
      answer_cancelled(rt, task);
      return last ? AfterTask::kLeave : AfterTask::kGoOn;
    }
    Call call;
    Ref function = prepare_task(rt, *task, &call);
    Ref result(function ? invoke(function.get(), &call) : nullptr);
    if (last) rt->last_task();
    if (!result || !answer(rt, task, result.get())) after = answer_exception(rt, task);
  }
  return last ? AfterTask::kLeave : after;
}

}  // namespace sheaf::python
