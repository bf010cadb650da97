#include "python/binding/dicts.h"

#include <nanobind/stl/string.h>

#include <cmath>

namespace sheaf::python {

namespace {

// dict[key], or null when it is missing or None.
nb::object item(nb::handle dict, const char* key) {
  nb::object value = nb::steal(PyDict_Check(dict.ptr()) ? Py_XNewRef(PyDict_GetItemString(dict.ptr(), key)) : nullptr);
  return value.is_none() ? nb::object() : value;
}

template <class T>
void read(nb::handle dict, const char* key, T* out) {
  if (nb::object value = item(dict, key); value.is_valid()) *out = nb::cast<T>(value);
}
void read(nb::handle dict, const char* key, bool* out) {
  if (nb::object value = item(dict, key); value.is_valid()) *out = PyObject_IsTrue(value.ptr()) == 1;
}
void read_text(nb::handle dict, const char* key, std::string* out) {
  if (nb::object value = item(dict, key); value.is_valid()) *out = text_of(value);
}
void read_texts(nb::handle dict, const char* key, std::map<std::string, std::string>* out) {
  nb::object value = item(dict, key);
  if (!value.is_valid()) return;
  for (auto [k, v] : nb::cast<nb::dict>(value)) (*out)[text_of(k)] = text_of(v);
}
void read_resources(nb::handle dict, const char* key, protocol::ResourceMap* out) {
  if (nb::object value = item(dict, key); value.is_valid()) *out = resources_from(value);
}

nb::str to_str(const std::string& s) {
  return nb::steal<nb::str>(PyUnicode_DecodeUTF8(s.data(), static_cast<Py_ssize_t>(s.size()), "surrogateescape"));
}

protocol::Labels labels_from(nb::handle value) {
  protocol::Labels labels;
  for (auto [k, v] : nb::cast<nb::dict>(value)) labels[text_of(k)] = text_of(v);
  return labels;
}

nb::dict labels_to(const protocol::Labels& labels) {
  nb::dict out;
  for (auto& [k, v] : labels) out[to_str(k)] = to_str(v);
  return out;
}

void read_num_returns(const nb::dict& dict, CallOptions* out) {
  nb::object value = item(dict, "num_returns");
  if (!value.is_valid()) return;
  if (nb::isinstance<nb::str>(value)) {
    std::string text = text_of(value);
    if (text == "streaming") {
      out->streaming = true;
      out->task.flags |= runtime::kStreaming;
    } else if (text == "dynamic") {
      out->task.flags |= runtime::kDynamicReturns;
    } else {
      throw nb::value_error("num_returns must be a number, \"streaming\" or \"dynamic\"");
    }
    return;
  }
  long n = nb::cast<long>(nb::steal(PyNumber_Index(value.ptr())));
  if (n < 0 || n > 65535) throw nb::value_error("num_returns must be between 0 and 65535");
  out->n_returns = static_cast<int>(n);
  out->task.n_returns = static_cast<uint16_t>(n);
}

// True: every exception; a list of types: those, which travel to the worker as a pickle.
void read_retry_exceptions(const nb::dict& dict, runtime::TaskTemplate* task) {
  nb::object value = item(dict, "retry_exceptions");
  if (!value.is_valid()) return;
  int truth = PyObject_IsTrue(value.ptr());
  if (truth < 0) throw nb::python_error();
  if (truth == 0) return;
  task->flags |= runtime::kRetryExceptions;
  if (PyBool_Check(value.ptr())) return;
  nb::object dumps = nb::module_::import_("sheaf._serialization").attr("cloudpickle_dumps");
  task->blob = text_of(dumps(nb::tuple(value)));
}

}  // namespace

std::string text_of(nb::handle value) {
  if (PyBytes_Check(value.ptr())) {
    return std::string(PyBytes_AS_STRING(value.ptr()), static_cast<size_t>(PyBytes_GET_SIZE(value.ptr())));
  }
  if (!PyUnicode_Check(value.ptr())) {
    PyErr_Format(PyExc_TypeError, "expected str or bytes, got %.100s", Py_TYPE(value.ptr())->tp_name);
    throw nb::python_error();
  }
  // Environment variables and paths need not be UTF-8: they come with lone surrogates.
  nb::object bytes = nb::steal(PyUnicode_AsEncodedString(value.ptr(), "utf-8", "surrogateescape"));
  if (!bytes.is_valid()) throw nb::python_error();
  return text_of(bytes);
}

protocol::ResourceMap resources_from(nb::handle dict) {
  protocol::ResourceMap map;
  for (auto [name, amount] : nb::cast<nb::dict>(nb::borrow(dict))) {
    double v = nb::cast<double>(nb::steal(PyNumber_Float(amount.ptr())));
    if (!(v >= 0)) throw nb::value_error("amounts of resources cannot be negative");
    map[text_of(name)] = static_cast<protocol::ResourceAmount>(std::llround(v * protocol::kResourceUnit));
  }
  return map;
}

nb::dict resources_to(const protocol::ResourceMap& map) {
  nb::dict out;
  for (auto& [name, amount] : map) out[to_str(name)] = static_cast<double>(amount) / protocol::kResourceUnit;
  return out;
}

protocol::Strategy strategy_from(nb::handle dict) {
  protocol::Strategy s;
  if (!dict.is_valid() || dict.is_none()) return s;
  int kind = 0;
  read(dict, "kind", &kind);
  s.kind = static_cast<protocol::StrategyKind>(kind);
  read_text(dict, "node", &s.node);
  read(dict, "soft", &s.soft);
  if (nb::object v = item(dict, "hard_labels"); v.is_valid()) s.hard_labels = labels_from(v);
  if (nb::object v = item(dict, "soft_labels"); v.is_valid()) s.soft_labels = labels_from(v);
  if (nb::object v = item(dict, "group"); v.is_valid()) s.group = id_from<PlacementGroupId>(v, "group");
  read(dict, "bundle", &s.bundle);
  read(dict, "capture_child_tasks", &s.capture_child_tasks);
  return s;
}

nb::dict strategy_to(const protocol::Strategy& s) {
  nb::dict out;
  out["kind"] = static_cast<int>(s.kind);
  out["node"] = to_str(s.node);
  out["soft"] = s.soft;
  out["hard_labels"] = labels_to(s.hard_labels);
  out["soft_labels"] = labels_to(s.soft_labels);
  out["group"] = s.group.is_nil() ? nb::object(nb::none()) : nb::object(id_to(s.group));
  out["bundle"] = s.bundle;
  out["capture_child_tasks"] = s.capture_child_tasks;
  return out;
}

protocol::SchedulingClass placement_from(const nb::dict& dict) {
  protocol::SchedulingClass c;
  read_resources(dict, "resources", &c.resources);
  c.strategy = strategy_from(item(dict, "strategy"));
  read_text(dict, "runtime_env", &c.runtime_env);
  read_text(dict, "language", &c.language);
  return c;
}

protocol::ActorSpec actor_spec_from(const nb::dict& dict) {
  protocol::ActorSpec s;
  read_text(dict, "name", &s.name);
  read_text(dict, "name_space", &s.name_space);
  read_text(dict, "class_name", &s.class_name);
  read(dict, "detached", &s.detached);
  read(dict, "get_if_exists", &s.get_if_exists);
  if (nb::object v = item(dict, "placement"); v.is_valid()) s.placement = placement_from(nb::cast<nb::dict>(v));
  read_resources(dict, "creation_resources", &s.creation_resources);
  read(dict, "max_restarts", &s.max_restarts);
  read(dict, "max_task_retries", &s.max_task_retries);
  read(dict, "max_concurrency", &s.max_concurrency);
  read(dict, "is_async", &s.is_async);
  read(dict, "out_of_order", &s.out_of_order);
  if (nb::object v = item(dict, "concurrency_groups"); v.is_valid()) {
    for (auto [name, size] : nb::cast<nb::dict>(v)) s.concurrency_groups[text_of(name)] = nb::cast<uint32_t>(size);
  }
  read_text(dict, "handle", &s.handle);
  return s;
}

protocol::GroupCreate group_from(const nb::dict& dict) {
  protocol::GroupCreate g;
  if (nb::object v = item(dict, "bundles"); v.is_valid()) {
    for (nb::handle bundle : v) g.bundles.push_back(resources_from(bundle));
  }
  if (nb::object v = item(dict, "bundle_labels"); v.is_valid()) {
    for (nb::handle labels : v) g.bundle_labels.push_back(labels_from(labels));
  }
  int strategy = 0;
  read(dict, "strategy", &strategy);
  g.strategy = static_cast<protocol::GroupStrategy>(strategy);
  read_text(dict, "name", &g.name);
  read_text(dict, "name_space", &g.name_space);
  read(dict, "detached", &g.detached);
  return g;
}

protocol::RegisterJob job_from(const nb::dict& dict) {
  protocol::RegisterJob j;
  read_text(dict, "name_space", &j.name_space);
  read_text(dict, "entrypoint", &j.entrypoint);
  read_text(dict, "cwd", &j.cwd);
  if (nb::object v = item(dict, "sys_path"); v.is_valid()) {
    for (nb::handle path : v) j.sys_path.push_back(text_of(path));
  }
  read_texts(dict, "env", &j.env);
  read_text(dict, "runtime_env", &j.runtime_env);
  read_text(dict, "metadata", &j.metadata);
  read(dict, "log_to_driver", &j.log_to_driver);
  read_text(dict, "python", &j.python);
  return j;
}

protocol::MetricSample sample_from(const nb::dict& dict) {
  protocol::MetricSample m;
  read_text(dict, "name", &m.name);
  read_text(dict, "help", &m.help);
  int kind = 0;
  read(dict, "kind", &kind);
  m.kind = static_cast<uint8_t>(kind);
  read_texts(dict, "tags", &m.tags);
  read(dict, "value", &m.value);
  auto read_numbers = [&](const char* key, std::vector<double>* out) {
    nb::object v = item(dict, key);
    if (!v.is_valid()) return;
    for (nb::handle number : v) out->push_back(nb::cast<double>(nb::steal(PyNumber_Float(number.ptr()))));
  };
  read_numbers("bounds", &m.bounds);
  read_numbers("counts", &m.counts);
  return m;
}

nb::object devices_to(const std::map<std::string, std::vector<uint32_t>>& devices) {
  nb::dict out;
  for (auto& [name, indices] : devices) {
    nb::list list;
    for (uint32_t i : indices) list.append(i);
    out[to_str(name)] = list;
  }
  return out;
}

nb::dict welcome_to(const protocol::Welcome& w) {
  nb::dict out;
  out["process"] = w.process;
  out["node"] = w.node;
  out["incarnation"] = w.incarnation;
  out["node_id"] = id_to(w.node_id);
  out["job"] = w.job;
  out["session_dir"] = to_str(w.session_dir);
  out["arena_bytes"] = w.arena_bytes;
  out["arena_backing"] = to_str(w.arena_backing);
  nb::dict config;
  for (auto& [k, v] : w.config) config[to_str(k)] = to_str(v);
  out["config"] = config;
  return out;
}

CallOptions call_options_from(const nb::dict& dict) {
  CallOptions out;
  out.task.placement = placement_from(dict);
  read_num_returns(dict, &out);
  read(dict, "max_retries", &out.task.max_retries);
  read_retry_exceptions(dict, &out.task);
  if (out.task.blob.empty()) read_text(dict, "blob", &out.task.blob);
  out.plain = out.task.blob.starts_with("cpp:");
  read(dict, "max_calls", &out.task.max_calls);
  if (out.task.max_calls > 0) out.task.flags |= runtime::kMaxCalls;
  bool out_of_order = false;
  read(dict, "out_of_order", &out_of_order);
  if (out_of_order) out.task.flags |= runtime::kOutOfOrder;
  read_text(dict, "name", &out.task.name);
  read_text(dict, "concurrency_group", &out.task.concurrency_group);
  read(dict, "generator_backpressure", &out.task.generator_backpressure);
  read(dict, "max_pending_calls", &out.max_pending_calls);
  read(dict, "max_task_retries", &out.max_task_retries);
  if (nb::object v = item(dict, "signature"); v.is_valid()) {
    nb::tuple parts = nb::cast<nb::tuple>(v);
    out.least_args = nb::cast<long>(parts[0]);
    out.most_args = nb::cast<long>(parts[1]);
    out.check = parts[2];
  }
  return out;
}

}  // namespace sheaf::python
