// The cluster's secret: who has it belongs to the cluster, and nobody else is talked to.
//
// A cluster id (public) and 256 random bits, in a file that only its owner may read. The bits
// themselves never travel: both sides derive the TLS pre-shared key from them. Values; immutable.
#pragma once

#include <array>
#include <cstddef>
#include <string>

#include "core/status.h"

namespace sheaf::transport {

struct ClusterSecret {
  std::string cluster;              // 32 hexadecimal digits
  std::array<std::byte, 32> token;

  static ClusterSecret random();
  // Makes the file with mode 0600; kAlreadyExists when there is one, a link included.
  Status write_new(const std::string& path) const;
  // kPermissionDenied unless it is a regular file of our own user that nobody else may read or
  // write.
  static Result<ClusterSecret> read(const std::string& path);
  // HKDF-SHA256(token, salt = cluster, info = `use`).
  std::array<unsigned char, 32> derive_key(const std::string& use) const;
};

}  // namespace sheaf::transport
