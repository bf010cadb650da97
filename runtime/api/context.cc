#include "runtime/api/context.h"

#include <cxxabi.h>
#include <unistd.h>

#include <cstdlib>

namespace sheaf::internal {

TaskContext::~TaskContext() { drop_references(); }

bool TaskContext::plain() const { return task_->definition->blob.starts_with("cpp:"); }

bool TaskContext::begin_arguments(Decoder& d, size_t expected) {
  ValueTag t = d.tag();
  if (t != ValueTag::kArguments) d.expected("a call", t);
  uint32_t positional = d.scalar<uint32_t>();
  uint32_t keywords = d.scalar<uint32_t>();
  if (d.ok() && keywords > 0) d.fail("C++ functions take no keyword arguments");
  if (d.ok() && positional != expected) {
    d.fail("takes " + std::to_string(expected) + " arguments, but " + std::to_string(positional) + " were given");
  }
  return d.ok() || end_arguments(d);
}

bool TaskContext::end_arguments(Decoder& d) {
  if (!d.ok()) fail(ErrorKind::kUserException, task_->definition->name + ": wrong arguments: " + d.error());
  return d.ok();
}

void TaskContext::fail(ErrorKind kind, std::string message) {
  error_ = protocol::ErrorRecord{kind, std::move(message), {}, {}};
  if (kind != ErrorKind::kUserException) return;
  Encoder<CountSink> counter(CountSink(), true);
  write(counter, error_->message);
  error_->payload.resize(counter.sink().position());
  Encoder<MemorySink> writer(
      MemorySink(reinterpret_cast<std::byte*>(error_->payload.data()), 0, error_->payload.size(), nullptr), true);
  write(writer, error_->message);
}

void TaskContext::fail_with(const std::type_info& type, const char* what) {
  int status = 0;
  char* readable = abi::__cxa_demangle(type.name(), nullptr, nullptr, &status);
  std::string name = type == typeid(void) ? "an exception that is no std::exception" : readable ? readable : type.name();
  std::free(readable);
  std::string message = task_->definition->name + ": " + name;
  if (*what) message += std::string(": ") + what;
  user_error_ = true;
  fail(ErrorKind::kUserException, message + " (pid " + std::to_string(getpid()) + ")");
}

void TaskContext::fail_returns() {
  fail(ErrorKind::kUserException, task_->definition->name + ": " + std::to_string(task_->n_returns) +
                                      " return values were asked for: a C++ function gives several as a std::tuple, "
                                      "pair or array of that size");
}

void TaskContext::keep_references(const runtime::ReturnValue& value) {
  for (Slot slot : value.nested) {
    runtime_->retain(slot);
    kept_.push_back(slot);
  }
}

void TaskContext::drop_references() {
  for (Slot slot : kept_) runtime_->release(slot);
  kept_.clear();
}

Status TaskContext::send_item() {
  Status status = runtime_->yield_item(task_, result_);
  drop_references();
  result_ = {};
  buffer_.reset();
  return status;
}

void TaskContext::answer() {
  if (!error_) {
    bool streaming = task_->definition->flags & runtime::kStreaming;
    if (task_->kind == runtime::TaskKind::kActorCreation) runtime_->actor_started(*task_, std::nullopt);
    std::span<const runtime::ReturnValue> values(&result_, 1);
    if (streaming) values = {};
    else if (!results_.empty()) values = results_;
    runtime_->finish(task_, values);
    return;
  }
  bool retryable = user_error_ && (task_->definition->flags & runtime::kRetryExceptions);
  runtime_->fail(task_, *error_, retryable);
}

}  // namespace sheaf::internal
