#include "transport/fabric/cluster_secret.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>

#include "core/fd.h"
#include "core/ids.h"

namespace sheaf::transport {
namespace {

constexpr std::string_view kFirstLine = "sheaf cluster secret 1";
constexpr size_t kFileBytesMax = 512;

void fill_random(void* out, size_t size) {
  auto* at = static_cast<char*>(out);
  while (size > 0) {
    ssize_t n = getrandom(at, size, 0);
    SHEAF_CHECK(n > 0 || errno == EINTR);
    if (n > 0) at += n, size -= static_cast<size_t>(n);
  }
}

// The next line of *rest, without its end.
std::string_view next_line(std::string_view* rest) {
  size_t end = rest->find('\n');
  std::string_view line = rest->substr(0, end);
  rest->remove_prefix(end == std::string_view::npos ? rest->size() : end + 1);
  return line;
}

}  // namespace

ClusterSecret ClusterSecret::random() {
  ClusterSecret out;
  uint64_t id[2];
  fill_random(id, sizeof id);
  fill_random(out.token.data(), out.token.size());
  out.cluster = id_to_hex(id[0], id[1]);
  return out;
}

Status ClusterSecret::write_new(const std::string& path) const {
  Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd) return Status::from_errno("creating " + path, errno);
  uint64_t words[4];
  std::memcpy(words, token.data(), sizeof words);
  std::string text = fmt::format("{}\n{}\n{}{}\n", kFirstLine, cluster,
                                 id_to_hex(words[0], words[1]), id_to_hex(words[2], words[3]));
  ssize_t n = ::write(fd.get(), text.data(), text.size());
  if (n == static_cast<ssize_t>(text.size()) && ::fsync(fd.get()) == 0) return Status::ok();
  Status failed = Status::from_errno("writing " + path, n < 0 ? errno : ENOSPC);
  ::unlink(path.c_str());
  return failed;
}

Result<ClusterSecret> ClusterSecret::read(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return Status::from_errno("opening " + path, errno);
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return Status::from_errno("fstat " + path, errno);
  if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077) != 0) {
    return Status(StatusCode::kPermissionDenied,
                  path + " must be a regular file of this user with mode 0600");
  }
  char buffer[kFileBytesMax];
  ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
  if (n < 0) return Status::from_errno("reading " + path, errno);
  std::string_view rest(buffer, static_cast<size_t>(n));
  std::string_view first = next_line(&rest), id = next_line(&rest), bits = next_line(&rest);
  auto parsed_id = id_from_hex(id);
  auto high = bits.size() == 64 ? id_from_hex(bits.substr(0, 32)) : std::nullopt;
  auto low = bits.size() == 64 ? id_from_hex(bits.substr(32)) : std::nullopt;
  if (first != kFirstLine || !parsed_id || !high || !low) {
    return Status(StatusCode::kCorrupt, path + " holds no cluster secret");
  }
  ClusterSecret out;
  out.cluster = id_to_hex((*parsed_id)[0], (*parsed_id)[1]);
  uint64_t words[4] = {(*high)[0], (*high)[1], (*low)[0], (*low)[1]};
  std::memcpy(out.token.data(), words, sizeof words);
  return out;
}

std::array<unsigned char, 32> ClusterSecret::derive_key(const std::string& use) const {
  std::array<unsigned char, 32> key;
  size_t size = key.size();
  EVP_PKEY_CTX* context = EVP_PKEY_CTX_new_id(EVP_PKEY_HKDF, nullptr);
  auto bytes = [](const void* data) { return static_cast<const unsigned char*>(data); };
  SHEAF_CHECK(context != nullptr && EVP_PKEY_derive_init(context) == 1 &&
              EVP_PKEY_CTX_set_hkdf_md(context, EVP_sha256()) == 1 &&
              EVP_PKEY_CTX_set1_hkdf_salt(context, bytes(cluster.data()),
                                          static_cast<int>(cluster.size())) == 1 &&
              EVP_PKEY_CTX_set1_hkdf_key(context, bytes(token.data()),
                                         static_cast<int>(token.size())) == 1 &&
              EVP_PKEY_CTX_add1_hkdf_info(context, bytes(use.data()),
                                          static_cast<int>(use.size())) == 1 &&
              EVP_PKEY_derive(context, key.data(), &size) == 1 && size == key.size());
  EVP_PKEY_CTX_free(context);
  return key;
}

}  // namespace sheaf::transport
