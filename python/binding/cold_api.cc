#include "python/binding/cold_api.h"

#include <unistd.h>

#include <nanobind/stl/string.h>

#include "python/binding/bound_call.h"
#include "python/binding/codec.h"
#include "python/binding/dicts.h"
#include "python/binding/generator.h"
#include "python/binding/object_ref.h"
#include "python/binding/task_context.h"
#include "scheduler/node_messages.h"
#include "scheduler/resources.h"

namespace sheaf::python {

using protocol::MessageType;
using runtime::Clock;
using runtime::Deadline;

namespace {

constexpr std::chrono::milliseconds kKvWaitSlice{500};

Runtime* connected() {
  Runtime* rt = runtime_or_raise();
  if (!rt) throw nb::python_error();
  return rt;
}

[[noreturn]] void fail(const Status& status) {
  raise_status(status);
  throw nb::python_error();
}

void check_signals() {
  if (PyErr_CheckSignals() < 0) throw nb::python_error();
}

// The encoded answer of the node daemon.
template <class Request>
std::string ask(MessageType type, const Request& request) {
  Runtime* rt = connected();
  std::string body = wire::encode(request);
  PyThreadState* state = release_gil();
  auto answer = rt->request(type, body);
  retake_gil(state);
  if (!answer) fail(answer.status());
  return std::move(*answer);
}

template <class Reply, class Request>
Reply ask_for(MessageType type, const Request& request) {
  auto reply = wire::decode<Reply>(ask(type, request));
  if (!reply) fail(reply.status());
  return std::move(*reply);
}

nb::str to_str(const std::string& s) {
  return nb::steal<nb::str>(PyUnicode_DecodeUTF8(s.data(), static_cast<Py_ssize_t>(s.size()), "surrogateescape"));
}
nb::bytes to_bytes(const std::string& s) { return nb::bytes(s.data(), s.size()); }

// ---- Objects and tasks

void free_objects(nb::handle refs) {
  Runtime* rt = connected();
  std::vector<Slot> slots;
  nb::object keep = nb::steal(PySequence_Tuple(refs.ptr()));
  if (!keep.is_valid()) throw nb::python_error();
  for (nb::handle ref : nb::borrow<nb::tuple>(keep)) {
    if (!is_ref(ref.ptr())) throw nb::type_error("free() takes ObjectRefs");
    Slot slot = usable_slot(as_ref(ref.ptr()));
    if (slot == runtime::kNoSlot) throw nb::python_error();
    slots.push_back(slot);
  }
  PyThreadState* state = release_gil();
  Status status = rt->free_objects(slots);
  retake_gil(state);
  if (!status.is_ok()) fail(status);
}

void cancel(nb::handle ref, bool force, bool recursive) {
  Runtime* rt = connected();
  Slot slot = runtime::kNoSlot;
  if (is_ref(ref.ptr())) slot = usable_slot(as_ref(ref.ptr()));
  else if (Py_TYPE(ref.ptr()) == &ObjectRefGeneratorType) slot = generator_slot(ref.ptr());
  else throw nb::type_error("cancel() takes an ObjectRef or an ObjectRefGenerator");
  if (slot == runtime::kNoSlot) throw nb::python_error();
  auto done = rt->cancel(slot, force, recursive);
  if (!done) fail(done.status());
}

// An object whose readers get the exception that the parts stand for (sheaf/_errors.py).
nb::object put_error(int kind, nb::handle message, nb::bytes payload) {
  protocol::ErrorRecord record;
  record.kind = static_cast<protocol::ErrorKind>(kind);
  record.message = text_of(message);
  record.payload = std::string(payload.c_str(), payload.size());
  nb::object ref = nb::steal(new_ref(connected()->put_error(record)));
  if (!ref.is_valid()) throw nb::python_error();
  return ref;
}

// ---- Actors

nb::tuple create_actor(nb::handle class_id, const nb::dict& spec_dict, const nb::tuple& args, const nb::dict& kwargs) {
  Runtime* rt = connected();
  protocol::ActorSpec spec = actor_spec_from(spec_dict);
  runtime::TaskTemplate constructor;
  constructor.function = id_from<FunctionId>(class_id, "a class id");
  constructor.flags = runtime::kActorCreation;
  constructor.n_returns = 0;
  constructor.name = spec.class_name + ".__init__";
  constructor.placement = spec.placement;
  if (nb::object blob = nb::steal(Py_XNewRef(PyDict_GetItemString(spec_dict.ptr(), "blob"))); blob.is_valid()) {
    constructor.blob = text_of(blob);
  }
  FrameScope frame;
  frame->plain = constructor.blob.starts_with("cpp:");
  std::vector<PyObject*> values;
  for (nb::handle value : args) values.push_back(value.ptr());
  nb::object names = nb::steal(PySequence_Tuple(kwargs.ptr()));
  if (!names.is_valid()) throw nb::python_error();
  for (nb::handle name : nb::borrow<nb::tuple>(names)) values.push_back(PyDict_GetItem(kwargs.ptr(), name.ptr()));
  if (!encode_call(*frame, values.data(), static_cast<Py_ssize_t>(nb::len(args)), names.ptr())) throw nb::python_error();
  runtime::Arguments arguments;
  arguments.payload = std::as_bytes(std::span(frame->bytes.data(), frame->bytes.size()));
  arguments.deps = frame->deps;
  arguments.nested = frame->nested_slots(0);
  rt = runtime_of_frame(*frame);   // pickling may have run anything
  if (!rt) throw nb::python_error();
  runtime::TemplateId definition = rt->define_template(std::move(constructor));
  PyThreadState* state = release_gil();
  auto creation = rt->create_actor(std::move(spec), definition, arguments);
  retake_gil(state);
  if (!creation) fail(creation.status());
  nb::object handle = creation->existed ? nb::object(to_bytes(creation->handle)) : nb::object(nb::none());
  return nb::make_tuple(id_to(creation->actor), handle);
}

void kill_actor(nb::handle actor_id, bool no_restart) {
  Runtime* rt = connected();
  ActorId actor = id_from<ActorId>(actor_id, "an actor id");
  PyThreadState* state = release_gil();
  Status status = rt->kill_actor(actor, no_restart);
  retake_gil(state);
  if (!status.is_ok()) fail(status);
}

nb::tuple lookup_actor(nb::handle name, nb::handle name_space) {
  auto reply = ask_for<protocol::ActorLookupReply>(MessageType::kActorLookup,
                                                   protocol::ActorLookup{text_of(name), text_of(name_space)});
  return nb::make_tuple(id_to(reply.actor), to_bytes(reply.handle));
}

nb::list actor_names(bool all_namespaces, nb::handle name_space) {
  auto reply = ask_for<protocol::ActorNamesReply>(MessageType::kActorNames,
                                                  protocol::ActorNames{all_namespaces, text_of(name_space)});
  nb::list out;
  for (auto& [space, name] : reply.names) out.append(nb::make_tuple(to_str(space), to_str(name)));
  return out;
}

void actor_exit(nb::handle reason) {
  Runtime* rt = connected();
  if (!g_actor.active) {
    PyErr_SetString(PyExc_RuntimeError, "this process is not an actor");
    throw nb::python_error();
  }
  std::string text = text_of(reason);
  PyThreadState* state = release_gil();
  rt->actor_exit(g_actor.spec.actor, g_actor.incarnation, text);
  retake_gil(state);
}

// ---- Jobs and key-value

nb::dict register_job(const nb::dict& job) {
  auto reply = ask_for<protocol::RegisterJobReply>(MessageType::kRegisterJob, job_from(job));
  nb::dict out;
  out["job"] = reply.job;
  out["name_space"] = to_str(reply.name_space);
  return out;
}

bool kv_put(nb::handle space, nb::handle key, nb::handle value, bool overwrite) {
  return ask_for<protocol::KvPutReply>(
      MessageType::kKvPut, protocol::KvPut{text_of(space), text_of(key), text_of(value), overwrite}).added;
}

nb::object kv_get(nb::handle space, nb::handle key, double wait) {
  protocol::KvGet request{text_of(space), text_of(key), 0};
  Deadline end = Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(std::min(wait, 1e9) * 1000));
  for (;;) {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
    request.wait_ms = static_cast<uint32_t>(std::clamp<int64_t>(left.count(), 0, kKvWaitSlice.count()));
    auto reply = ask_for<protocol::KvGetReply>(MessageType::kKvGet, request);
    if (reply.value) return to_bytes(*reply.value);
    if (Clock::now() >= end) return nb::none();
    check_signals();
  }
}

uint32_t kv_delete(nb::handle space, nb::handle key, bool by_prefix) {
  return ask_for<protocol::KvDeleteReply>(MessageType::kKvDelete,
                                          protocol::KvDelete{text_of(space), text_of(key), by_prefix}).deleted;
}

nb::list kv_keys(nb::handle space, nb::handle prefix) {
  auto reply = ask_for<protocol::KvKeysReply>(MessageType::kKvKeys,
                                              protocol::KvKeys{text_of(space), text_of(prefix)});
  nb::list out;
  for (auto& key : reply.keys) out.append(to_bytes(key));
  return out;
}

// ---- Placement groups

// A group that nothing can refuse is not waited for; see group_settle.
nb::bytes group_create(const nb::dict& spec) {
  protocol::GroupCreate group = group_from(spec);
  for (protocol::ResourceMap& bundle : group.bundles) {
    if (Status valid = scheduler::validate_resources(bundle); !valid.is_ok()) fail(valid);
  }
  Runtime* rt = connected();
  group.group = rt->new_group_id();
  if (group.detached || !group.name.empty()) {
    ask(MessageType::kGroupCreate, group);
  } else {
    rt->send(MessageType::kGroupCreate, wire::encode(group));
    rt->group_state(group.group);   // the first to ask for it subscribes
  }
  return id_to(group.group);
}

// From here on the cluster knows the groups that this process has created: an answer to anything that was asked behind
// them comes when they are registered.
void group_settle() { ask(MessageType::kKvGet, protocol::KvGet{}); }

// Not to wait is for groups that outlive no process: there is nothing on disk that could bring them back.
void group_remove(nb::handle group_id, bool wait) {
  protocol::GroupRemove message{id_from<PlacementGroupId>(group_id, "a placement group id")};
  if (wait) ask(MessageType::kGroupRemove, message);
  else connected()->send(MessageType::kGroupRemove, wire::encode(message));
  connected()->group_removed(message.group);
}

const char* group_state_name(protocol::GroupState state) {
  switch (state) {
    case protocol::GroupState::kPending: return "pending";
    case protocol::GroupState::kCreated: return "created";
    case protocol::GroupState::kRemoved: return "removed";
    case protocol::GroupState::kRescheduling: return "rescheduling";
  }
  return "pending";
}

// Until it is created or removed; returns the state at that time or at the timeout.
std::string group_wait(nb::handle group_id, nb::handle timeout) {
  Runtime* rt = connected();
  auto group = id_from<PlacementGroupId>(group_id, "a placement group id");
  Deadline end = runtime::kNever;
  if (!timeout.is_none()) {
    double seconds = std::min(nb::cast<double>(timeout), 1e8);
    end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  }
  for (useconds_t nap = 50;; nap = std::min<useconds_t>(nap * 2, 5000)) {
    protocol::GroupState state = rt->group_state(group);
    if (state == protocol::GroupState::kCreated || state == protocol::GroupState::kRemoved || Clock::now() >= end) {
      return group_state_name(state);
    }
    PyThreadState* saved = release_gil();
    usleep(nap);
    retake_gil(saved);
    check_signals();
  }
}

// ---- Observation

nb::tuple state_query(nb::handle what, const nb::dict& filters, uint32_t limit) {
  protocol::StateQuery query{text_of(what), {}, limit};
  for (auto [key, value] : filters) query.filters[text_of(key)] = text_of(nb::str(value));
  auto reply = ask_for<protocol::StateReply>(MessageType::kStateQuery, query);
  return nb::make_tuple(to_str(reply.text), reply.truncated);
}

void metrics_push(nb::handle samples) {
  protocol::MetricsPush push;
  for (nb::handle sample : samples) push.samples.push_back(sample_from(nb::cast<nb::dict>(sample)));
  connected()->send(MessageType::kMetricsPush, wire::encode(push));
}

void shutdown_cluster(nb::handle reason) {
  Runtime* rt = connected();
  std::string body = wire::encode(protocol::ShutdownCluster{text_of(reason)});
  PyThreadState* state = release_gil();
  auto answer = rt->request(MessageType::kShutdownCluster, body);
  retake_gil(state);
  if (!answer && answer.status().code() != StatusCode::kDisconnected) fail(answer.status());
}

void drain_node(uint16_t number, bool drain) {
  ask(MessageType::kDrainNode, scheduler::DrainRequest{number, drain});
}

}  // namespace

