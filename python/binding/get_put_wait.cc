#include "python/binding/get_put_wait.h"

#include "python/binding/arena_buffer.h"
#include "python/binding/codec.h"
#include "python/binding/generator.h"
#include "python/binding/object_ref.h"

namespace sheaf::python {

using runtime::Clock;
using runtime::Deadline;
using runtime::WaitOutcome;

namespace {

// Short enough not to be felt by other Python threads, long enough for a worker on another core to answer.
constexpr std::chrono::nanoseconds kLockedSpin{3000};

bool any_error(Runtime* rt, std::span<const Slot> slots) {
  for (Slot slot : slots) {
    if (!rt->is_ready(slot)) continue;
    uint64_t pin = 0;
    auto view = rt->view(slot, &pin);
    if (pin) rt->unpin(pin);
    if (view && view->state == runtime::ValueState::kError) return true;
  }
  return false;
}

PyObject* decode_view(const runtime::ValueView& view, PyObject* pin) {
  Source source{view.bytes, pin};
  if (view.contained) source.refs = *view.contained;
  return decode_value(source);
}

// Marks slots without clearing between calls: a mark is the number of the call that set it.
class SeenSlots {
 public:
  void start() {
    if (++call_ == 0) {
      marks_.assign(marks_.size(), 0);
      call_ = 1;
    }
  }
  // False when the slot was seen in this call already.
  bool add(Slot slot) {
    if (slot >= marks_.size()) marks_.resize(slot + slot / 2 + 64, 0);
    return std::exchange(marks_[slot], call_) != call_;
  }

 private:
  std::vector<uint32_t> marks_;
  uint32_t call_ = 0;
};

bool slots_of_tuple(PyObject* tuple, std::vector<Slot>* out) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); ++i) {
    Slot slot = usable_slot(as_ref(PyTuple_GET_ITEM(tuple, i)));
    if (slot == runtime::kNoSlot) return false;
    out->push_back(slot);
  }
  return true;
}

PyObject* get_many(Runtime* rt, PyObject* list, Deadline deadline) {
  Ref refs(PyList_AsTuple(list));   // the list may change at any allocation, and while values are read
  if (!refs) return nullptr;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(refs.get()); ++i) {
    PyObject* item = PyTuple_GET_ITEM(refs.get(), i);
    if (is_ref(item)) continue;
    return PyErr_Format(PyExc_TypeError,
                        "Attempting to call `get` on the value %R, which is not a sheaf.ObjectRef.", item);
  }
  std::vector<Slot> slots;
  slots.reserve(static_cast<size_t>(PyTuple_GET_SIZE(refs.get())));
  if (!slots_of_tuple(refs.get(), &slots)) return nullptr;
  if (!slots.empty() && !wait_for(rt, {slots, slots.size(), deadline, true, true})) return nullptr;
  Ref out(PyList_New(static_cast<Py_ssize_t>(slots.size())));
  if (!out) return nullptr;
  for (size_t i = 0; i < slots.size(); ++i) {
    if (!rt->is_ready(slots[i])) continue;   // some other value is an error, which is raised below or was before
    PyObject* value = read_object(rt, slots[i], deadline);
    if (!value) return nullptr;
    PyList_SET_ITEM(out.get(), static_cast<Py_ssize_t>(i), value);
  }
  for (size_t i = 0; i < slots.size(); ++i) {
    if (PyList_GET_ITEM(out.get(), static_cast<Py_ssize_t>(i))) continue;
    PyObject* value = read_object(rt, slots[i], deadline);
    if (!value) return nullptr;
    PyList_SET_ITEM(out.get(), static_cast<Py_ssize_t>(i), value);
  }
  return out.release();
}

// The argument at position `index` or with keyword `name`; borrowed, null when absent.
PyObject* argument(PyObject* const* args, Py_ssize_t nargs, PyObject* names, Py_ssize_t index, const char* name) {
  if (index < nargs) return args[index];
  for (Py_ssize_t i = 0; names && i < PyTuple_GET_SIZE(names); ++i) {
    if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, i), name) == 0) return args[nargs + i];
  }
  return nullptr;
}

