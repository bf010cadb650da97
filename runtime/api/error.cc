#include "runtime/api/error.h"

#include <string_view>
#include <utility>

#include "runtime/value.h"

namespace sheaf {

namespace {

using Parts = std::pair<std::string_view, std::string_view>;

Parts split_at_colon(std::string_view text) {
  size_t at = text.find(": ");
  if (at == std::string_view::npos) return {text, {}};
  return {text.substr(0, at), text.substr(at + 2)};
}

// Of "<function>: <type>: <what> (pid <n>)"; other messages of C++ workers are no exception's.
Parts parts_of_cpp(std::string_view message) {
  size_t pid = message.rfind(" (pid ");
  if (pid == std::string_view::npos) return {};
  std::string_view rest = split_at_colon(message.substr(0, pid)).second;
  return rest.empty() ? Parts() : split_at_colon(rest);
}

}  // namespace

TaskError::TaskError(const protocol::ErrorRecord& record) : Error(record.kind, record.message) {
  // C++ puts its message into the payload once more, as a text; Python packs the exception.
  bool cpp = record.payload.empty() || record.payload[0] == static_cast<char>(runtime::ValueTag::kStr);
  auto [type, text] = cpp ? parts_of_cpp(record.message) : split_at_colon(record.message);
  type_ = type;
  text_ = text;
}

void TaskError::rethrow_typed() const {
  const std::string &name = type_, &message = text_;
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
    case ErrorKind::kUserException: throw TaskError(record);
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
