#include "runtime/api/actor.h"

#include <algorithm>

namespace sheaf {

namespace internal {

void ActorRef::kill(bool no_restart) const {
  if (!runtime_) throw_argument("kill() of an ActorHandle that refers to nothing");
  check(runtime_->kill_actor(id_, no_restart));
}

ActorRef read_actor(Decoder& d) {
  if (!tuple_head(d, 1)) return {};
  ValueTag t = d.tag();
  if (t != ValueTag::kBytes) {
    d.expected("an actor handle", t);
    return {};
  }
  std::string_view bytes = d.text();
  ActorId id;
  if (bytes.size() != sizeof id) d.fail("a malformed actor handle");
  if (!d.ok() || !d.runtime()) return {};
  std::memcpy(&id, bytes.data(), sizeof id);
  return ActorRef::shared(d.runtime(), id);
}

void submit_method(Connection& c, const ActorRef& actor, runtime::TemplateId method, const CallBuffer& call,
                   int32_t max_retries, uint32_t max_pending, Slot* returns) {
  check(c.runtime->submit_method(actor.id(), method, call.arguments(), max_retries, max_pending, current_cookie(),
                                 returns));
}

ActorRef start_actor(Connection& c, const Callee& constructor, const CallOptions* options, const ActorOptions& actor,
                     const std::string& handle, const CallBuffer& call) {
  protocol::ActorSpec spec;
  spec.name = actor.name;
  spec.name_space = actor.name_space.empty() ? c.name_space : actor.name_space;
  spec.class_name = constructor.label;
  spec.detached = actor.detached;
  spec.get_if_exists = actor.get_if_exists;
  spec.placement = scheduling_class(c, constructor, options);
  spec.creation_resources = spec.placement.resources;
  if (!options || !options->resources_given) spec.creation_resources["CPU"] = protocol::kResourceUnit;
  spec.max_restarts = actor.max_restarts;
  spec.max_concurrency = std::max(actor.max_concurrency, 1u);
  spec.out_of_order = actor.out_of_order;
  spec.handle = handle;
  auto id = template_of(c, constructor, options, nullptr);
  auto created = check(c.runtime->create_actor(std::move(spec), id, call.arguments()));
  return ActorRef(c.runtime, created.actor);
}

std::pair<ActorRef, std::string> find_actor(const std::string& name, const std::string& name_space) {
  auto* c = check(connected());
  protocol::ActorLookup lookup{name, name_space.empty() ? c->name_space : name_space};
  auto body = c->runtime->request(protocol::MessageType::kActorLookup, wire::encode(lookup));
  if (body.status().code() == StatusCode::kNotFound) throw_argument("there is no actor with the name " + name);
  auto reply = check(wire::decode<protocol::ActorLookupReply>(check(std::move(body))));
  c->runtime->retain_actor(reply.actor);
  return {ActorRef(c->runtime, reply.actor), reply.handle};
}

ClassEntry* class_or_throw(std::type_index type) {
  ClassEntry* entry = find_class(type);
  if (!entry) throw_argument("this class is not registered: write SHEAF_ACTOR(its name, ...) where it is defined");
  return entry;
}

MethodEntry* method_or_throw(const PointerKey& key) {
  MethodEntry* entry = find_method(key);
  if (!entry) throw_argument("this method is not registered: name it in SHEAF_ACTOR");
  return entry;
}

}  // namespace internal
}  // namespace sheaf