bool check_names(PyObject* names, std::initializer_list<const char*> known, const char* function) {
  for (Py_ssize_t i = 0; names && i < PyTuple_GET_SIZE(names); ++i) {
    PyObject* name = PyTuple_GET_ITEM(names, i);
    bool found = false;
    for (const char* k : known) found |= PyUnicode_CompareWithASCIIString(name, k) == 0;
    if (found) continue;
    PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument %R", function, name);
    return false;
  }
  return true;
}

}  // namespace

bool wait_for(Runtime* rt, const WaitRequest& r) {
  if (rt->poll(r.slots, r.needed, kLockedSpin)) return true;
  for (;;) {
    PyThreadState* state = release_gil();
    WaitOutcome outcome = rt->wait(r.slots, r.needed, r.deadline);
    retake_gil(state);
    switch (outcome) {
      case WaitOutcome::kReady: return true;
      case WaitOutcome::kTimeout:
        if (!r.raise_timeout) return true;
        raise_named("GetTimeoutError", "Get timed out: some object(s) not ready.");
        return false;
      case WaitOutcome::kInterrupted:
        if (PyErr_CheckSignals() < 0) return false;
        if (r.fail_fast && r.slots.size() > 1 && any_error(rt, r.slots)) return true;
        break;
      case WaitOutcome::kDisconnected:
        if (runtime_or_raise()) raise_named("LocalRayletDiedError", "The node daemon is gone, so the value will never arrive.");
        return false;
    }
  }
}

PyObject* read_object(Runtime* rt, Slot slot, Deadline deadline) {
  for (;;) {
    if (!rt->is_ready(slot) && !wait_for(rt, {std::span(&slot, 1), 1, deadline})) return nullptr;
    uint64_t pin = 0;
    auto view = rt->view(slot, &pin);
    if (!view) {
      if (view.status().code() != StatusCode::kNotFound) return raise_status(view.status());
      if (!wait_for(rt, {std::span(&slot, 1), 1, deadline})) return nullptr;
      continue;
    }
    if (view->state == runtime::ValueState::kError) return raise_record(view->bytes, rt->id(slot));
    PyObject* value = nullptr;
    if (view->state == runtime::ValueState::kArena) {
      Ref owner(new_pin(pin));
      value = owner ? decode_view(*view, owner.get()) : nullptr;
    } else {
      value = decode_view(*view, nullptr);
    }
    return value ? value : raise_unreadable(rt->id(slot));
  }
}

bool parse_timeout(PyObject* timeout, Deadline* deadline) {
  *deadline = runtime::kNever;
  if (!timeout || timeout == Py_None) return true;
  double seconds = PyFloat_AsDouble(timeout);
  if (seconds == -1.0 && PyErr_Occurred()) return false;
  if (seconds == -1.0) return true;   // an old spelling of "for ever"
  if (!(seconds >= 0)) {
    PyErr_Format(PyExc_ValueError, "timeout must be None or a number >= 0, got %R", timeout);
    return false;
  }
  if (seconds < 1e9) {
    *deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  }
  return true;
}

namespace {

// 0, with an exception set: wrong.
uint32_t replicas_of(PyObject* const* args, Py_ssize_t nargs, PyObject* names) {
  if (!check_names(names, {"value", "replicas", "_owner", "_tensor_transport"}, "put")) return 0;
  PyObject* replicas = argument(args, nargs, names, 3, "replicas");   // by name only
  if (!replicas) return 1;
  long n = PyLong_AsLong(replicas);
  if (n == -1 && PyErr_Occurred()) return 0;
  if (n >= 1 && n <= UINT16_MAX) return static_cast<uint32_t>(n);
  PyErr_Format(PyExc_ValueError, "put(replicas=) must be a number from 1, not %ld", n);
  return 0;
}

}  // namespace

