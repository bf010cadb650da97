#include "runtime/api/registry.h"

#include <deque>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "runtime/api/daemon.h"
#include "runtime/api/sha256.h"

namespace sheaf::internal {

namespace {

struct Registry {
  std::shared_mutex lock;        // looked up for each call of a new builder, changed only while libraries load
  std::deque<FunctionEntry> functions;
  std::deque<ClassEntry> classes;
  std::deque<MethodEntry> methods;
  std::unordered_map<PointerKey, FunctionEntry*> function_by_pointer;
  std::map<FunctionId, FunctionEntry*> function_by_id;
  std::map<std::type_index, ClassEntry*> class_by_type;
  std::map<FunctionId, ClassEntry*> class_by_id;
  std::unordered_map<PointerKey, MethodEntry*> method_by_pointer;
  std::string library;
};

// Made at the first use, which may be in the static initialisation of any library; never destroyed.
Registry& registry() {
  static auto* r = new Registry();
  return *r;
}

std::string_view plain_name(std::string_view name) {
  if (name.starts_with('&')) name.remove_prefix(1);
  while (name.starts_with(' ')) name.remove_prefix(1);
  if (name.starts_with("::")) name.remove_prefix(2);
  return name;
}

template <class Map, class Key>
auto lookup(Map Registry::* map, const Key& key) -> typename Map::mapped_type {
  Registry& r = registry();
  std::shared_lock guard(r.lock);
  auto it = (r.*map).find(key);
  return it == (r.*map).end() ? nullptr : it->second;
}

}  // namespace

FunctionId function_id(std::string_view text) {
  auto digest = sha256(text);
  FunctionId id;
  for (int i = 0; i < 8; ++i) {
    id.hi = id.hi << 8 | digest[static_cast<size_t>(i)];
    id.lo = id.lo << 8 | digest[static_cast<size_t>(i + 8)];
  }
  return id;
}

FunctionEntry* register_function(std::string_view name, PointerKey key, Invoker invoke, const void* here) {
  name = plain_name(name);
  Registry& r = registry();
  std::unique_lock guard(r.lock);
  if (r.library.empty()) r.library = library_of(here);
  FunctionId id = function_id(name);
  FunctionEntry*& entry = r.function_by_id[id];
  if (!entry) {
    entry = &r.functions.emplace_back();
    entry->callee.function = id;
    entry->callee.label = name;
  }
  entry->invoke = invoke;
  r.function_by_pointer[std::move(key)] = entry;
  return entry;
}

ClassEntry* register_class(std::string_view name, std::type_index type, Invoker construct,
                           void (*destroy)(void*), const void* here) {
  name = plain_name(name);
  Registry& r = registry();
  std::unique_lock guard(r.lock);
  if (r.library.empty()) r.library = library_of(here);
  FunctionId id = function_id(name);
  ClassEntry*& entry = r.class_by_id[id];
  if (!entry) {
    entry = &r.classes.emplace_back();
    entry->constructor.kind = CallKind::kConstructor;
    entry->constructor.function = id;
    entry->constructor.label = name;
  }
  entry->construct = construct;
  entry->destroy = destroy;
  r.class_by_type[type] = entry;
  return entry;
}

void register_method(ClassEntry* to, std::string_view name, PointerKey key, Invoker invoke) {
  Registry& r = registry();
  std::unique_lock guard(r.lock);
  MethodEntry* entry = nullptr;
  for (MethodEntry* m : to->methods) {
    if (m->callee.method == name) entry = m;
  }
  if (!entry) {
    entry = &r.methods.emplace_back();
    entry->callee.kind = CallKind::kMethod;
    entry->callee.method = name;
    entry->callee.label = to->constructor.label + "." + std::string(name);
    to->methods.push_back(entry);
  }
  entry->invoke = invoke;
  r.method_by_pointer[std::move(key)] = entry;
}

FunctionEntry* find_function(const PointerKey& key) { return lookup(&Registry::function_by_pointer, key); }
FunctionEntry* find_function(const FunctionId& id) { return lookup(&Registry::function_by_id, id); }
ClassEntry* find_class(std::type_index type) { return lookup(&Registry::class_by_type, type); }
ClassEntry* find_class(const FunctionId& id) { return lookup(&Registry::class_by_id, id); }
MethodEntry* find_method(const PointerKey& key) { return lookup(&Registry::method_by_pointer, key); }

MethodEntry* find_method(const ClassEntry& in, std::string_view name) {
  std::shared_lock guard(registry().lock);
  for (MethodEntry* m : in.methods) {
    if (m->callee.method == name) return m;
  }
  return nullptr;
}

std::string registering_library() {
  std::shared_lock guard(registry().lock);
  return registry().library;
}

}  // namespace sheaf::internal
