// Calling Python from C++, by name and with plain data: numbers, text, bytes, tuples, lists, dicts, None, references.
//
//   auto count = sheaf::py_function<int64_t>("my_module", "count_words");
//   int64_t n = sheaf::get(count.remote("some text"));
//
//   auto model = sheaf::py_actor("my_module", "Model").num_cpus(1).remote("weights.bin");
//   double score = sheaf::get(model.call<double>("predict", std::vector<double>{1, 2, 3}));
//
// The module must be importable in the workers (their sys.path holds the driver's working directory and $PYTHONPATH).
// The other direction is in Python: sheaf.cpp_function(name, library=...), sheaf.cpp_actor_class(name, library=...).
// The convention of both is in docs/wire.md.
#pragma once

#include <string>
#include <utility>

#include "runtime/api/actor.h"

namespace sheaf {

namespace internal {
Callee python_callee(CallKind kind, const std::string& module, const std::string& name);
Callee python_method(const std::string& method);
}  // namespace internal

template <class R>
class PyFunction : public internal::WithTaskOptions<PyFunction<R>> {
 public:
  explicit PyFunction(internal::Callee callee) : callee_(std::move(callee)) {}

  template <class... A>
  ObjectRef<R> remote(const A&... args) const {
    auto* c = internal::check(internal::connected());
    auto id = internal::template_of(*c, callee_, this->options_.get(), &this->cache_);
    return ObjectRef<R>(c->runtime, internal::call_function<internal::Parameters<internal::ParameterFor<A>...>>(
                                        *c, id, true, args...));
  }

 private:
  internal::Callee callee_;
};

// The function `name` of a Python module; R is what its result is read as.
template <class R>
PyFunction<R> py_function(const std::string& module, const std::string& name) {
  return PyFunction<R>(internal::python_callee(internal::CallKind::kFunction, module, name));
}

class PyActorHandle : public internal::ActorRef {
 public:
  PyActorHandle() = default;
  explicit PyActorHandle(ActorRef ref) : ActorRef(std::move(ref)) {}

  template <class R, class... A>
  ObjectRef<R> call(const std::string& method, const A&... args) const {
    auto* c = internal::check(internal::connected());
    auto id = internal::template_of(*c, internal::python_method(method), nullptr, nullptr);
    return ObjectRef<R>(c->runtime, internal::call_method<internal::Parameters<internal::ParameterFor<A>...>>(
                                        *c, *this, id, true, 0, 0, args...));
  }
};

template <>
struct Codec<PyActorHandle> {
  template <class E>
  static void write(E& e, const PyActorHandle& handle) { internal::write_actor(e, handle); }
  static void read(internal::Decoder& d, PyActorHandle& out) { out = PyActorHandle(internal::read_actor(d)); }
};

class PyActorBuilder : public internal::WithActorOptions<PyActorBuilder> {
 public:
  explicit PyActorBuilder(internal::Callee callee) : callee_(std::move(callee)) {}

  template <class... A>
  PyActorHandle remote(const A&... args) const {
    auto* c = internal::check(internal::connected());
    internal::CallBuffer call(c->runtime);
    internal::write_call(call, true, internal::Parameters<internal::ParameterFor<A>...>(),
                         std::index_sequence_for<A...>(), args...);
    return PyActorHandle(internal::start_actor(*c, callee_, this->options_.get(), this->actor_, "", call));
  }

 private:
  internal::Callee callee_;
};

inline PyActorBuilder py_actor(const std::string& module, const std::string& class_name) {
  return PyActorBuilder(internal::python_callee(internal::CallKind::kConstructor, module, class_name));
}
// A named actor that a Python program, or py_actor(), has made.
inline PyActorHandle get_py_actor(const std::string& name, const std::string& name_space = "") {
  return PyActorHandle(internal::find_actor(name, name_space).first);
}

}  // namespace sheaf
