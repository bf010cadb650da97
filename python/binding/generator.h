// ObjectRefGenerator: the references to what a streaming task yields, as they come.
#pragma once

#include "python/binding/engine.h"

namespace sheaf::python {

extern PyTypeObject ObjectRefGeneratorType;
bool ready_generator_type();
// Takes over the count on the task's first return.
PyObject* new_generator(Slot slot);
// The slot that stands for the whole stream; kNoSlot with an exception set when the connection is another one.
Slot generator_slot(PyObject* generator);
// Whether next() would not block: an item is there, or the end.
bool generator_ready(Runtime* rt, PyObject* generator);

}  // namespace sheaf::python
