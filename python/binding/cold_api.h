// The calls that need not be fast: connecting, actors, key-value, groups, state. Bound by nanobind.
#pragma once

#include <nanobind/nanobind.h>

namespace sheaf::python {

void bind_connection(nanobind::module_& m);   // connection.cc
void bind_cold_api(nanobind::module_& m);     // cold_api.cc

}  // namespace sheaf::python
