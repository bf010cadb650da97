// Runs what callers sent: decode, call, encode, answer. Every task given here is answered exactly once, unless the
// process is on its way out. Needs the interpreter lock.
#pragma once

#include "python/binding/codec.h"

namespace sheaf::python {

enum class AfterTask : uint8_t {
  kGoOn,
  kLeave,       // the worker's last task: it was its last permitted call, or it asked to exit
};

// `main_thread`: cancellations reach it as KeyboardInterrupt.
AfterTask run_task(Runtime* rt, runtime::IncomingTask* task, bool main_thread);

// What worker_main() ends with.
extern int g_exit_code;

// ---- The steps, for coroutines as well.

// The function, class or method to call; `call` gets the arguments, before them a method's instance unless the method is
// bound. Null with an exception set.
Ref prepare_task(Runtime* rt, const runtime::IncomingTask& task, Call* call);
// Calls with the decoded arguments and lets go of them.
PyObject* invoke(PyObject* function, Call* call);
// Answers with the call's result; false with an exception set, and nothing answered.
bool answer(Runtime* rt, runtime::IncomingTask* task, PyObject* result);
// Answers with the current exception, which is cleared. kLeave: it was an exit, and there is no answer.
AfterTask answer_exception(Runtime* rt, runtime::IncomingTask* task);
void answer_cancelled(Runtime* rt, runtime::IncomingTask* task);
// One item of a streaming generator. Blocks, without the interpreter lock, while the consumer lags.
bool send_item(Runtime* rt, runtime::IncomingTask* task, PyObject* item);
bool is_streaming(const runtime::IncomingTask& task);

}  // namespace sheaf::python
