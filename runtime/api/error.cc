#include "runtime/api/error.h"

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