void bind_cold_api(nb::module_& m) {
  m.def("free", &free_objects, nb::arg("refs"));
  m.def("cancel", &cancel, nb::arg("ref"), nb::arg("force"), nb::arg("recursive"));
  m.def("put_error", &put_error, nb::arg("kind"), nb::arg("message"), nb::arg("payload"));
  m.def("create_actor", &create_actor, nb::arg("class_id"), nb::arg("spec"), nb::arg("args"), nb::arg("kwargs"));
  m.def("actor_retain", [](nb::handle id) { connected()->retain_actor(id_from<ActorId>(id, "an actor id")); });
  m.def("actor_release", [](nb::handle id) {
    if (g_engine.runtime) g_engine.runtime->release_actor(id_from<ActorId>(id, "an actor id"));
  });
  m.def("drain_node", &drain_node, nb::arg("number"), nb::arg("drain"));
  m.def("kill_actor", &kill_actor, nb::arg("actor_id"), nb::arg("no_restart"));
  m.def("lookup_actor", &lookup_actor, nb::arg("name"), nb::arg("namespace"));
  m.def("actor_names", &actor_names, nb::arg("all_namespaces"), nb::arg("namespace"));
  m.def("actor_exit", &actor_exit, nb::arg("reason"));
  m.def("register_job", &register_job, nb::arg("job"));
  m.def("kv_put", &kv_put, nb::arg("space"), nb::arg("key"), nb::arg("value"), nb::arg("overwrite") = true);
  m.def("kv_get", &kv_get, nb::arg("space"), nb::arg("key"), nb::arg("wait") = 0.0);
  m.def("kv_delete", &kv_delete, nb::arg("space"), nb::arg("key"), nb::arg("by_prefix") = false);
  m.def("kv_keys", &kv_keys, nb::arg("space"), nb::arg("prefix"));
  m.def("group_create", &group_create, nb::arg("spec"));
  m.def("group_settle", &group_settle);
  m.def("group_remove", &group_remove, nb::arg("group_id"), nb::arg("wait") = true);
  m.def("group_wait", &group_wait, nb::arg("group_id"), nb::arg("timeout").none());
  m.def("state_query", &state_query, nb::arg("what"), nb::arg("filters"), nb::arg("limit") = 10000);
  m.def("metrics_push", &metrics_push, nb::arg("samples"));
  m.def("shutdown_cluster", &shutdown_cluster, nb::arg("reason"));
  m.def("kill_process", [](uint64_t process) { ask(MessageType::kKillProcess, protocol::KillProcess{process}); },
        nb::arg("process"));
  m.def("_count", [](nb::handle ref) {
    Slot slot = is_ref(ref.ptr()) ? usable_slot(as_ref(ref.ptr())) : runtime::kNoSlot;
    if (slot == runtime::kNoSlot) {
      if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "_count() takes an ObjectRef");
      throw nb::python_error();
    }
    return connected()->count(slot);
  });
  m.def("current_task", [] {
    nb::object task = nb::steal(current_task_dict());
    if (!task.is_valid()) throw nb::python_error();
    return task;
  });
}

}  // namespace sheaf::python
