#include "runtime/api/worker.h"

#include <dlfcn.h>
#include <elf.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/json.h"
#include "runtime/api/actor.h"
#include "runtime/api/context.h"
#include "runtime/api/registry.h"
#include "runtime/impl.h"

namespace sheaf::internal {

using runtime::IncomingTask;
using runtime::Runtime;
using runtime::TaskKind;

namespace {

constexpr int kSlotsMax = 256;

class Worker {
 public:
  Worker(Runtime* rt, int slots) : runtime_(rt), slots_(slots) {}

  // In the main thread; further threads are started as they are needed.
  void run() {
    for (int i = 1; i < slots_; ++i) add_thread();
    serve();
    for (auto& thread : threads_) thread.join();
    if (instance_ && class_) class_->destroy(instance_);
  }

  std::string load_error;
  std::atomic<bool> exit_actor_requested{false};

 private:
  void add_thread() { threads_.emplace_back([this] { serve(); }); }

  void serve() {
    while (!runtime_->exiting()) {
      IncomingTask* task = runtime_->next_task(runtime::kNever);
      if (task) execute(task);
    }
  }

  void execute(IncomingTask* task) {
    set_current_task(task);
    {
      TaskContext context(runtime_, task, instance_);
      if (load_error.empty()) dispatch(context);
      else context.fail(ErrorKind::kRuntimeEnvSetup, load_error);
      if (is_last_call(*task)) runtime_->last_task();
      context.answer();   // frees the task
    }
    set_current_task(nullptr);
    if (exit_actor_requested.exchange(false)) {
      runtime_->actor_exit(actor_, incarnation_, "exit_actor() was called");
    }
  }

  // max_calls of the task's function is reached.
  bool is_last_call(const IncomingTask& task) {
    if (task.kind != TaskKind::kFunction || task.definition->max_calls == 0) return false;
    std::lock_guard guard(calls_lock_);
    return ++calls_[task.definition->function] >= task.definition->max_calls;
  }

  void dispatch(TaskContext& context) {
    const IncomingTask& task = *context.task();
    switch (task.kind) {
      case TaskKind::kFunction: {
        FunctionEntry* entry = find_function(task.definition->function);
        if (!entry) return unknown(context, "the library registers no function '" + task.definition->name + "'");
        return entry->invoke(context);
      }
      case TaskKind::kActorCreation: return construct(context);
      case TaskKind::kActorMethod: {
        if (!class_) return unknown(context, "this worker is no actor");
        MethodEntry* entry = find_method(*class_, task.definition->method);
        if (!entry && task.definition->method == "__ray_ready__") return context.run([&] { context.store(true); });
        if (!entry) {
          return unknown(context, class_->constructor.label + " registers no method '" + task.definition->method + "'");
        }
        return entry->invoke(context);
      }
    }
  }

  void unknown(TaskContext& context, const std::string& what) { context.fail(ErrorKind::kUserException, what); }

  void construct(TaskContext& context) {
    const IncomingTask& task = *context.task();
    ClassEntry* entry = find_class(task.definition->function);
    if (!entry) return unknown(context, "the library registers no class '" + task.definition->name + "'");
    actor_ = task.actor->spec.actor;
    set_current_actor(*task.actor);
    incarnation_ = task.actor->incarnation;
    entry->construct(context);
    if (!context.instance()) return;
    instance_ = context.instance();
    class_ = entry;
    int wanted = static_cast<int>(std::min<uint32_t>(task.actor->spec.max_concurrency, kSlotsMax));
    for (int running = slots_; running < wanted; ++running) add_thread();
  }

