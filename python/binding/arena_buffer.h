// Read-only views of the arena for Python: what NumPy arrays and the like point into after a zero-copy get().
//
// A Pin owns one pin of the object store; each ArenaBuffer holds its Pin. So a view outlives the ObjectRef it came
// from, and the bytes stay where they are for as long as anybody can see them.
#pragma once

#include "python/binding/engine.h"

namespace sheaf::python {

// A Python object that gives `pin` back when it is freed. Takes over the pin, also when it fails (null, error set).
PyObject* new_pin(uint64_t pin);
// Exports `size` bytes at `data`, which `pin` keeps in place.
PyObject* new_arena_buffer(PyObject* pin, const char* data, size_t size);
// The connection of this epoch has ended: gives back the memory of its arena, at once or when the last pin goes.
void release_unseen_arena(uint32_t epoch);
bool ready_arena_buffer_types();

}  // namespace sheaf::python
