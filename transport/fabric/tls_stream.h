// TLS 1.3 with an external pre-shared key over a non-blocking TCP socket.
//
// Both sides prove that they know the cluster's key, with forward secrecy (psk_dhe_ke), before
// either sees a byte of the other; there are no certificates, no resumption and no early data, so
// nothing can be replayed. A TlsContext is immutable and shared by threads; a TlsStream has one
// owner at a time, and may move between threads while nobody uses it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "core/fd.h"
#include "core/status.h"
#include "transport/fabric/cluster_secret.h"

struct ssl_ctx_st;
struct ssl_st;

namespace sheaf::transport {

enum class TlsUse : uint8_t { kControl, kBulk };

class TlsContext {
 public:
  static Result<std::shared_ptr<TlsContext>> create(const ClusterSecret& secret);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;

  const std::string& identity() const { return identity_; }
  const std::array<unsigned char, 32>& key() const { return key_; }
  ssl_ctx_st* get() const { return context_; }

 private:
  TlsContext() = default;
  ssl_ctx_st* context_ = nullptr;
  std::string identity_;                 // public: "sheaf:<cluster>"
  std::array<unsigned char, 32> key_{};
};

class TlsStream {
 public:
  enum class Role : uint8_t { kClient, kServer };
  enum class Io : uint8_t { kDone, kAgain, kFailed };

  TlsStream(std::shared_ptr<TlsContext> context, Fd socket, Role role);
  ~TlsStream();
  TlsStream(const TlsStream&) = delete;

  // Sizes the buffers: before the handshake, or after it while the other side waits for us.
  void tune_for(TlsUse use);
  // kAgain: call again when the socket is readable, or writable if wants_write().
  Io handshake();
  // At least one byte in *done with kDone. kFailed also at the stream's end.
  Io read(void* data, size_t size, size_t* done);
  // After kAgain the next call must offer the same bytes again, perhaps with more behind them.
  Io write(const void* data, size_t size, size_t* done);
  bool wants_write() const { return wants_write_; }
  // Bytes that the socket will never announce, because they have been taken from it already.
  bool has_buffered() const;
  uint64_t raw_bytes_read() const;
  // Why the last call was kFailed.
  const Status& error() const { return error_; }
  int fd() const { return socket_.get(); }

 private:
  friend class TlsContext;
  Io fail(int result);
  Status handshake_error(unsigned long code) const;

  std::shared_ptr<TlsContext> context_;
  Fd socket_;
  ssl_st* ssl_ = nullptr;
  Role role_;
  bool wants_write_ = false;
  bool established_ = false;
  bool other_cluster_ = false;     // server: the client named another one
  uint64_t written_since_key_ = 0;
  Status error_;
};

}  // namespace sheaf::transport
