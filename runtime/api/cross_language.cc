#include "runtime/api/cross_language.h"

namespace sheaf::internal {

Callee python_callee(CallKind kind, const std::string& module, const std::string& name) {
  Callee callee;
  callee.kind = kind;
  callee.blob = "py:" + module + ":" + name;
  callee.function = function_id(callee.blob);
  callee.label = name;
  callee.language = "python";
  return callee;
}

Callee python_method(const std::string& method) {
  Callee callee;
  callee.kind = CallKind::kMethod;
  callee.method = method;
  callee.label = method;
  callee.blob = "py:";
  return callee;
}

}  // namespace sheaf::internal
