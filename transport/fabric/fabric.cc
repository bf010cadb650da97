#include "transport/fabric/fabric.h"

#include <arpa/inet.h>
#include <fmt/core.h>

#include <charconv>
#include <utility>

namespace sheaf::transport {

std::string to_string(const PeerId& id) {
  if (id.node == kNoNode) return fmt::format("new.{}", id.incarnation);
  return fmt::format("{}.{}", id.node, id.incarnation);
}

std::string to_string(const FabricAddress& address) {
  bool v6 = address.host.find(':') != std::string::npos;
  return v6 ? fmt::format("[{}]:{}", address.host, address.port)
            : fmt::format("{}:{}", address.host, address.port);
}

Result<FabricAddress> parse_fabric_address(std::string_view text) {
  const Status wrong(StatusCode::kInvalidArgument,
                     fmt::format("'{}' is no address: 10.0.0.1:4711 or [::1]:4711", text));
  size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return wrong;
  std::string_view host = text.substr(0, colon), port = text.substr(colon + 1);
  if (host.front() == '[') {
    if (host.size() < 3 || host.back() != ']') return wrong;
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return wrong;   // where does it end?
  }
  FabricAddress out{std::string(host), 0};
  auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), out.port);
  unsigned char binary[sizeof(in6_addr)];
  bool numeric = inet_pton(AF_INET, out.host.c_str(), binary) == 1 ||
                 inet_pton(AF_INET6, out.host.c_str(), binary) == 1;
  if (error != std::errc() || end != port.data() + port.size() || out.port == 0 || !numeric) {
    return wrong;
  }
  return out;
}

CreditHold& CreditHold::operator=(CreditHold&& other) noexcept {
  if (this == &other) return *this;
  release();
  source_ = std::exchange(other.source_, {});
  messages_ = std::exchange(other.messages_, 0);
  bytes_ = std::exchange(other.bytes_, 0);
  return *this;
}

void CreditHold::release() {
  std::shared_ptr<CreditSource> source = std::exchange(source_, {}).lock();
  uint64_t messages = std::exchange(messages_, 0), bytes = std::exchange(bytes_, 0);
  if (source) source->return_credit(messages, bytes);
}

}  // namespace sheaf::transport
