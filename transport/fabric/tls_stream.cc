#include "transport/fabric/tls_stream.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

namespace sheaf::transport {
namespace {

constexpr unsigned char kCipher[2] = {0x13, 0x01};  // TLS_AES_128_GCM_SHA256: names the PSK's hash
// Far below the 2^24.5 records after which AES-GCM wants a new key (RFC 8446, 5.5).
constexpr uint64_t kBytesPerKey = uint64_t{64} << 30;
constexpr size_t kBulkReadBytes = 128 * 1024;

SSL_SESSION* make_psk(SSL* ssl, const TlsContext& context) {
  const SSL_CIPHER* cipher = SSL_CIPHER_find(ssl, kCipher);
  SSL_SESSION* session = SSL_SESSION_new();
  if (cipher == nullptr || session == nullptr ||
      SSL_SESSION_set1_master_key(session, context.key().data(), context.key().size()) != 1 ||
      SSL_SESSION_set_cipher(session, cipher) != 1 ||
      SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) != 1) {
    SSL_SESSION_free(session);
    return nullptr;
  }
  return session;
}

TlsContext* context_of(SSL* ssl) {
  return static_cast<TlsContext*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
}

// OpenSSL's own socket BIO raises SIGPIPE.
int socket_write(BIO* bio, const char* data, int size) {
  int fd = static_cast<int>(reinterpret_cast<intptr_t>(BIO_get_data(bio)));
  BIO_clear_retry_flags(bio);
  ssize_t n = ::send(fd, data, static_cast<size_t>(size), MSG_NOSIGNAL);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_write(bio);
  return static_cast<int>(n);
}

int socket_read(BIO* bio, char* data, int size) {
  int fd = static_cast<int>(reinterpret_cast<intptr_t>(BIO_get_data(bio)));
  BIO_clear_retry_flags(bio);
  ssize_t n = ::recv(fd, data, static_cast<size_t>(size), 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_read(bio);
  if (n == 0) errno = 0;
  return static_cast<int>(n);
}

long socket_control(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

BIO* make_socket_bio(int fd) {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "sheaf socket");
    BIO_meth_set_write(made, socket_write);
    BIO_meth_set_read(made, socket_read);
    BIO_meth_set_ctrl(made, socket_control);
    return made;
  }();
  BIO* bio = BIO_new(method);
  SHEAF_CHECK(bio != nullptr);
  BIO_set_data(bio, reinterpret_cast<void*>(static_cast<intptr_t>(fd)));
  BIO_set_init(bio, 1);
  return bio;
}

int client_psk(SSL* ssl, const EVP_MD* hash, const unsigned char** id, size_t* id_size,
               SSL_SESSION** session) {
  *session = nullptr;
  *id = nullptr;
  *id_size = 0;
  if (hash != nullptr && hash != EVP_sha256()) return 1;  // no key for that hash
  TlsContext* context = context_of(ssl);
  *session = make_psk(ssl, *context);
  *id = reinterpret_cast<const unsigned char*>(context->identity().data());
  *id_size = context->identity().size();
  return *session != nullptr;
}

}  // namespace

Result<std::shared_ptr<TlsContext>> TlsContext::create(const ClusterSecret& secret) {
  std::shared_ptr<TlsContext> out(new TlsContext());
  out->identity_ = "sheaf:" + secret.cluster;
  out->key_ = secret.derive_key("sheaf fabric tls psk");
  SSL_CTX* context = out->context_ = SSL_CTX_new(TLS_method());
  if (context == nullptr || SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_ciphersuites(context,
                               "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256") != 1 ||
      SSL_CTX_set1_groups_list(context, "X25519:P-256") != 1) {
    return Status(StatusCode::kUnsupported, "this OpenSSL lacks TLS 1.3 with AES-128-GCM");
  }
  SSL_CTX_set_app_data(context, out.get());
  // Nobody has a certificate: a client must not accept a server that shows one instead of the key.
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION |
                                   SSL_OP_IGNORE_UNEXPECTED_EOF);
  SSL_CTX_set_num_tickets(context, 0);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_max_early_data(context, 0);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_psk_use_session_callback(context, client_psk);
  SSL_CTX_set_psk_find_session_callback(
      context, [](SSL* ssl, const unsigned char* id, size_t size, SSL_SESSION** session) -> int {
        TlsContext* owner = context_of(ssl);
        auto* stream = static_cast<TlsStream*>(SSL_get_app_data(ssl));
        *session = nullptr;
        if (std::string_view(reinterpret_cast<const char*>(id), size) != owner->identity()) {
          stream->other_cluster_ = true;
          return 1;
        }
        *session = make_psk(ssl, *owner);
        return *session != nullptr;
      });
  return out;
}

TlsContext::~TlsContext() { SSL_CTX_free(context_); }

