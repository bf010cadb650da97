#include "scheduler/node_messages.h"

#include <utility>

namespace sheaf::scheduler {

SHEAF_DEFINE_VARIANT(NodeMessage)
SHEAF_DEFINE_VARIANT(AgentReport)

namespace {

template <class Variant>
std::string encode_variant(const Variant& value) {
  std::string out;
  wire::Writer writer(out);
  writer(static_cast<uint8_t>(value.index()));
  std::visit([&](const auto& alternative) { writer(alternative); }, value);
  return out;
}

template <class Variant, size_t... kIndices>
Result<Variant> decode_variant(wire::Bytes bytes, std::index_sequence<kIndices...>) {
  wire::Reader reader(bytes);
  uint8_t index = 0;
  reader(index);
  Variant value;
  const auto read_as = [&]<size_t kIndex>() {
    if (index != kIndex) return false;
    reader(value.template emplace<kIndex>());
    return true;
  };
  const bool known = (read_as.template operator()<kIndices>() || ...);
  if (!known || !reader.ok()) {
    return Status(StatusCode::kCorrupt, "truncated or malformed message between nodes");
  }
  return value;
}

template <class Variant>
Result<Variant> decode_variant(wire::Bytes bytes) {
  constexpr size_t kAlternatives = std::variant_size_v<typename Variant::variant>;
  return decode_variant<Variant>(bytes, std::make_index_sequence<kAlternatives>());
}

}  // namespace

std::string encode(const NodeMessage& message) { return encode_variant(message); }
std::string encode(const AgentReport& report) { return encode_variant(report); }

Result<NodeMessage> decode_node_message(wire::Bytes bytes) {
  return decode_variant<NodeMessage>(bytes);
}
Result<AgentReport> decode_agent_report(wire::Bytes bytes) {
  return decode_variant<AgentReport>(bytes);
}

}  // namespace sheaf::scheduler
