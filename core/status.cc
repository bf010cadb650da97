#include "core/status.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace sheaf {

std::string_view to_string(StatusCode code) {
  switch (code) {
    case StatusCode::kOk: return "kOk";
    case StatusCode::kInvalidArgument: return "kInvalidArgument";
    case StatusCode::kNotFound: return "kNotFound";
    case StatusCode::kAlreadyExists: return "kAlreadyExists";
    case StatusCode::kOutOfMemory: return "kOutOfMemory";
    case StatusCode::kOverloaded: return "kOverloaded";
    case StatusCode::kDisconnected: return "kDisconnected";
    case StatusCode::kTimeout: return "kTimeout";
    case StatusCode::kCancelled: return "kCancelled";
    case StatusCode::kOwnerDied: return "kOwnerDied";
    case StatusCode::kUnsupported: return "kUnsupported";
    case StatusCode::kCorrupt: return "kCorrupt";
    case StatusCode::kInternal: return "kInternal";
    case StatusCode::kPermissionDenied: return "kPermissionDenied";
  }
  return "kUnknown";
}

Status::Status(StatusCode code, std::string message) {
  if (code == StatusCode::kOk) return;
  rep_ = std::make_shared<const Rep>(Rep{code, std::move(message)});
}

Status Status::from_errno(std::string_view what, int error) {
  StatusCode code = StatusCode::kInternal;
  switch (error) {
    case ENOMEM:
    case ENOSPC:
    case EDQUOT: code = StatusCode::kOutOfMemory; break;
    case ENOENT: code = StatusCode::kNotFound; break;
    case EEXIST: code = StatusCode::kAlreadyExists; break;
    case EPIPE:
    case ECONNRESET:
    case ECONNREFUSED: code = StatusCode::kDisconnected; break;
    case ETIMEDOUT: code = StatusCode::kTimeout; break;
    case EACCES:
    case EPERM: code = StatusCode::kPermissionDenied; break;
    case EINVAL: code = StatusCode::kInvalidArgument; break;
    default: break;
  }
  return Status(code, std::string(what) + ": " + std::strerror(error));
}

std::string Status::to_string() const {
  if (is_ok()) return "kOk";
  return std::string(sheaf::to_string(code())) + ": " + std::string(message());
}

namespace internal {
void check_failed(const char* file, int line, const char* what) {
  std::fprintf(stderr, "sheaf: check failed at %s:%d: %s\n", file, line, what);
  std::fflush(stderr);
  abort();
}
}  // namespace internal

}  // namespace sheaf