PyObject* py_put(PyObject*, PyObject* const* args, Py_ssize_t nargs, PyObject* names) {
  uint32_t replicas = names ? replicas_of(args, nargs, names) : 1;
  if (replicas == 0) return nullptr;
  PyObject* value = argument(args, nargs, names, 0, "value");
  if (!value || nargs > 1) {
    PyErr_SetString(PyExc_TypeError, "put() takes one value");
    return nullptr;
  }
  if (is_ref(value)) {
    PyErr_SetString(PyExc_TypeError,
                    "Calling 'put' on a sheaf.ObjectRef is not allowed. If you really want to do this, you can wrap "
                    "the sheaf.ObjectRef in a list and call 'put' on it.");
    return nullptr;
  }
  if (!runtime_or_connect()) return nullptr;
  FrameScope frame;
  Frame::Mark mark = frame->mark();
  if (!encode_value(*frame, value)) return nullptr;
  Slot slot = put_value(*frame, mark);
  if (slot == runtime::kNoSlot) return nullptr;
  if (replicas > 1) g_engine.runtime->replicate(slot, replicas - 1);
  return new_ref(slot);
}

PyObject* py_get(PyObject*, PyObject* const* args, Py_ssize_t nargs, PyObject* names) {
  if (nargs > 2 || !check_names(names, {"refs", "object_refs", "timeout"}, "get")) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "get() takes references and a timeout");
    return nullptr;
  }
  PyObject* refs = argument(args, nargs, names, 0, "refs");
  if (!refs) refs = argument(args, nargs, names, 0, "object_refs");
  if (!refs) {
    PyErr_SetString(PyExc_TypeError, "get() missing 1 required positional argument: 'object_refs'");
    return nullptr;
  }
  PyObject* timeout = argument(args, nargs, names, 1, "timeout");
  Runtime* rt = runtime_or_raise();
  Deadline deadline;
  if (!rt || !parse_timeout(timeout, &deadline)) return nullptr;
  if (is_ref(refs)) [[likely]] {
    Slot slot = usable_slot(as_ref(refs));
    return slot == runtime::kNoSlot ? nullptr : read_object(rt, slot, deadline);
  }
  if (PyList_Check(refs)) return get_many(rt, refs, deadline);
  if (PyObject_TypeCheck(refs, &ObjectRefGeneratorType)) return Py_NewRef(refs);   // its items are references
  return PyErr_Format(PyExc_ValueError,
                      "Invalid type of object refs, %R, is given. 'object_refs' must either be an ObjectRef or a list "
                      "of ObjectRefs. ", Py_TYPE(refs));
}

namespace {

// False when the list is no good for wait(), with an exception set; and without one when there are generators in it,
// which are waited for in Python.
bool check_wait_list(PyObject* refs, std::vector<Slot>* slots) {
  if (is_ref(refs)) {
    PyErr_SetString(PyExc_TypeError, "wait() expected a list of sheaf.ObjectRef, got a single sheaf.ObjectRef");
    return false;
  }
  if (!PyList_Check(refs)) {
    PyErr_Format(PyExc_TypeError, "wait() expected a list of sheaf.ObjectRef, got %R", Py_TYPE(refs));
    return false;
  }
  thread_local SeenSlots kept;
  SeenSlots& seen = kept;   // its address is looked up once
  seen.start();
  const Py_ssize_t n = PyList_GET_SIZE(refs);
  slots->reserve(static_cast<size_t>(n));
  for (Py_ssize_t i = 0; i < n; ++i) {
    PyObject* item = PyList_GET_ITEM(refs, i);
    if (!is_ref(item)) {
      if (PyObject_TypeCheck(item, &ObjectRefGeneratorType)) return false;
      PyErr_Format(PyExc_TypeError, "wait() expected a list of sheaf.ObjectRef, got list containing %R", Py_TYPE(item));
      return false;
    }
    Slot slot = usable_slot(as_ref(item));
    if (slot == runtime::kNoSlot) return false;
    if (!seen.add(slot)) {
      PyErr_SetString(PyExc_ValueError, "Wait requires a list of unique object refs.");
      return false;
    }
    slots->push_back(slot);
  }
  return true;
}

// (ready, rest): at most `wanted` of the references whose value is here, and the others, both in the order given.
PyObject* split_ready(Runtime* rt, PyObject* refs, const std::vector<Slot>& slots, size_t wanted) {
  std::vector<Py_ssize_t> at;
  for (size_t i = 0; i < slots.size() && at.size() < wanted; ++i) {
    if (rt->is_ready(slots[i])) at.push_back(static_cast<Py_ssize_t>(i));
  }
  const auto n = static_cast<Py_ssize_t>(slots.size()), found = static_cast<Py_ssize_t>(at.size());
  Ref ready(PyList_New(found)), rest(PyList_New(n - found));
  if (!ready || !rest) return nullptr;
  if (PyList_GET_SIZE(refs) != n) {   // garbage collection has run somebody's code
    return PyErr_Format(PyExc_RuntimeError, "the list given to wait() changed its size meanwhile");
  }
  Py_ssize_t from = 0, out = 0;
  auto copy_rest = [&](Py_ssize_t to) {
    for (; from < to; ++from) PyList_SET_ITEM(rest.get(), out++, Py_NewRef(PyList_GET_ITEM(refs, from)));
  };
  for (Py_ssize_t i = 0; i < found; ++i, ++from) {
    copy_rest(at[static_cast<size_t>(i)]);
    PyList_SET_ITEM(ready.get(), i, Py_NewRef(PyList_GET_ITEM(refs, from)));
  }
  copy_rest(n);
  return PyTuple_Pack(2, ready.get(), rest.get());
}

// Kept from call to call for its memory.
thread_local std::vector<Slot> g_spare_slots;

}  // namespace