TlsStream::TlsStream(std::shared_ptr<TlsContext> context, Fd socket, Role role)
    : context_(std::move(context)), socket_(std::move(socket)), role_(role) {
  ssl_ = SSL_new(context_->get());
  SHEAF_CHECK(ssl_ != nullptr);
  BIO* bio = make_socket_bio(socket_.get());
  SSL_set_bio(ssl_, bio, bio);
  SSL_set_app_data(ssl_, this);
  if (role_ == Role::kServer) {
    SSL_set_verify(ssl_, SSL_VERIFY_NONE, nullptr);  // a pre-shared key is no session of ours to it
    SSL_set_accept_state(ssl_);
  } else {
    SSL_set_connect_state(ssl_);
  }
}

TlsStream::~TlsStream() { SSL_free(ssl_); }

void TlsStream::tune_for(TlsUse use) {
  SSL_free_buffers(ssl_);  // they are made anew, in the new size, when there is something to read
  SSL_set_read_ahead(ssl_, 1);
  if (use == TlsUse::kBulk) {
    SSL_set_default_read_buffer_len(ssl_, kBulkReadBytes);  // many records per system call
  } else {
    SSL_set_mode(ssl_, SSL_MODE_RELEASE_BUFFERS);
  }
}

TlsStream::Io TlsStream::handshake() {
  ERR_clear_error();
  wants_write_ = false;
  int result = SSL_do_handshake(ssl_);
  if (result != 1) return fail(result);
  // A session that was not resumed from our key was authenticated by nothing.
  if (SSL_session_reused(ssl_) != 1) {
    error_ = Status(StatusCode::kPermissionDenied,
                    other_cluster_ ? "belongs to another cluster" : "offers no cluster token");
    return Io::kFailed;
  }
  established_ = true;
  return Io::kDone;
}

TlsStream::Io TlsStream::read(void* data, size_t size, size_t* done) {
  ERR_clear_error();
  int result = SSL_read(ssl_, data, static_cast<int>(std::min<size_t>(size, INT_MAX)));
  if (result <= 0) return fail(result);
  *done = static_cast<size_t>(result);
  return Io::kDone;
}

TlsStream::Io TlsStream::write(const void* data, size_t size, size_t* done) {
  ERR_clear_error();
  if (!wants_write_ && written_since_key_ >= kBytesPerKey) {
    written_since_key_ = 0;
    if (SSL_key_update(ssl_, SSL_KEY_UPDATE_NOT_REQUESTED) != 1) return fail(-1);
  }
  wants_write_ = false;
  int result = SSL_write(ssl_, data, static_cast<int>(std::min<size_t>(size, INT_MAX)));
  if (result <= 0) return fail(result);
  *done = static_cast<size_t>(result);
  written_since_key_ += *done;
  return Io::kDone;
}

bool TlsStream::has_buffered() const { return SSL_has_pending(ssl_) == 1; }

uint64_t TlsStream::raw_bytes_read() const { return BIO_number_read(SSL_get_rbio(ssl_)); }

TlsStream::Io TlsStream::fail(int result) {
  int saved = errno;
  switch (SSL_get_error(ssl_, result)) {
    case SSL_ERROR_WANT_READ:
      return Io::kAgain;
    case SSL_ERROR_WANT_WRITE:
      wants_write_ = true;
      return Io::kAgain;
    case SSL_ERROR_ZERO_RETURN:
      error_ = Status(StatusCode::kDisconnected, "closed by the other side");
      return Io::kFailed;
    case SSL_ERROR_SYSCALL:
      error_ = saved == 0 || ERR_peek_error() != 0
                   ? Status(StatusCode::kDisconnected, "closed by the other side")
                   : Status(StatusCode::kDisconnected, std::strerror(saved));
      return Io::kFailed;
    default:
      break;
  }
  unsigned long code = ERR_peek_error();
  if (!established_) {
    error_ = handshake_error(code);
  } else {
    const char* text = ERR_reason_error_string(code);
    error_ = Status(StatusCode::kCorrupt,
                    std::string("TLS: ") + (text != nullptr ? text : "unknown error"));
  }
  return Io::kFailed;
}

// What a person can do about it, as far as the library tells.
Status TlsStream::handshake_error(unsigned long code) const {
  int reason = ERR_GET_REASON(code);
  if (other_cluster_) return {StatusCode::kPermissionDenied, "belongs to another cluster"};
  switch (reason) {
    case SSL_R_UNEXPECTED_EOF_WHILE_READING:
      return {StatusCode::kDisconnected, "closed by the other side"};
    case SSL_R_BINDER_DOES_NOT_VERIFY:
      return {StatusCode::kPermissionDenied, "wrong cluster token"};
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
    case SSL_R_BAD_RECORD_TYPE:
    case SSL_R_UNSUPPORTED_PROTOCOL:
      return {StatusCode::kPermissionDenied, "does not speak TLS 1.3"};
    case SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM:
    case SSL_R_NO_SHARED_CIPHER:
      return {StatusCode::kPermissionDenied, "offers no cluster token"};
    default:
      break;
  }
  if (role_ == Role::kClient && reason > SSL_AD_REASON_OFFSET) {
    return {StatusCode::kPermissionDenied, "the other side refuses our cluster token"};
  }
  const char* text = ERR_reason_error_string(code);
  return {StatusCode::kPermissionDenied,
          std::string("TLS handshake: ") + (text != nullptr ? text : "unknown error")};
}

}  // namespace sheaf::transport
