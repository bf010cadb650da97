// Remote functions.
//
//   int square(int x) { return x * x; }
//   SHEAF_REMOTE(square);                                     // at namespace scope, in the user's library
//   ...
//   sheaf::ObjectRef<int> ref = sheaf::task(square).remote(7);
//   auto heavy = sheaf::task(square).num_cpus(2).name("heavy");
//   heavy.remote(ref);                                        // a reference where a value is expected
//
// A builder is a value; keep it where calls are many. remote() never blocks, and is thread-safe as long as nobody changes
// the options of the same builder.
#pragma once

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
    cache_ = TemplateCache();
    if (!options_) options_ = std::make_shared<CallOptions>();
    else if (options_.use_count() > 1) options_ = std::make_shared<CallOptions>(*options_);
    return *options_;
  }
  Self& self() { return static_cast<Self&>(*this); }

  std::shared_ptr<CallOptions> options_;   // null: all defaults. Shared by copies until one of them changes it
  mutable TemplateCache cache_;
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
  // For people: in lists and errors.
  Self& name(std::string text) {
    this->mutable_options().name = std::move(text);
    return this->self();
  }
};

Slot submit_task(Connection& c, runtime::TemplateId id, const CallBuffer& call);

template <class Params, class... A>
Slot call_function(Connection& c, runtime::TemplateId id, bool plain, const A&... args) {
  CallBuffer call(c.runtime);
  write_call(call, plain, Params(), std::index_sequence_for<A...>(), args...);
  return submit_task(c, id, call);
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
