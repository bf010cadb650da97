// Fd: owns one file descriptor and closes it once.
//
// Move-only; -1 means none. The destructor closes and forgets: who must know whether the data reached the disk calls
// fsync() first. Not thread-safe.
#pragma once

#include <unistd.h>

#include <utility>

namespace sheaf {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~Fd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  // Gives up ownership.
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);  // never retried: on Linux the descriptor is gone even after EINTR
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

}  // namespace sheaf
