// Actors: objects that live in a process of their own.
//
//   class Counter {
//    public:
//     explicit Counter(int start) : n_(start) {}
//     int add(int by) { return n_ += by; }
//    private:
//     int n_;
//   };
//   SHEAF_ACTOR(Counter, (int), add)          // at global scope: class, constructor's parameters, methods
//   ...
//   auto counter = sheaf::actor<Counter>().name("hits").max_restarts(1).remote(10);
//   int n = sheaf::get(counter.task(&Counter::add).remote(5));
//
// Calls of one caller run in the order in which they were made. Every call runs in the actor's own thread; with
// max_concurrency(n) there are n threads and no order, and the class must be thread-safe.
#pragma once

#include <string>
#include <typeindex>

#include "runtime/api/actor_ref.h"
#include "runtime/api/task.h"

namespace sheaf {

// Specialised by SHEAF_ACTOR: `using Constructor = void(parameters...)`.
template <class C>
struct ActorTraits;

namespace internal {
ClassEntry* class_or_throw(std::type_index type);
MethodEntry* method_or_throw(const PointerKey& key);
}  // namespace internal

// M: a pointer to member function.
template <class M>
class ActorTask {
  using Traits = internal::CallableTraits<M>;
  using Result = std::remove_cvref_t<typename Traits::Result>;

 public:
  ActorTask(internal::ActorRef actor, internal::MethodEntry* entry, uint32_t max_pending)
      : actor_(std::move(actor)), entry_(entry), max_pending_(max_pending) {}

  // How often the call may be repeated when the actor dies during it and is restarted; -1: for ever.
  ActorTask& max_retries(int n) {
    max_retries_ = n;
    return *this;
  }
  // Never blocks. Throws PendingCallsError when the handle's max_pending_calls are unanswered.
  template <class... A>
  auto remote(const A&... args) const {
    auto* c = internal::check(internal::connected());
    auto id = internal::template_of(*c, entry_->callee, nullptr, &entry_->cache);
    internal::RefBase ref(c->runtime, internal::call_method<typename Traits::Params>(
                                          *c, actor_, id, false, max_retries_, max_pending_, args...));
    if constexpr (Traits::streaming) return ObjectRefStream<typename Traits::Item>(std::move(ref));
    else return ObjectRef<Result>(std::move(ref));
  }

  // As Task::remote_split().
  template <class... A>
  auto remote_split(const A&... args) const {
    using Parts = internal::Split<Result>;
    static_assert(Parts::possible, "remote_split() is for methods that return a std::tuple, pair or array");
    auto* c = internal::check(internal::connected());
    auto id = internal::split_template<Parts::size>(*c, entry_->callee, nullptr, &entry_->split_cache);
    internal::CallBuffer call(c->runtime);
    internal::write_call(call, false, typename Traits::Params(), std::index_sequence_for<A...>(), args...);
    std::array<internal::Slot, Parts::size> slots;
    internal::submit_method(*c, actor_, id, call, max_retries_, max_pending_, slots.data());
    return Parts::references(c->runtime, slots.data(), std::make_index_sequence<Parts::size>());
  }

 private:
  internal::ActorRef actor_;
  internal::MethodEntry* entry_;
  int32_t max_retries_ = 0;
  uint32_t max_pending_;
};

template <class C>
class ActorHandle : public internal::ActorRef {
 public:
  ActorHandle() = default;
  explicit ActorHandle(ActorRef ref, uint32_t max_pending = 0)
      : ActorRef(std::move(ref)), max_pending_(max_pending) {}

  // `method` must be named in SHEAF_ACTOR, else ArgumentError.
  template <class M>
  ActorTask<M> task(M method) const {
    return ActorTask<M>(*this, internal::method_or_throw(internal::pointer_key(method)), max_pending_);
  }
  // At most so many unanswered calls through this handle and its copies in this process; 0: no limit.
  ActorHandle& max_pending_calls(uint32_t n) {
    max_pending_ = n;
    return *this;
  }

 private:
  uint32_t max_pending_ = 0;
};

template <class C>
struct Codec<ActorHandle<C>> {
  template <class E>
  static void write(E& e, const ActorHandle<C>& handle) { internal::write_actor(e, handle); }
  static void read(internal::Decoder& d, ActorHandle<C>& out) { out = ActorHandle<C>(internal::read_actor(d)); }
};

namespace internal {

template <class Self>
class WithActorOptions : public WithOptions<Self> {
 public:
  // get_actor() finds it under this name, in this namespace (default: the driver's own).
  Self& name(std::string text, std::string name_space = "") {
    actor_.name = std::move(text);
    actor_.name_space = std::move(name_space);
    return this->self();
  }
  // It outlives its creator; ends by kill() or with the cluster.
  Self& detached(bool on = true) {
    actor_.detached = on;
    return this->self();
  }
  Self& get_if_exists(bool on = true) {
    actor_.get_if_exists = on;
    return this->self();
  }
  Self& max_restarts(int n) {
    actor_.max_restarts = n;
    return this->self();
  }
  // Threads that run methods; more than one means no order among calls.
  Self& max_concurrency(uint32_t n) {
    actor_.max_concurrency = n;
    return this->self();
  }
  // A call whose arguments are ready may overtake one whose are not.
  Self& out_of_order(bool on = true) {
    actor_.out_of_order = on;
    return this->self();
  }

