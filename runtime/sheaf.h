// The public C++ interface of Sheaf, for users: #include <sheaf/sheaf.h>.
//
// sheaf::init, shutdown                              runtime/api/cluster.h
// sheaf::put, get, get_view, wait, cancel            runtime/api/objects.h
// SHEAF_REMOTE, sheaf::task                          runtime/api/task.h
// SHEAF_ACTOR, sheaf::actor, get_actor               runtime/api/actor.h
// sheaf::get_future, when_ready                      runtime/api/async.h
// sheaf::runtime_context                             runtime/api/runtime_context.h
// sheaf::placement_group                             runtime/api/placement_group.h
// sheaf::Value                                       runtime/api/plain_value.h
// sheaf::py_function, py_actor, get_py_actor         runtime/api/cross_language.h
// Types that travel: runtime/api/codec.h. Exceptions: runtime/api/error.h.
#pragma once

#include "runtime/api/actor.h"          // IWYU pragma: export
#include "runtime/api/async.h"          // IWYU pragma: export
#include "runtime/api/cluster.h"        // IWYU pragma: export
#include "runtime/api/codec.h"          // IWYU pragma: export
#include "runtime/api/cross_language.h" // IWYU pragma: export
#include "runtime/api/error.h"          // IWYU pragma: export
#include "runtime/api/objects.h"        // IWYU pragma: export
#include "runtime/api/placement_group.h"  // IWYU pragma: export
#include "runtime/api/plain_value.h"    // IWYU pragma: export
#include "runtime/api/runtime_context.h"  // IWYU pragma: export
#include "runtime/api/task.h"           // IWYU pragma: export
