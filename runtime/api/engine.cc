#include "runtime/api/engine.h"

#include <cmath>
#include <mutex>

#include "runtime/api/cluster.h"

namespace sheaf::internal {

using runtime::Runtime;
using runtime::WaitOutcome;

namespace {

std::atomic<Connection*> g_connection{nullptr};
std::mutex g_auto_init;                         // init() blocks: two threads must not start two clusters

std::mutex g_templates_lock;                    // a map that is looked up once for each new set of options
std::map<std::string, runtime::TemplateId> g_templates;
uint32_t g_templates_generation = 0;

thread_local runtime::IncomingTask* t_task = nullptr;
protocol::ActorStart g_actor;                   // written before any thread serves methods

size_t table_size(uint32_t refs) {
  size_t n = refs == 0 ? 0 : 8 + 16 * size_t{refs};
  return (n + objstore::kObjectAlignment - 1) / objstore::kObjectAlignment * objstore::kObjectAlignment;
}

}  // namespace

Connection* connection() { return g_connection.load(std::memory_order_acquire); }
void set_connection(Connection* c) { g_connection.store(c, std::memory_order_release); }

Result<Connection*> connected() {
  if (Connection* c = connection()) return c;
  std::lock_guard guard(g_auto_init);
  if (Connection* c = connection()) return c;
  SHEAF_TRY(join_cluster(Options{}));
  return connection();
}

runtime::IncomingTask* current_task() { return t_task; }
void set_current_task(runtime::IncomingTask* task) { t_task = task; }
uint64_t current_cookie() { return t_task ? t_task->id.lo : 0; }

const protocol::ActorStart* current_actor() { return g_actor.spec.actor.is_nil() ? nullptr : &g_actor; }
void set_current_actor(const protocol::ActorStart& actor) { g_actor = actor; }

bool current_task_cancelled() {
  Connection* c = connection();
  return c && t_task && c->runtime->cancel_requested(*t_task);
}

// ---- Values --------------------------------------------------------------------------------------------------------

ValueBuffer::ValueBuffer(Runtime* rt, size_t size, size_t table)
    : runtime_(rt), size_(size), table_bytes_(table) {}

Result<ValueBuffer> ValueBuffer::create(Runtime* rt, size_t value_bytes, uint32_t refs,
                                        const runtime::IncomingTask* task, uint32_t index) {
  size_t table = table_size(refs);
  ValueBuffer buffer(rt, table + value_bytes, table);
  if (buffer.size_ <= objstore::kInlineBytes) {
    buffer.inline_.resize(buffer.size_);
    return buffer;
  }
  auto arena = task ? rt->return_begin(*task, index, buffer.size_) : rt->put_begin(buffer.size_);
  if (!arena) return arena.status();
  buffer.arena_ = *arena;
  return buffer;
}

ValueBuffer::ValueBuffer(ValueBuffer&& other) noexcept
    : runtime_(other.runtime_), size_(other.size_), table_bytes_(other.table_bytes_),
      inline_(std::move(other.inline_)), arena_(std::exchange(other.arena_, std::nullopt)),
      refs_(std::move(other.refs_)) {}

ValueBuffer::~ValueBuffer() {
  if (arena_) runtime_->put_abort(*arena_);
}

std::byte* ValueBuffer::bytes() {
  return arena_ ? arena_->bytes.data() : reinterpret_cast<std::byte*>(inline_.data());
}

void ValueBuffer::write_table() {
  if (table_bytes_ == 0) return;
  std::byte* out = bytes();
  std::memset(out, 0, table_bytes_);
  out[0] = static_cast<std::byte>(ValueTag::kRefTable);
  uint32_t n = static_cast<uint32_t>(refs_.size());
  SHEAF_CHECK(table_size(n) == table_bytes_);
  std::memcpy(out + 4, &n, sizeof n);
  for (uint32_t i = 0; i < n; ++i) {
    ObjectId id = runtime_->id(refs_[i]);
    std::memcpy(out + 8 + 16 * size_t{i}, &id, 16);
  }
}

Result<Slot> ValueBuffer::put() {
  write_table();
  if (!arena_) return runtime_->put_inline(wire::as_bytes(inline_), refs_);
  auto slot = runtime_->put_seal(*arena_, refs_);
  if (slot) arena_.reset();
  return slot;
}

Status ValueBuffer::make_return(const runtime::IncomingTask& task, runtime::ReturnValue* out) {
  write_table();
  out->nested = refs_;
  if (!arena_) {
    out->inline_bytes = wire::as_bytes(inline_);
    return Status::ok();
  }
  SHEAF_TRY(runtime_->seal_return(*arena_, task, refs_));
  out->sealed = arena_->locator;
  out->sealed_id = arena_->id;
  arena_.reset();
  return Status::ok();
}

Deadline deadline_after(std::optional<std::chrono::nanoseconds> timeout) {
  if (!timeout) return runtime::kNever;
  auto now = runtime::Clock::now();
  return *timeout > runtime::kNever - now ? runtime::kNever : now + *timeout;
}

Status wait_for(Runtime* rt, std::span<const Slot> slots, size_t needed, Deadline deadline) {
  for (;;) {
    switch (rt->wait(slots, needed, deadline)) {
      case WaitOutcome::kReady: return Status::ok();
      case WaitOutcome::kTimeout: return Status(StatusCode::kTimeout, "the value was not ready in time");
      case WaitOutcome::kDisconnected:
        return Status(StatusCode::kDisconnected, "the cluster is gone: its node daemon has ended, or shutdown() was called");
      case WaitOutcome::kInterrupted: break;
    }
  }
}

Result<runtime::ValueView> wait_and_view(Runtime* rt, Slot slot, Deadline deadline,
                                         std::shared_ptr<const void>* pin) {
  for (;;) {
    SHEAF_TRY(wait_for(rt, {&slot, 1}, 1, deadline));
    uint64_t handle = 0;
    auto view = rt->view(slot, &handle);
    if (view) {
      if (handle != 0) *pin = std::make_shared<PinHolder>(rt, handle);
      return view;
    }
    if (view.status().code() != StatusCode::kNotFound) return view.status();   // else spilled meanwhile
  }
}

// ---- Calls ---------------------------------------------------------------------------------------------------------

void set_resource(CallOptions* options, const std::string& name, double amount) {
  options->resources_given = true;
  auto units = static_cast<protocol::ResourceAmount>(std::llround(amount * protocol::kResourceUnit));
  if (units > 0) options->resources[name] = units;
  else options->resources.erase(name);
}

protocol::SchedulingClass scheduling_class(const Connection& c, const Callee& callee, const CallOptions* options) {
  protocol::SchedulingClass placement;
  placement.language = callee.language.empty() ? "cpp:" + c.library : callee.language;
  if (options) {
    placement.resources = options->resources;
    placement.strategy = options->strategy;
    placement.runtime_env = options->runtime_env;
  }
  bool default_cpu = callee.kind == CallKind::kFunction && (!options || !options->resources_given);
  if (default_cpu) placement.resources["CPU"] = protocol::kResourceUnit;
  return placement;
}

runtime::TemplateId template_of(Connection& c, const Callee& callee, const CallOptions* options,
                                TemplateCache* cache) {
  if (cache) {
    if (auto known = cache->find(c)) return *known;
  }
  runtime::TaskTemplate t;
  t.function = callee.function;
  t.method = callee.method;
  t.blob = callee.blob;
  t.flags = callee.flags;
  t.n_returns = callee.n_returns;
  t.name = options && !options->name.empty() ? options->name : callee.label;
  if (callee.kind == CallKind::kMethod) t.flags |= runtime::kActorMethod;
  else t.placement = scheduling_class(c, callee, options);
  if (callee.kind == CallKind::kConstructor) t.flags |= runtime::kActorCreation;
  if (options) {
    t.max_retries = options->max_retries;
    t.generator_backpressure = options->generator_backpressure;
    t.max_calls = options->max_calls;
    if (t.max_calls > 0) t.flags |= runtime::kMaxCalls;
    if (options->retry_exceptions) t.flags |= runtime::kRetryExceptions;
  }
  std::string key;
  wire::Writer w(key);
  w(t.function, t.method, t.blob, t.flags, t.n_returns, t.name, t.max_retries, t.generator_backpressure,
    t.max_calls, t.placement);
  std::lock_guard guard(g_templates_lock);
  if (std::exchange(g_templates_generation, c.generation) != c.generation) g_templates.clear();
  auto [entry, fresh] = g_templates.try_emplace(key, 0);
  if (fresh) entry->second = c.runtime->define_template(std::move(t));
  if (cache) cache->remember(c, entry->second);
  return entry->second;
}

CallBuffer::~CallBuffer() {
  for (Slot slot : owned_) runtime_->release(slot);
}

MemorySink CallBuffer::reserve(size_t size) {
  size_ = size;
  if (size > kSmallBytes) large_ = std::make_unique_for_overwrite<std::byte[]>(size);
  return MemorySink(large_ ? large_.get() : small_.data(), 0, size, &nested_);
}

void CallBuffer::add_dependency(Slot slot, bool owned) {
  if (deps_.capacity() == 0) deps_.reserve(4);   // one allocation for the few that calls have
  deps_.push_back(slot);
  if (owned) owned_.push_back(slot);
}

runtime::Arguments CallBuffer::arguments() const {
  const std::byte* data = large_ ? large_.get() : small_.data();
  return {{data, size_}, deps_, nested_};
}

}  // namespace sheaf::internal
