// What the public C++ API throws. Only the calls of <sheaf/sheaf.h> throw; everything beneath returns Status.
//
// Every class derives from sheaf::Error, which is a std::runtime_error and tells by kind() what went wrong. An exception
// that a task has thrown arrives as TaskError.
#pragma once

#include <stdexcept>
#include <string>

#include "core/status.h"
#include "scheduler/protocol.h"

namespace sheaf {

using protocol::ErrorKind;

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

// The function, constructor or method threw. The exception's own type does not travel; its name and text do.
class TaskError : public Error {
 public:
  explicit TaskError(const protocol::ErrorRecord& record);
  // As the compiler or Python writes it: "std::invalid_argument", "myapp::BadInput", "ValueError". "" when nothing was
  // thrown (arguments that cannot be read, for example).
  const std::string& type() const { return type_; }
  // What the exception's what() was, or its text in Python.
  const std::string& text() const { return text_; }
  // Throws it again as the type that it had where that is one of <stdexcept>, else this error itself.
  [[noreturn]] void rethrow_typed() const;

 private:
  std::string type_, text_;
};

#define SHEAF_ERROR(name, base)         \
  class name : public base {            \
   public:                              \
    using base::base;                   \
  }
SHEAF_ERROR(WorkerCrashedError, Error);     // the process died while it ran the task
SHEAF_ERROR(ActorError, Error);
SHEAF_ERROR(ActorDiedError, ActorError);
SHEAF_ERROR(ActorUnavailableError, ActorError);   // restarting; the call may have been executed
SHEAF_ERROR(TaskCancelledError, Error);
SHEAF_ERROR(ObjectLostError, Error);        // also: freed, or its owner died
SHEAF_ERROR(ObjectStoreFullError, Error);   // also: no disk space
SHEAF_ERROR(OutOfMemoryError, Error);
SHEAF_ERROR(UnschedulableError, Error);
SHEAF_ERROR(PendingCallsError, Error);      // more unanswered calls than max_pending_calls allows
SHEAF_ERROR(GetTimeoutError, Error);
SHEAF_ERROR(DisconnectedError, Error);      // not connected, or the node daemon is gone
SHEAF_ERROR(ArgumentError, Error);          // the caller's mistake
SHEAF_ERROR(DecodeError, Error);            // a value is not of the type that was asked for
#undef SHEAF_ERROR

namespace internal {

[[noreturn]] void throw_record(const protocol::ErrorRecord& record);
[[noreturn]] void throw_status(const Status& status);
[[noreturn]] void throw_argument(const std::string& message);
[[noreturn]] void throw_decode(const std::string& message);

inline void check(const Status& status) {
  if (!status.is_ok()) throw_status(status);
}
template <class T>
T check(Result<T> result) {
  if (!result) throw_status(result.status());
  return std::move(result).value();
}

}  // namespace internal
}  // namespace sheaf
