// A counted hold on an actor, and calls through it. The types of methods are the business of actor.h.
#pragma once

#include <string>
#include <utility>

#include "runtime/api/call.h"

namespace sheaf {

namespace internal {

// Copies count, per process; when the last handle in the cluster is dropped the actor ends, unless it is detached.
class ActorRef {
 public:
  ActorRef() = default;
  // Takes over one count.
  ActorRef(runtime::Runtime* rt, const ActorId& id) : runtime_(rt), id_(id) {}
  ActorRef(const ActorRef& other) : runtime_(other.runtime_), id_(other.id_) {
    if (runtime_) runtime_->retain_actor(id_);
  }
  ActorRef(ActorRef&& other) noexcept : runtime_(std::exchange(other.runtime_, nullptr)), id_(other.id_) {}
  ActorRef& operator=(ActorRef other) noexcept {
    std::swap(runtime_, other.runtime_);
    std::swap(id_, other.id_);
    return *this;
  }
  ~ActorRef() {
    if (runtime_) runtime_->release_actor(id_);
  }

  explicit operator bool() const { return runtime_ != nullptr; }
  const ActorId& id() const { return id_; }
  runtime::Runtime* runtime() const { return runtime_; }
  // Ends the actor. With no_restart = false it is restarted if its max_restarts permits.
  void kill(bool no_restart = true) const;

 protected:
  static ActorRef shared(runtime::Runtime* rt, const ActorId& id) {
    rt->retain_actor(id);
    return ActorRef(rt, id);
  }
  // A handle that travels must find its actor alive: the count that this process gives away is kept until it ends.
  void keep_for_ever() const { runtime_->retain_actor(id_); }

 private:
  runtime::Runtime* runtime_ = nullptr;
  ActorId id_;

  template <class E>
  friend void write_actor(E& e, const ActorRef& actor);
  friend ActorRef read_actor(Decoder& d);
};

// As 16 bytes in a tuple of one: {id}.
template <class E>
void write_actor(E& e, const ActorRef& actor) {
  if (!actor) throw_argument("an ActorHandle that refers to nothing cannot be passed on");
  e.counted(ValueTag::kTuple, 1);
  e.text(ValueTag::kBytes, &actor.id_, sizeof actor.id_);
  actor.keep_for_ever();
}
ActorRef read_actor(Decoder& d);

struct ActorOptions {
  std::string name, name_space;
  bool detached = false;
  bool get_if_exists = false;
  int32_t max_restarts = 0;
  uint32_t max_concurrency = 1;
  bool out_of_order = false;
};

// Calls `method` with arguments that are written already.
void submit_method(Connection& c, const ActorRef& actor, runtime::TemplateId method, const CallBuffer& call,
                   int32_t max_retries, uint32_t max_pending, Slot* returns);
// Registers the actor and sends its constructor. `handle`: what get_actor() elsewhere is told about it.
ActorRef start_actor(Connection& c, const Callee& constructor, const CallOptions* options,
                     const ActorOptions& actor, const std::string& handle, const CallBuffer& call);
// A named actor and its handle's text; throws ArgumentError when there is none.
std::pair<ActorRef, std::string> find_actor(const std::string& name, const std::string& name_space);

template <class Params, class... A>
Slot call_method(Connection& c, const ActorRef& actor, runtime::TemplateId id, bool plain, int32_t max_retries,
                 uint32_t max_pending, const A&... args) {
  if (!actor) throw_argument("a call through an ActorHandle that refers to nothing");
  CallBuffer call(c.runtime);
  write_call(call, plain, Params(), std::index_sequence_for<A...>(), args...);
  Slot slot = kNoSlot;
  submit_method(c, actor, id, call, max_retries, max_pending, &slot);
  return slot;
}

}  // namespace internal
}  // namespace sheaf
