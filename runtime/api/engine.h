// What the templates of the public C++ API call: this process's connection, calls, values, results. No templates here.
//
// Thread-safe. Nothing throws: failures are Status. A driver that uses the API before init() gets an embedded cluster.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/api/decoder.h"
#include "runtime/api/encoder.h"
#include "runtime/runtime.h"

namespace sheaf::internal {

using runtime::Deadline;
using runtime::kNoSlot;

// This process's membership of a cluster. Leaked when it ends, as references may outlive it.
struct Connection {
  runtime::Runtime* runtime = nullptr;
  uint32_t generation = 0;      // 1, 2, ...: counts connections of this process
  JobId job = 0;
  std::string name_space;
  std::string library;          // the shared library that C++ workers load
};
// The present connection, or null.
Connection* connection();
// The present connection; starts an embedded cluster when there is none and this is no worker.
Result<Connection*> connected();
void set_connection(Connection* connection);

// The task that this thread runs, null in drivers and in threads of the user's own.
runtime::IncomingTask* current_task();
void set_current_task(runtime::IncomingTask* task);
uint64_t current_cookie();
// The actor that this process is, null elsewhere. Set once, before its first method runs.
const protocol::ActorStart* current_actor();
void set_current_actor(const protocol::ActorStart& actor);
bool current_task_cancelled();

// ---- Values ------------------------------------------------------------------------------------------------------

// Memory for one encoded value with its reference table: inline, or in the arena. Fill bytes() behind table_bytes(), then
// store it one way. Given back when it is destroyed before that.
class ValueBuffer {
 public:
  // For a new object, or for return value `index` of `task`.
  static Result<ValueBuffer> create(runtime::Runtime* rt, size_t value_bytes, uint32_t refs,
                                    const runtime::IncomingTask* task = nullptr, uint32_t index = 0);
  ValueBuffer(ValueBuffer&& other) noexcept;
  ~ValueBuffer();

  MemorySink sink() { return MemorySink(bytes(), table_bytes_, size_, &refs_); }
  // A new object; the slot is the caller's.
  Result<Slot> put();
  // As `*out`, which refers to this buffer's memory.
  Status make_return(const runtime::IncomingTask& task, runtime::ReturnValue* out);

 private:
  ValueBuffer(runtime::Runtime* rt, size_t size, size_t table);
  std::byte* bytes();
  void write_table();

  runtime::Runtime* runtime_;
  size_t size_;
  size_t table_bytes_;
  std::string inline_;
  std::optional<runtime::PutBuffer> arena_;
  std::vector<Slot> refs_;
};

// Waits until the slot has a value and gives its bytes, kept in place by `*pin` if they are in the arena.
Result<runtime::ValueView> wait_and_view(runtime::Runtime* rt, Slot slot, Deadline deadline,
                                         std::shared_ptr<const void>* pin);
Status wait_for(runtime::Runtime* rt, std::span<const Slot> slots, size_t needed, Deadline deadline);
Deadline deadline_after(std::optional<std::chrono::nanoseconds> timeout);

// ---- Calls ---------------------------------------------------------------------------------------------------------

enum class CallKind : uint8_t { kFunction, kConstructor, kMethod };

// What .num_cpus(), .name() and the like collect.
struct CallOptions {
  protocol::ResourceMap resources;
  bool resources_given = false;
  protocol::Strategy strategy;
  int32_t max_retries = 3;
  bool retry_exceptions = false;
  std::string name;
  std::string runtime_env;
  uint32_t generator_backpressure = 0;
  uint32_t max_calls = 0;
};
void set_resource(CallOptions* options, const std::string& name, double amount);

// One callee. `label` is for people.
struct Callee {
  CallKind kind = CallKind::kFunction;
  FunctionId function;
  std::string label;
  std::string method;
  std::string language;       // "" = this process's C++ library
  std::string blob;
  uint32_t flags = 0;
  uint16_t n_returns = 1;
};

// The template that was made for a callee on some connection; shared by threads.
class TemplateCache {
 public:
  TemplateCache() = default;
  TemplateCache(const TemplateCache& other) : packed_(other.packed_.load(std::memory_order_relaxed)) {}
  TemplateCache& operator=(const TemplateCache& other) {
    packed_.store(other.packed_.load(std::memory_order_relaxed), std::memory_order_relaxed);
    return *this;
  }
  std::optional<runtime::TemplateId> find(const Connection& c) const {
    uint64_t packed = packed_.load(std::memory_order_relaxed);
    if (packed >> 32 != c.generation) return std::nullopt;
    return static_cast<runtime::TemplateId>(packed);
  }
  void remember(const Connection& c, runtime::TemplateId id) {
    packed_.store(uint64_t{c.generation} << 32 | id, std::memory_order_relaxed);
  }

 private:
  std::atomic<uint64_t> packed_{0};
};
// Equal callees with equal options share one template for the life of the connection. `options` may be null.
runtime::TemplateId template_of(Connection& c, const Callee& callee, const CallOptions* options,
                                TemplateCache* cache);
protocol::SchedulingClass scheduling_class(const Connection& c, const Callee& callee, const CallOptions* options);

// A call's arguments while they are written. On the stack; small calls allocate nothing.
class CallBuffer {
 public:
  explicit CallBuffer(runtime::Runtime* rt) : runtime_(rt) {}
  ~CallBuffer();
  CallBuffer(const CallBuffer&) = delete;

  runtime::Runtime* runtime() const { return runtime_; }
  MemorySink reserve(size_t size);
  void trim(size_t size) { size_ = size; }
  // An argument that becomes a dependency; `owned`: the buffer releases the slot.
  void add_dependency(Slot slot, bool owned);
  runtime::Arguments arguments() const;

 private:
  static constexpr size_t kSmallBytes = 1024;
  runtime::Runtime* runtime_;
  std::array<std::byte, kSmallBytes> small_;
  std::unique_ptr<std::byte[]> large_;
  size_t size_ = 0;
  std::vector<Slot> deps_, nested_, owned_;
};

// How many bytes of an argument may stand in the call itself.
inline constexpr size_t kArgumentBytesMax = objstore::kInlineBytes;

}  // namespace sheaf::internal
