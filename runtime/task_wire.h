// The records on a direct lane between a caller and a worker. Lane message types below 0x100.
//
// A call's constant part (function, method, name, options) is a template, sent once per lane; a task record then
// costs 40 bytes plus its arguments. The task's id is {caller process, cookie}; the cookie is the id of its first
// return object, so that the caller finds its table entry by index and the worker can name the results.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/ids.h"
#include "core/wire.h"
#include "scheduler/protocol.h"

namespace sheaf::runtime {

enum class LaneType : uint16_t {
  kTemplate = 1,    // caller -> worker: TemplateDef
  kLeaseInfo = 2,   // caller -> worker: LeaseInfo, before the first task of a lease
  kTask = 3,        // caller -> worker: TaskHead, extra return ids, dependencies, arguments
  kReply = 4,       // worker -> caller: ReplyHead, values
  kCancel = 5,      // caller -> worker: CancelHead
  kSteal = 6,       // caller -> worker: u32 how many queued tasks to give back, newest first; UINT32_MAX = all
  kItem = 7,        // worker -> caller: one item of a streaming generator: ItemHead, value
  kItemAck = 8,     // caller -> worker: CancelHead with the number of items consumed in `flags` (back-pressure)
  kSlots = 10,      // worker -> caller: u32 how many of the caller's oldest unanswered tasks may be running; 1 if never sent
  kLeaseEnd = 9,    // caller -> worker: the lease is going back; drop its per-lane templates
};

enum TemplateFlags : uint32_t {
  kStreaming = 1u << 0,         // results come as kItem records
  kDynamicReturns = 1u << 1,    // num_returns="dynamic"
  kRetryExceptions = 1u << 2,   // the worker marks retryable user exceptions (which ones: in `blob`)
  kActorMethod = 1u << 3,
  kActorCreation = 1u << 4,
  kMaxCalls = 1u << 5,
  kOutOfOrder = 1u << 6,        // an actor's method: a call that waits for its arguments may be overtaken
};
struct TemplateDef {
  uint32_t index = 0;           // the caller's number, per lane
  FunctionId function;          // key in the "fn" key-value space; nil for actor methods
  uint32_t flags = 0;
  uint16_t n_returns = 1;
  uint32_t max_calls = 0;
  std::string method;           // actor methods
  std::string name;             // for people and the state API
  std::string concurrency_group;
  std::string blob;             // the language's own options, opaque here
  uint32_t generator_backpressure = 0;   // unconsumed items at most, 0 = no limit
  template <class A>
  void fields(A& a) {
    a(index, function, flags, n_returns, max_calls, method, name, concurrency_group, blob, generator_backpressure);
  }
};

struct LeaseInfo {
  uint64_t lease = 0;
  protocol::ResourceMap resources;
  protocol::Strategy strategy;
  std::map<std::string, std::vector<uint32_t>> devices;
  template <class A>
  void fields(A& a) { a(lease, resources, strategy, devices); }
};

enum TaskHeadFlags : uint32_t {
  kForeignReturns = 1u << 0,    // another process submitted it once: all return ids follow, not only further ones
};
// Followed by: (n_returns - 1) x u64 further return ids, or n_returns x ObjectId; n_deps x dependency; n_nested x ObjectId;
// args_bytes of encoded arguments.
struct TaskHead {
  uint64_t cookie;
  uint32_t template_index;
  uint16_t n_returns;
  uint16_t attempt;
  uint32_t n_deps;
  uint32_t n_nested;
  uint32_t args_bytes;
  uint32_t flags;
  uint64_t parent;              // cookie of the task that submitted this one, 0 = the driver's main thread
};
static_assert(sizeof(TaskHead) == 40);
// A dependency: u8 ValueState, 16-byte ObjectId, then u32 count + bytes (kInline), a Locator (kArena) or nothing (kPending:
// a task sent before on this lane makes it).

enum class ReplyStatus : uint16_t {
  kOk = 0,
  kError = 1,            // one value: the error, for every return; or a value or an error for each of them
  kRetryableError = 2,   // the same, and the template's options say that it may be run again
  kNotRun = 3,           // given back: never started
  kCancelled = 4,
  kArgumentLost = 5,     // never started: the bytes of an argument are gone, and its maker has been told
  kArgumentMissing = 6,  // never started: an argument that should have been made here is not at hand
};
// Or-ed into a reply's status: the worker starts no further task and ends by itself (max_calls).
inline constexpr uint16_t kReplyLeaving = 0x8000;
// Followed by n_values x { u8 ValueState, u32 n_contained, (u32 count + bytes | Locator), n_contained x ObjectId }.
struct TaskReplyHead {
  uint64_t cookie;
  uint32_t exec_us;             // running time, saturating
  ReplyStatus status;
  uint16_t n_values;
};
static_assert(sizeof(TaskReplyHead) == 16);

struct ItemHead {
  uint64_t cookie;
  uint64_t index;               // 0, 1, 2, ...
};

struct CancelHead {
  uint64_t cookie;
  uint32_t flags;               // bit 0: force, bit 1: recursive
  uint32_t reserved;
};

}  // namespace sheaf::runtime
