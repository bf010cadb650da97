#include "objstore/node_objects.h"

#include <array>
#include <utility>

namespace sheaf::objstore {

SHEAF_DEFINE_VARIANT(ObjectMessage)

namespace {

constexpr std::array<std::string_view, std::variant_size_v<ObjectMessage::variant>> kNames{
    "Register", "Registered", "Drop",     "HandOff",  "HandOffDone", "Sealed", "Published", "Want",
    "Here",     "NotHere",    "CopyMade", "CopyGone", "Release",     "Keep",   "MakeCopy",  "Free",
    "CopyStarted", "Remember", "Forget"};

template <size_t I>
bool read_alternative(wire::Reader& reader, ObjectMessage& out) {
  reader(out.emplace<I>());
  return reader.ok();
}

}  // namespace

std::string encode(const ObjectMessage& message) {
  std::string out;
  wire::Writer writer(out);
  writer(static_cast<uint8_t>(message.index()));
  std::visit([&](const auto& m) { writer(m); }, message);
  return out;
}

Result<ObjectMessage> decode_object_message(wire::Bytes bytes) {
  wire::Reader reader(bytes);
  uint8_t index = 0;
  reader(index);
  ObjectMessage message;
  bool good = reader.ok() && index < kNames.size();
  if (good) {
    good = [&]<size_t... I>(std::index_sequence<I...>) {
      bool read = false;
      ((I == index && (read = read_alternative<I>(reader, message))), ...);
      return read;
    }(std::make_index_sequence<std::variant_size_v<ObjectMessage::variant>>());
  }
  if (!good) return Status(StatusCode::kCorrupt, "not a message between stores");
  return message;
}

std::string_view name_of(const ObjectMessage& message) { return kNames[message.index()]; }

}  // namespace sheaf::objstore