 protected:
  ActorOptions actor_;
};

}  // namespace internal

template <class C>
class ActorBuilder : public internal::WithActorOptions<ActorBuilder<C>> {
 public:
  // Returns at once; calls wait until the constructor has run. With a name: blocks until the name is known to be free,
  // and throws ArgumentError when it is taken.
  template <class... A>
  ActorHandle<C> remote(const A&... args) const {
    auto* c = internal::check(internal::connected());
    internal::ClassEntry* entry = internal::class_or_throw(typeid(C));
    internal::CallBuffer call(c->runtime);
    write(call, args...);
    return ActorHandle<C>(internal::start_actor(*c, entry->constructor, this->options_.get(), this->actor_,
                                                "cpp:" + entry->constructor.label, call));
  }

 private:
  template <class... P>
  static internal::Parameters<P...> parameters(void (*)(P...));
  template <class... A>
  static void write(internal::CallBuffer& call, const A&... args) {
    using Params = decltype(parameters(static_cast<typename ActorTraits<C>::Constructor*>(nullptr)));
    internal::write_call(call, false, Params(), std::index_sequence_for<A...>(), args...);
  }
};

template <class C>
ActorBuilder<C> actor() { return {}; }

// A named actor of class C, from any process of the cluster. Throws ArgumentError when there is none.
template <class C>
ActorHandle<C> get_actor(const std::string& name, const std::string& name_space = "") {
  return ActorHandle<C>(internal::find_actor(name, name_space).first);
}

// In a method: ends this actor after the call.
void exit_actor();

namespace internal {

template <class C>
ClassEntry* register_actor(const char* name, const void* here) {
  using Make = Construct<C, typename ActorTraits<C>::Constructor>;
  return register_class(name, typeid(C), &Make::invoke, &Make::destroy, here);
}
template <class C, auto M>
bool register_actor_method(ClassEntry* to, const char* name) {
  register_method(to, name, pointer_key(M), &invoke_method<C, M>);
  if (CallableTraits<decltype(M)>::streaming) find_method(pointer_key(M))->callee.flags = runtime::kStreaming;
  return true;
}

}  // namespace internal
}  // namespace sheaf

// SHEAF_EACH(m, fixed, a, b, ...): m(fixed, a) m(fixed, b) ..., for up to some 250 arguments.
#define SHEAF_PARENS ()
#define SHEAF_SCAN(...) SHEAF_SCAN3(SHEAF_SCAN3(SHEAF_SCAN3(SHEAF_SCAN3(__VA_ARGS__))))
#define SHEAF_SCAN3(...) SHEAF_SCAN2(SHEAF_SCAN2(SHEAF_SCAN2(SHEAF_SCAN2(__VA_ARGS__))))
#define SHEAF_SCAN2(...) SHEAF_SCAN1(SHEAF_SCAN1(SHEAF_SCAN1(SHEAF_SCAN1(__VA_ARGS__))))
#define SHEAF_SCAN1(...) __VA_ARGS__
#define SHEAF_EACH(m, fixed, ...) __VA_OPT__(SHEAF_SCAN(SHEAF_EACH_STEP(m, fixed, __VA_ARGS__)))
#define SHEAF_EACH_STEP(m, fixed, first, ...) \
  m(fixed, first) __VA_OPT__(SHEAF_EACH_AGAIN SHEAF_PARENS(m, fixed, __VA_ARGS__))
#define SHEAF_EACH_AGAIN() SHEAF_EACH_STEP

#define SHEAF_ACTOR_METHOD(Class, method) \
  ::sheaf::internal::register_actor_method<Class, &Class::method>(entry, #method);
// SHEAF_ACTOR(Class, (constructor parameters), methods...): at global scope, behind the class and seen by whoever makes
// such actors: in its header, if it has one.
#define SHEAF_ACTOR(Class, constructor_parameters, ...)                                      \
  template <>                                                                                \
  struct sheaf::ActorTraits<Class> {                                                         \
    using Constructor = void constructor_parameters;                                         \
  };                                                                                         \
  SHEAF_ACTOR_AS(SHEAF_JOIN(sheaf_actor_, __COUNTER__), Class __VA_OPT__(, ) __VA_ARGS__)
#define SHEAF_ACTOR_AS(variable, Class, ...)                               \
  [[maybe_unused]] static const bool variable = [] {                       \
    auto* entry = ::sheaf::internal::register_actor<Class>(#Class, &variable); \
    static_cast<void>(entry);                                              \
    SHEAF_EACH(SHEAF_ACTOR_METHOD, Class __VA_OPT__(, ) __VA_ARGS__)       \
    return true;                                                           \
  }();
