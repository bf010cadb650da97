// Gives back the memory of an object store that this process has left.
//
// A Runtime lives until its process ends, as threads and destructors may still call it, and so does
// its mapping of the arena, as views may outlive the connection. Once there are no views left its
// pages are replaced by empty ones at the same addresses: a call that comes late reads zeros.
#pragma once

#include "runtime/runtime.h"

namespace sheaf::runtime {

// After shutdown(), when nobody looks at an object of this runtime any more. Any thread; again is
// harmless.
void release_arena(Runtime& past);

}  // namespace sheaf::runtime
