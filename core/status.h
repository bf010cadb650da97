// Status and Result<T>: how every fallible call of Sheaf reports failure.
//
// Nothing throws across a module. A Status is one word when it is OK; an error carries a code, chosen by what
// the caller can do about it, and a sentence for a person. Result<T> is either a T or an error Status, with the
// member names of std::expected. Both are values, immutable once made, and safe to move between threads.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace sheaf {

// Numbers travel on the wire: append only.
enum class StatusCode : uint8_t {
  kOk = 0,
  kInvalidArgument = 1,   // the caller's mistake: correct it and call again
  kNotFound = 2,
  kAlreadyExists = 3,
  kOutOfMemory = 4,       // a store or a disk is full
  kOverloaded = 5,        // try again later
  kDisconnected = 6,      // the peer is gone
  kTimeout = 7,
  kCancelled = 8,
  kOwnerDied = 9,
  kUnsupported = 10,
  kCorrupt = 11,          // bytes failed a check; never deliver them
  kInternal = 12,         // our defect
  kPermissionDenied = 13,
};

std::string_view to_string(StatusCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message);

  static Status ok() { return {}; }
  // "<what>: <strerror(error)>", with a code derived from errno.
  static Status from_errno(std::string_view what, int error);

  bool is_ok() const { return rep_ == nullptr; }
  explicit operator bool() const { return is_ok(); }
  StatusCode code() const { return rep_ ? rep_->code : StatusCode::kOk; }
  // Empty when OK. Valid as long as this Status or a copy of it lives.
  std::string_view message() const { return rep_ ? std::string_view(rep_->message) : std::string_view(); }
  // "kTimeout: waited 3 s for the node daemon"
  std::string to_string() const;

 private:
  struct Rep {
    StatusCode code;
    std::string message;
  };
  std::shared_ptr<const Rep> rep_;  // null = OK
};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}  // NOLINT: implicit by design, as std::expected
  Result(Status status) : status_(std::move(status)) {
    if (status_.is_ok()) abort();  // an OK Result must hold a value
  }

  bool has_value() const { return value_.has_value(); }
  explicit operator bool() const { return has_value(); }
  T& value() & { return *value_; }
  const T& value() const& { return *value_; }
  T&& value() && { return std::move(*value_); }
  T& operator*() & { return *value_; }
  const T& operator*() const& { return *value_; }
  T&& operator*() && { return std::move(*value_); }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }
  // OK when a value is present.
  const Status& status() const { return status_; }
  const Status& error() const { return status_; }

 private:
  std::optional<T> value_;
  Status status_;
};

namespace internal {
[[noreturn]] void check_failed(const char* file, int line, const char* what);
}

}  // namespace sheaf

// Return the error of a Status expression to the caller.
#define SHEAF_TRY(expr)                                              \
  do {                                                               \
    if (::sheaf::Status sheaf_try_status = (expr); !sheaf_try_status.is_ok()) return sheaf_try_status; \
  } while (0)

#define SHEAF_CONCAT_INNER(a, b) a##b
#define SHEAF_CONCAT(a, b) SHEAF_CONCAT_INNER(a, b)
// SHEAF_ASSIGN(auto x, make_x()): bind the value or return the error.
#define SHEAF_ASSIGN(decl, expr) SHEAF_ASSIGN_IMPL(SHEAF_CONCAT(sheaf_result_, __LINE__), decl, expr)
#define SHEAF_ASSIGN_IMPL(tmp, decl, expr) \
  auto tmp = (expr);                       \
  if (!tmp.has_value()) return tmp.status(); \
  decl = std::move(tmp).value()

// Invariants stay on in release builds: a broken one stops the process before it spreads.
#define SHEAF_CHECK(cond)                                                        \
  do {                                                                           \
    if (!(cond)) [[unlikely]] ::sheaf::internal::check_failed(__FILE__, __LINE__, #cond); \
  } while (0)
