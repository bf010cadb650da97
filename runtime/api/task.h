// Remote functions.
//
//   int square(int x) { return x * x; }
//   SHEAF_REMOTE(square);                                     // at namespace scope, in the user's library
//   ...
//   sheaf::ObjectRef<int> ref = sheaf::task(square).remote(7);
//   auto heavy = sheaf::task(square).num_cpus(2).name("heavy");
//   heavy.remote(ref);                                        // a reference where a value is expected
//   auto [q, r] = sheaf::task(divide).remote_split(7, 3);      // of a function that returns std::tuple<int, int>
//
// A builder is a value; keep it where calls are many. remote() never blocks, and is thread-safe as long as nobody changes
// the options of the same builder.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "runtime/api/objects.h"
#include "runtime/api/placement_group.h"
#include "runtime/api/registry.h"

namespace sheaf {

namespace internal {

// Options that tasks, actors and calls of other languages have in common.
template <class Self>
class WithOptions {
 public:
  Self& num_cpus(double n) { return resource("CPU", n); }
  Self& num_gpus(double n) { return resource("GPU", n); }
  Self& memory(uint64_t bytes) { return resource("memory", static_cast<double>(bytes)); }
  // Units of a custom resource.
  Self& resource(const std::string& name, double amount) {
    set_resource(&mutable_options(), name, amount);
    return self();
  }
  Self& spread() {
    mutable_options().strategy = {};
    mutable_options().strategy.kind = protocol::StrategyKind::kSpread;
    return self();
  }
  // On this node (hexadecimal, as runtime_context() gives it); `soft`: elsewhere when that one has no room or is gone.
  Self& node(const std::string& id, bool soft = false) {
    mutable_options().strategy = {};
    mutable_options().strategy.kind = protocol::StrategyKind::kNodeAffinity;
    mutable_options().strategy.node = id;
    mutable_options().strategy.soft = soft;
    return self();
  }
  // Only on nodes with these labels.
  Self& labels(const protocol::Labels& hard) {
    mutable_options().strategy.kind = protocol::StrategyKind::kNodeLabel;
    mutable_options().strategy.hard_labels = hard;
    return self();
  }
  // Inside a bundle of a placement group; -1: any.
  Self& placement_group(const PlacementGroup& group, int bundle = -1) {
    auto& strategy = mutable_options().strategy;
    strategy = {};
    strategy.kind = protocol::StrategyKind::kPlacementGroup;
    strategy.group = group.id();
    strategy.bundle = bundle;
    return self();
  }
  Self& runtime_env(std::string json) {
    mutable_options().runtime_env = std::move(json);
    return self();
  }

 protected:
  CallOptions& mutable_options() {
    cache_ = split_cache_ = TemplateCache();
    if (!options_) options_ = std::make_shared<CallOptions>();
    else if (options_.use_count() > 1) options_ = std::make_shared<CallOptions>(*options_);
    return *options_;
  }
  Self& self() { return static_cast<Self&>(*this); }

  std::shared_ptr<CallOptions> options_;   // null: all defaults. Shared by copies until one of them changes it
  mutable TemplateCache cache_, split_cache_;
};

template <class Self>
class WithTaskOptions : public WithOptions<Self> {
 public:
  // How often it may be run again when its worker dies; -1: for ever.
  Self& max_retries(int n) {
    this->mutable_options().max_retries = n;
    return this->self();
  }
  // Exceptions of the function are retried too.
  Self& retry_exceptions(bool on = true) {
    this->mutable_options().retry_exceptions = on;
    return this->self();
  }
  // The worker process ends, and another takes its place, after so many calls of the function; 0: never.
  Self& max_calls(uint32_t n) {
    this->mutable_options().max_calls = n;
    return this->self();
  }
  // For people: in lists and errors.
  Self& name(std::string text) {
    this->mutable_options().name = std::move(text);
    return this->self();
  }
};

// Writes as many slots as the template has return values.
void submit_task(Connection& c, runtime::TemplateId id, const CallBuffer& call, Slot* returns);

template <class Params, class... A>
Slot call_function(Connection& c, runtime::TemplateId id, bool plain, const A&... args) {
  CallBuffer call(c.runtime);
  write_call(call, plain, Params(), std::index_sequence_for<A...>(), args...);
  Slot slot = kNoSlot;
  submit_task(c, id, call, &slot);
  return slot;
}

// What a function returns (a std::tuple, pair or array), element by element.
template <class T>
struct Split {
  static constexpr bool possible = false;
  static constexpr size_t size = 0;
};
template <class T>
  requires requires { std::tuple_size<T>::value; }
struct Split<T> {
  static constexpr bool possible = std::tuple_size_v<T> > 0;
  static constexpr size_t size = std::tuple_size_v<T>;
  template <size_t... I>
  static auto references(runtime::Runtime* rt, const Slot* slots, std::index_sequence<I...>) {
    return std::tuple<ObjectRef<std::tuple_element_t<I, T>>...>(
        ObjectRef<std::tuple_element_t<I, T>>(rt, slots[I])...);
  }
};

// The template of a callee that gives `n` values.
template <size_t n>
runtime::TemplateId split_template(Connection& c, const Callee& callee, const CallOptions* options,
                                   TemplateCache* cache) {
  if (auto known = cache->find(c)) return *known;
  Callee several = callee;
  several.n_returns = static_cast<uint16_t>(n);
  return template_of(c, several, options, cache);
}

}  // namespace internal

// F: a pointer to function.
template <class F>
class Task : public internal::WithTaskOptions<Task<F>> {
  using Traits = internal::CallableTraits<F>;
  using Result = std::remove_cvref_t<typename Traits::Result>;
  using Item = typename Traits::Item;

