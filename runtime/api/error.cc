#include "runtime/api/error.h"

#include <string_view>
#include <utility>

namespace sheaf {

namespace {

// The parts of "<function>: <type>: <what> (pid <n>)"; Python's traceback ends with "<type>: <what>".
std::pair<std::string_view, std::string_view> parts(std::string_view message) {
  if (message.starts_with("Traceback") || message.find("\nTraceback") != std::string_view::npos ||
      message.find("(pid=") != std::string_view::npos) {
    while (message.ends_with('\n')) message.remove_suffix(1);
    size_t line = message.rfind('\n');
    if (line != std::string_view::npos) message.remove_prefix(line + 1);
  } else {
    size_t function = message.find(": ");
    if (function == std::string_view::npos) return {};
    message.remove_prefix(function + 2);
    size_t pid = message.rfind(" (pid ");
    if (pid == std::string_view::npos) return {};
    message = message.substr(0, pid);
  }
  size_t type = message.find(": ");
  if (type == std::string_view::npos) return {message, {}};
  return {message.substr(0, type), message.substr(type + 2)};
}

}  // namespace

std::string TaskError::type() const { return std::string(parts(what()).first); }
std::string TaskError::text() const { return std::string(parts(what()).second); }

void TaskError::rethrow_typed() const {
  std::string name = type(), message = text();
  if (name == "std::invalid_argument") throw std::invalid_argument(message);
  if (name == "std::domain_error") throw std::domain_error(message);
  if (name == "std::length_error") throw std::length_error(message);
  if (name == "std::out_of_range") throw std::out_of_range(message);
  if (name == "std::logic_error") throw std::logic_error(message);
  if (name == "std::range_error") throw std::range_error(message);
  if (name == "std::overflow_error") throw std::overflow_error(message);
  if (name == "std::underflow_error") throw std::underflow_error(message);
  if (name == "std::runtime_error") throw std::runtime_error(message);
  throw *this;
}

}  // namespace sheaf

namespace sheaf::internal {

void throw_record(const protocol::ErrorRecord& record) {
  const std::string& text = record.message;
  ErrorKind kind = record.kind;
  switch (kind) {
    case ErrorKind::kUserException: throw TaskError(kind, text);
    case ErrorKind::kWorkerCrashed:
    case ErrorKind::kNodeDied: throw WorkerCrashedError(kind, text);
    case ErrorKind::kActorDied:
    case ErrorKind::kActorPlacementGroupRemoved: throw ActorDiedError(kind, text);
    case ErrorKind::kActorUnavailable: throw ActorUnavailableError(kind, text);
    case ErrorKind::kCancelled: throw TaskCancelledError(kind, text);
    case ErrorKind::kObjectLost:
    case ErrorKind::kOwnerDied:
    case ErrorKind::kObjectFreed: throw ObjectLostError(kind, text);
    case ErrorKind::kOutOfMemory: throw OutOfMemoryError(kind, text);
    case ErrorKind::kObjectStoreFull:
    case ErrorKind::kOutOfDisk: throw ObjectStoreFullError(kind, text);
    case ErrorKind::kUnschedulable:
    case ErrorKind::kPlacementGroupRemoved: throw UnschedulableError(kind, text);
    case ErrorKind::kPendingCallsLimit: throw PendingCallsError(kind, text);
    default: throw Error(kind, text);
  }
}

void throw_status(const Status& status) {
  std::string text(status.message());
  switch (status.code()) {
    case StatusCode::kInvalidArgument:
    case StatusCode::kNotFound:
    case StatusCode::kAlreadyExists: throw ArgumentError(ErrorKind::kSystem, text);
    case StatusCode::kOutOfMemory: throw ObjectStoreFullError(ErrorKind::kObjectStoreFull, text);
    case StatusCode::kOverloaded: throw PendingCallsError(ErrorKind::kPendingCallsLimit, text);
    case StatusCode::kDisconnected: throw DisconnectedError(ErrorKind::kSystem, text);
    case StatusCode::kTimeout: throw GetTimeoutError(ErrorKind::kSystem, text);
    case StatusCode::kCancelled: throw TaskCancelledError(ErrorKind::kCancelled, text);
    case StatusCode::kOwnerDied: throw ObjectLostError(ErrorKind::kOwnerDied, text);
    default: throw Error(ErrorKind::kSystem, status.to_string());
  }
}

void throw_argument(const std::string& message) { throw ArgumentError(ErrorKind::kSystem, message); }
void throw_decode(const std::string& message) { throw DecodeError(ErrorKind::kSystem, message); }

}  // namespace sheaf::internal
