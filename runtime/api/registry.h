// The C++ functions and classes of this process, by name and by address. Filled by SHEAF_REMOTE and SHEAF_ACTOR before
// main() or while a library is loaded; entries stay for ever. Thread-safe.
//
// A worker finds entries by the hash of their name; a driver finds them by the pointer that the user passes. Both load
// the same library (or are the same program), so names need to agree, addresses need not.
#pragma once

#include <string>
#include <string_view>
#include <typeindex>
#include <vector>

#include "core/ids.h"
#include "runtime/api/engine.h"

namespace sheaf::internal {

class TaskContext;
// Reads the arguments, runs user code, keeps the result or the error in the context. Never throws.
using Invoker = void (*)(TaskContext&);

struct FunctionEntry {
  Callee callee;
  Invoker invoke = nullptr;
  TemplateCache cache;           // for default options
  TemplateCache split_cache;     // the same with one return value for each element of the result
};
struct MethodEntry {
  Callee callee;
  Invoker invoke = nullptr;
  TemplateCache cache;
  TemplateCache split_cache;
};
struct ClassEntry {
  Callee constructor;
  Invoker construct = nullptr;   // leaves the instance in the context
  void (*destroy)(void*) = nullptr;
  std::vector<MethodEntry*> methods;
};

// First 16 bytes of the SHA-256 of the text, most significant first (docs/wire.md).
FunctionId function_id(std::string_view text);

// A pointer to a function or member function as a key.
using PointerKey = std::string;
template <class F>
PointerKey pointer_key(F pointer) {
  PointerKey key(reinterpret_cast<const char*>(&pointer), sizeof pointer);
  return key + typeid(F).name();
}

// The same name twice is permitted for the same thing (registrations in a header); `name` loses a leading "::".
// `here`: an address in the library that registers (that of a template may be another's).
FunctionEntry* register_function(std::string_view name, PointerKey key, Invoker invoke, const void* here);
ClassEntry* register_class(std::string_view name, std::type_index type, Invoker construct, void (*destroy)(void*),
                           const void* here);
void register_method(ClassEntry* to, std::string_view name, PointerKey key, Invoker invoke);

FunctionEntry* find_function(const PointerKey& key);
FunctionEntry* find_function(const FunctionId& id);
ClassEntry* find_class(std::type_index type);
ClassEntry* find_class(const FunctionId& id);
MethodEntry* find_method(const PointerKey& key);
MethodEntry* find_method(const ClassEntry& in, std::string_view name);

// The file that the first registration came from: a shared library, or the program itself; "" when there was none.
std::string registering_library();

}  // namespace sheaf::internal
