// Structs of the control protocol from and to Python dicts with the same member names. Amounts of resources are floats
// in Python and fixed point in the engine. Missing keys keep the struct's defaults.
//
// These functions throw nanobind's exceptions; call them from nanobind functions, or inside a try block.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "python/binding/engine.h"

namespace sheaf::python {

namespace nb = nanobind;

std::string text_of(nb::handle value);                   // str or bytes
protocol::ResourceMap resources_from(nb::handle dict);
nb::dict resources_to(const protocol::ResourceMap& map);
protocol::Strategy strategy_from(nb::handle dict);
nb::dict strategy_to(const protocol::Strategy& strategy);
protocol::SchedulingClass placement_from(const nb::dict& dict);
protocol::ActorSpec actor_spec_from(const nb::dict& dict);
protocol::GroupCreate group_from(const nb::dict& dict);
protocol::RegisterJob job_from(const nb::dict& dict);
protocol::MetricSample sample_from(const nb::dict& dict);
nb::dict welcome_to(const protocol::Welcome& w);
nb::object devices_to(const std::map<std::string, std::vector<uint32_t>>& devices);

// The options of BoundTask and BoundMethod.
struct CallOptions {
  runtime::TaskTemplate task;
  int n_returns = 1;              // what the caller gets: 0, 1 or a list
  bool streaming = false;
  bool plain = false;             // the callee is not Python (docs/wire.md)
  int32_t max_task_retries = 0;
  uint32_t max_pending_calls = 0;
  long least_args = 0, most_args = 1L << 40;
  nb::object check;               // check(args, kwargs) for any other call; null or None: no check
};
CallOptions call_options_from(const nb::dict& dict);

// An id of 16 bytes; throws ValueError or TypeError.
template <class Id>
Id id_from(nb::handle value, const char* what) {
  Id id;
  if (!id_from_object(value.ptr(), what, &id.hi, &id.lo)) throw nb::python_error();
  return id;
}
template <class Id>
nb::bytes id_to(const Id& id) { return nb::steal<nb::bytes>(id_bytes(id)); }

}  // namespace sheaf::python