  Runtime* runtime_;
  int slots_;
  std::vector<std::thread> threads_;
  std::mutex calls_lock_;                      // once a task of a function that has max_calls
  std::map<FunctionId, uint32_t> calls_;
  // Written by the constructor's thread before any method is served.
  void* instance_ = nullptr;
  ClassEntry* class_ = nullptr;
  ActorId actor_;
  uint32_t incarnation_ = 0;
};

Worker* g_worker = nullptr;   // for exit_actor()

std::string load(const std::string& library) {
  if (library.empty()) {
    return "no C++ library is known: name it in init() or in $SHEAF_CPP_LIBRARY";
  }
  if (!dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL)) {
    return "the library of C++ tasks cannot be loaded: " + std::string(dlerror());
  }
  return "";
}

template <class T>
void take(const JsonValue* object, const char* name, T* out) {
  const JsonValue* v = object ? object->find(name) : nullptr;
  if (!v) return;
  if constexpr (std::is_same_v<T, std::string>) {
    if (v->as_string()) *out = *v->as_string();
  } else {
    if (v->as_int()) *out = static_cast<T>(*v->as_int());
  }
}

}  // namespace

Result<WorkerOptions> read_worker_options(int fd) {
  std::string text;
  char chunk[65536];
  ssize_t n = 0;
  lseek(fd, 0, SEEK_SET);   // a program that runs again reads it a second time
  while ((n = ::read(fd, chunk, sizeof chunk)) > 0) text.append(chunk, static_cast<size_t>(n));
  if (n < 0) return Status::from_errno("descriptor 3, which a node daemon gives its workers", errno);
  SHEAF_ASSIGN(JsonValue json, parse_json(text));
  WorkerOptions o;
  take(&json, "socket", &o.socket_path);
  take(&json, "token", &o.spawn_token);
  const JsonValue* job = json.find("job");
  take(job, "id", &o.job);
  take(job, "name_space", &o.name_space);
  std::string language;
  take(&json, "language", &language);
  if (!language.starts_with("cpp:")) return Status(StatusCode::kInvalidArgument, "not a C++ worker: " + language);
  o.library = language.substr(4);
  if (const char* slots = std::getenv("SHEAF_CPP_SLOTS")) o.slots = std::clamp(std::atoi(slots), 1, kSlotsMax);
  return o;
}

bool is_program(const std::string& path) {
  Elf64_Ehdr head;
  std::ifstream file(path, std::ios::binary);
  if (!file.read(reinterpret_cast<char*>(&head), sizeof head)) return false;
  if (!std::equal(head.e_ident, head.e_ident + SELFMAG, ELFMAG)) return false;
  if (head.e_type == ET_EXEC) return true;
  file.seekg(static_cast<std::streamoff>(head.e_phoff));
  for (int i = 0; i < head.e_phnum; ++i) {
    Elf64_Phdr segment;
    if (!file.read(reinterpret_cast<char*>(&segment), sizeof segment)) return false;
    if (segment.p_type == PT_INTERP) return true;   // the loader is named by programs only
  }
  return false;
}

int run_worker(const WorkerOptions& options, bool load_library) {
  signal(SIGPIPE, SIG_IGN);
  runtime::ConnectOptions connect;
  connect.socket_path = options.socket_path;
  connect.kind = protocol::ClientKind::kWorker;
  connect.spawn_token = options.spawn_token;
  connect.slots = static_cast<uint32_t>(options.slots);
  auto rt = Runtime::connect(std::move(connect));
  if (!rt) {
    std::fprintf(stderr, "sheaf-worker: %s\n", rt.status().to_string().c_str());
    return 1;
  }
  auto* c = new Connection();
  c->runtime = *rt;
  c->generation = 1;
  c->job = options.job;
  c->name_space = options.name_space;
  c->library = options.library;
  set_connection(c);
  Worker worker(*rt, options.slots);
  g_worker = &worker;
  if (load_library) worker.load_error = load(options.library);
  worker.run();
  std::fflush(nullptr);
  (*rt)->shutdown();
  return 0;
}

}  // namespace sheaf::internal

namespace sheaf {

void exit_actor() {
  if (!internal::g_worker || !internal::current_task()) internal::throw_argument("exit_actor() outside of an actor");
  internal::g_worker->exit_actor_requested = true;
}

}  // namespace sheaf
