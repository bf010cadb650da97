// Small helpers over the CPython C API: owned references and the interpreter lock.
//
// The interpreter lock is given up and taken back by plain function calls, never by a destructor: when the interpreter
// ends, taking the lock unwinds the thread, and unwinding through a noexcept frame would abort the process.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <utility>

namespace sheaf::python {

// Owns one reference, or null.
class Ref {
 public:
  Ref() = default;
  explicit Ref(PyObject* owned) : p_(owned) {}
  static Ref borrow(PyObject* p) { return Ref(Py_XNewRef(p)); }
  Ref(Ref&& other) noexcept : p_(std::exchange(other.p_, nullptr)) {}
  Ref& operator=(Ref&& other) noexcept {
    if (this != &other) Py_XSETREF(p_, std::exchange(other.p_, nullptr));
    return *this;
  }
  ~Ref() { Py_XDECREF(p_); }
  PyObject* get() const { return p_; }
  PyObject* release() { return std::exchange(p_, nullptr); }
  explicit operator bool() const { return p_ != nullptr; }

 private:
  PyObject* p_ = nullptr;
};

inline bool is_finalizing() {
#if PY_VERSION_HEX >= 0x030d0000
  return Py_IsFinalizing();
#else
  return _Py_IsFinalizing();
#endif
}

bool is_main_thread();
[[noreturn]] void park_forever();

inline PyThreadState* release_gil() { return PyEval_SaveThread(); }
// A thread that comes back after the interpreter's end stays here instead of being unwound.
inline void retake_gil(PyThreadState* state) {
  if (is_finalizing() && !is_main_thread()) [[unlikely]] park_forever();
  PyEval_RestoreThread(state);
}

// `module`.`name`, imported at the first use and kept for ever in `*cache` (which starts as null). Borrowed; null with
// an error set when there is no such thing.
PyObject* imported(PyObject** cache, const char* module, const char* name);

// The current exception, cleared from the thread, with its traceback attached. Null when there is none.
Ref take_exception();

}  // namespace sheaf::python
