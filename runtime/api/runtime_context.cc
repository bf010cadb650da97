#include "runtime/api/runtime_context.h"

#include "runtime/api/engine.h"
#include "runtime/api/error.h"

namespace sheaf {

namespace {

constexpr uint32_t kFirstIncarnation = 0;

void add_resources(const protocol::ResourceMap& from, std::map<std::string, double>* to) {
  for (const auto& [name, units] : from) (*to)[name] = static_cast<double>(units) / protocol::kResourceUnit;
}

}  // namespace

RuntimeContext runtime_context() {
  auto* c = internal::check(internal::connected());
  RuntimeContext out;
  const protocol::Welcome& session = c->runtime->session();
  out.job = c->job;
  out.node_id = to_hex(session.node_id);
  out.process = session.process;
  out.name_space = c->name_space;
  if (const runtime::IncomingTask* task = internal::current_task()) {
    out.task_id = to_hex(task->id);
    out.task_name = task->definition->name;
    out.attempt = task->attempt;
    if (task->lease) add_resources(task->lease->resources, &out.resources);
  }
  if (const protocol::ActorStart* actor = internal::current_actor()) {
    out.actor_id = to_hex(actor->spec.actor);
    out.was_restarted = actor->incarnation > kFirstIncarnation;
    add_resources(actor->spec.placement.resources, &out.resources);
  }
  return out;
}

}  // namespace sheaf
