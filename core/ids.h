// Identities. All of them are made without coordination by the process that needs one.
//
// An ObjectId names one immutable value: {creating process, slot and generation of the creator's
// object table}. The creator finds its own objects by index; everybody else hashes. Ids are
// distinct types, so that an actor cannot be passed for an object; all print as 32 hexadecimal
// digits.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace sheaf {

// A process of the cluster: node:16 | the node's incarnation:16 | number:32, given out by its node
// daemon, never reused. 0 = none. The daemon of every node has number 1; on its own node it is
// kDaemonProcess.
using ProcessId = uint64_t;
inline constexpr ProcessId kNoProcess = 0;
inline constexpr ProcessId kDaemonProcess = 1;

constexpr ProcessId make_process(uint16_t node, uint16_t incarnation, uint32_t number) {
  return uint64_t{node} << 48 | uint64_t{incarnation} << 32 | number;
}
constexpr uint16_t node_of(ProcessId process) { return static_cast<uint16_t>(process >> 48); }
constexpr uint16_t incarnation_of(ProcessId process) {
  return static_cast<uint16_t>(process >> 32);
}
constexpr uint32_t number_of(ProcessId process) { return static_cast<uint32_t>(process); }

// 128 bits. `hi` is the creating process, `lo` its own sequence. All zero = nil.
template <class Tag>
struct Id {
  uint64_t hi = 0;
  uint64_t lo = 0;

  static Id make(ProcessId process, uint64_t sequence) { return {process, sequence}; }
  bool is_nil() const { return hi == 0 && lo == 0; }
  ProcessId process() const { return hi; }
  uint16_t node() const { return node_of(hi); }
  uint16_t incarnation() const { return incarnation_of(hi); }
  auto operator<=>(const Id&) const = default;
};
static_assert(sizeof(Id<struct AnyTag>) == 16);

using ObjectId = Id<struct ObjectTag>;
using TaskId = Id<struct TaskTag>;              // equals the id of the task's first return object
using ActorId = Id<struct ActorTag>;
using PlacementGroupId = Id<struct PlacementGroupTag>;
using LeaseId = Id<struct LeaseTag>;
using FunctionId = Id<struct FunctionTag>;      // 128 bits of the definition's hash
using NodeId = Id<struct NodeTag>;
using JobId = uint32_t;

// 32 lower-case hexadecimal digits, `hi` first.
std::string id_to_hex(uint64_t hi, uint64_t lo);
template <class Tag>
std::string to_hex(const Id<Tag>& id) { return id_to_hex(id.hi, id.lo); }
// Nothing when the text is not exactly 32 hexadecimal digits.
std::optional<std::array<uint64_t, 2>> id_from_hex(std::string_view text);

// splitmix64 over both halves: slots and processes are small numbers, so the raw bits hash badly.
struct IdHash {
  template <class Tag>
  size_t operator()(const Id<Tag>& id) const {
    uint64_t x = id.hi * 0x9e3779b97f4a7c15ull ^ id.lo;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return static_cast<size_t>(x ^ (x >> 31));
  }
};

}  // namespace sheaf

template <class Tag>
struct std::hash<sheaf::Id<Tag>> : sheaf::IdHash {};
