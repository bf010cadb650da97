// Identities. All of them are made without coordination by the process that needs one.
//
// An ObjectId names one immutable value: {home node and its incarnation, creating process, slot and generation of
// the creator's object table}. The creator finds its own objects by index; everybody else hashes. Ids are distinct
// types, so that an actor cannot be passed for an object; all print as 32 hexadecimal digits.
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

// Number of a process within its cluster, given out by the node daemon, never reused; 0 = none, 1 = the daemon.
using ProcessId = uint32_t;
inline constexpr ProcessId kNoProcess = 0;
inline constexpr ProcessId kDaemonProcess = 1;

// 128 bits. `hi` = node:16 | incarnation:16 | process:32, `lo` is the creator's own sequence. All zero = nil.
template <class Tag>
struct Id {
  uint64_t hi = 0;
  uint64_t lo = 0;

  static Id make(uint16_t node, uint16_t incarnation, ProcessId process, uint64_t sequence) {
    return {uint64_t{node} << 48 | uint64_t{incarnation} << 32 | process, sequence};
  }
  bool is_nil() const { return hi == 0 && lo == 0; }
  uint16_t node() const { return static_cast<uint16_t>(hi >> 48); }
  uint16_t incarnation() const { return static_cast<uint16_t>(hi >> 32); }
  ProcessId process() const { return static_cast<ProcessId>(hi); }
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
