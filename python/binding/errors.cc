// From the engine's statuses and error records to Python exceptions. The classes live in sheaf.exceptions, imported
// when the first error occurs.
#include <string>

#include "python/binding/engine.h"

namespace sheaf::python {

namespace {

void raise_from_module(const char* type, PyObject* text) {
  Ref module(PyImport_ImportModule("sheaf.exceptions"));
  Ref cls(module ? PyObject_GetAttrString(module.get(), type) : nullptr);
  Ref error(cls ? PyObject_CallOneArg(cls.get(), text) : nullptr);
  if (error) PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.get())), error.get());
}

Ref text_object(std::string_view text) {
  return Ref(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
}

}  // namespace

PyObject* raise_named(const char* type, const char* text) {
  Ref object = text_object(text);
  if (object) raise_from_module(type, object.get());
  return nullptr;
}

PyObject* raise_status(const Status& status) {
  Ref text = text_object(status.message());
  if (!text) return nullptr;
  PyObject* builtin = nullptr;
  const char* named = nullptr;
  switch (status.code()) {
    case StatusCode::kInvalidArgument: builtin = PyExc_ValueError; break;
    case StatusCode::kNotFound: builtin = PyExc_ValueError; break;
    case StatusCode::kAlreadyExists: named = "ActorAlreadyExistsError"; break;
    case StatusCode::kOutOfMemory: named = "ObjectStoreFullError"; break;
    case StatusCode::kOverloaded: named = "PendingCallsLimitExceeded"; break;
    case StatusCode::kDisconnected: named = "LocalRayletDiedError"; break;
    case StatusCode::kTimeout: named = "GetTimeoutError"; break;
    case StatusCode::kCancelled: builtin = PyExc_RuntimeError; break;
    case StatusCode::kOwnerDied: named = "OwnerDiedError"; break;
    case StatusCode::kUnsupported: builtin = PyExc_NotImplementedError; break;
    case StatusCode::kPermissionDenied: builtin = PyExc_PermissionError; break;
    default: named = "RaySystemError"; break;
  }
  if (builtin) {
    PyErr_SetObject(builtin, text.get());
  } else {
    raise_from_module(named, text.get());
  }
  return nullptr;
}

PyObject* raise_record(Bytes encoded_record, const ObjectId& object) {
  static PyObject* to_exception = nullptr;
  auto record = wire::decode<protocol::ErrorRecord>(encoded_record);
  if (!record) return raise_status(record.status());
  PyObject* make = imported(&to_exception, "sheaf._errors", "to_exception");
  if (!make) return nullptr;
  Ref message = text_object(record->message);
  Ref payload(PyBytes_FromStringAndSize(record->payload.data(), static_cast<Py_ssize_t>(record->payload.size())));
  Ref actor(record->actor.is_nil() ? PyBytes_FromStringAndSize("", 0) : id_bytes(record->actor));
  if (!message || !payload || !actor) return nullptr;
  Ref error(PyObject_CallFunction(make, "iOOO", static_cast<int>(record->kind), message.get(), payload.get(),
                                  actor.get()));
  if (!error) return raise_unreadable(object);
  if (PyObject_HasAttrString(error.get(), "object_ref_hex")) {
    Ref hex(PyUnicode_FromString(to_hex(object).c_str()));
    if (hex && PyObject_SetAttrString(error.get(), "object_ref_hex", hex.get()) < 0) PyErr_Clear();
  }
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.get())), error.get());
  return nullptr;
}

PyObject* raise_unreadable(const ObjectId& object) {
  Ref cause = take_exception();
  if (cause && !PyObject_IsInstance(cause.get(), PyExc_Exception)) {   // KeyboardInterrupt and the like pass
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(cause.get())), cause.get());
    return nullptr;
  }
  Ref shown(cause ? PyObject_Repr(cause.get()) : nullptr);
  if (!shown) PyErr_Clear();
  const char* why = shown ? PyUnicode_AsUTF8(shown.get()) : nullptr;
  if (!why) PyErr_Clear();
  std::string text = "The value of object " + to_hex(object) + " cannot be read in this process: " +
                     (why ? why : "unknown error");
  raise_named("RaySystemError", text.c_str());
  Ref error = take_exception();
  if (!error) return nullptr;
  if (cause) PyException_SetCause(error.get(), cause.release());
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.get())), error.get());
  return nullptr;
}

}  // namespace sheaf::python