 public:
  explicit Task(internal::FunctionEntry* entry) : entry_(entry) {}

  // A streaming function stays so many items ahead of its consumer at most; 0: no limit.
  Task& backpressure(uint32_t items) {
    this->mutable_options().generator_backpressure = items;
    return *this;
  }

  // An ObjectRef<R>, or an ObjectRefStream<T> when the function's first parameter is a Stream<T>&.
  template <class... A>
  auto remote(const A&... args) const {
    auto* c = internal::check(internal::connected());
    auto id = this->options_ ? internal::template_of(*c, callee(), this->options_.get(), &this->cache_)
                             : internal::template_of(*c, callee(), nullptr, &entry_->cache);
    internal::RefBase ref(c->runtime, internal::call_function<typename Traits::Params>(*c, id, false, args...));
    if constexpr (Traits::streaming) return ObjectRefStream<Item>(std::move(ref));
    else return ObjectRef<Result>(std::move(ref));
  }

  // One reference for each element of the std::tuple, pair or array that the function returns, as a std::tuple: each
  // value is an object of its own.
  template <class... A>
  auto remote_split(const A&... args) const {
    using Parts = internal::Split<Result>;
    static_assert(Parts::possible, "remote_split() is for functions that return a std::tuple, pair or array");
    auto* c = internal::check(internal::connected());
    auto id = internal::split_template<Parts::size>(*c, callee(), this->options_.get(),
                                                    this->options_ ? &this->split_cache_ : &entry_->split_cache);
    internal::CallBuffer call(c->runtime);
    internal::write_call(call, false, typename Traits::Params(), std::index_sequence_for<A...>(), args...);
    std::array<internal::Slot, Parts::size> slots;
    internal::submit_task(*c, id, call, slots.data());
    return Parts::references(c->runtime, slots.data(), std::make_index_sequence<Parts::size>());
  }

 private:
  const internal::Callee& callee() const { return entry_->callee; }
  internal::FunctionEntry* entry_;
};

namespace internal {
FunctionEntry* function_or_throw(const PointerKey& key);
}

// `function` must be registered by SHEAF_REMOTE, else ArgumentError.
template <class R, class... P>
Task<R (*)(P...)> task(R (*function)(P...)) {
  return Task<R (*)(P...)>(internal::function_or_throw(internal::pointer_key(function)));
}

namespace internal {

template <auto F>
bool register_remote(const char* name, const void* here) {
  FunctionEntry* entry = register_function(name, pointer_key(F), &invoke_function<F>, here);
  if (CallableTraits<decltype(F)>::streaming) entry->callee.flags = runtime::kStreaming;
  return true;
}

}  // namespace internal
}  // namespace sheaf

#define SHEAF_JOIN_INNER(a, b) a##b
#define SHEAF_JOIN(a, b) SHEAF_JOIN_INNER(a, b)
// Registers a function under its name as written here. At namespace scope.
#define SHEAF_REMOTE(function) SHEAF_REMOTE_AS(function, SHEAF_JOIN(sheaf_remote_, __COUNTER__))
#define SHEAF_REMOTE_AS(function, variable)         \
  [[maybe_unused]] static const bool variable =     \
      ::sheaf::internal::register_remote<&function>(#function, &variable)