// wait(refs, num_returns, timeout, fetch_local) -> (ready, not ready), both in the order given; None when there are
// generators among them.
PyObject* py_wait(PyObject*, PyObject* const* args, Py_ssize_t nargs, PyObject* names) {
  if (nargs > 4 || !check_names(names, {"refs", "num_returns", "timeout", "fetch_local"}, "wait")) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "wait() takes at most 4 arguments");
    return nullptr;
  }
  PyObject* list = argument(args, nargs, names, 0, "refs");
  PyObject* count = argument(args, nargs, names, 1, "num_returns");
  Runtime* rt = runtime_or_raise();
  Deadline deadline;
  if (!rt || !parse_timeout(argument(args, nargs, names, 2, "timeout"), &deadline)) return nullptr;
  if (!list) return PyErr_Format(PyExc_TypeError, "wait() needs a list of references");
  std::vector<Slot> slots = std::exchange(g_spare_slots, {});   // a signal handler may call wait(), too
  slots.clear();
  if (!check_wait_list(list, &slots)) return PyErr_Occurred() ? nullptr : Py_NewRef(Py_None);
  Py_ssize_t n = PyList_GET_SIZE(list);
  Py_ssize_t wanted = count ? PyLong_AsSsize_t(count) : 1;
  if (wanted == -1 && PyErr_Occurred()) return nullptr;
  if (n == 0) return Py_BuildValue("([][])");
  if (wanted <= 0) {
    return PyErr_Format(PyExc_ValueError, "Invalid number of objects to return %zd.", wanted);
  }
  if (wanted > n) {
    PyErr_SetString(PyExc_ValueError,
                    "num_returns cannot be greater than the number of objects provided to wait.");
    return nullptr;
  }
  const size_t needed = static_cast<size_t>(wanted);
  PyObject* fetch_local = argument(args, nargs, names, 3, "fetch_local");
  const int fetch = fetch_local ? PyObject_IsTrue(fetch_local) : 1;
  if (fetch < 0) return nullptr;
  // While others run the list may change: then a copy is what we go by.
  Ref refs(Py_NewRef(list));
  do {   // each round ends with values that have come, or with some more to be brought here
    if (rt->poll(slots, needed, kLockedSpin)) continue;
    if (refs.get() == list) refs = Ref(PyList_GetSlice(list, 0, n));
    if (!refs || !wait_for(rt, {slots, needed, deadline, false})) return nullptr;
  } while (fetch && rt->fetch(slots));
  PyObject* answer = split_ready(rt, refs.get(), slots, needed);
  g_spare_slots = std::move(slots);
  return answer;
}

}  // namespace sheaf::python
