// ObjectRef: one count on an object of the engine's table. 24 bytes, no garbage collection, a free list.
//
// Its destructor gives the count back and does nothing else: it may run inside any allocation. Equality and hash are
// those of the table's slot, which is the same for all references to one object in this process.
#pragma once

#include "python/binding/engine.h"

namespace sheaf::python {

struct ObjectRefObject {
  PyObject_HEAD
  Slot slot;         // kNoSlot: nil
  uint32_t epoch;    // connection that `slot` belongs to
};

extern PyTypeObject ObjectRefType;
inline bool is_ref(PyObject* o) { return Py_TYPE(o) == &ObjectRefType; }
inline ObjectRefObject* as_ref(PyObject* o) { return reinterpret_cast<ObjectRefObject*>(o); }

// Takes over one count on `slot`.
PyObject* new_ref(Slot slot);
// A reference to any object of the cluster; this process becomes a holder of it.
PyObject* ref_from_id(const ObjectId& id);
ObjectId ref_id(const ObjectRefObject* ref);
// The slot of a live reference of the present connection; kNoSlot with ValueError set for others.
Slot usable_slot(ObjectRefObject* ref);

bool ready_object_ref_type();
// Module function: what a reference pickled by plain pickle becomes again.
PyObject* rebuild_ref(PyObject* module, PyObject* binary);

}  // namespace sheaf::python
