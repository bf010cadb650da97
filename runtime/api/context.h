// One task as the templates in a worker see it: its arguments in, its result or error out.
//
// Lives on the stack of the thread that runs the task. Nothing that user code throws leaves run().
#pragma once

#include <array>
#include <exception>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <utility>

#include "runtime/api/codec.h"
#include "runtime/api/engine.h"
#include "runtime/api/error.h"

namespace sheaf {

// Where a streaming function puts its items: the function's first parameter is `Stream<T>&`.
template <class T>
class Stream;

namespace internal {

class TaskContext {
 public:
  TaskContext(runtime::Runtime* rt, runtime::IncomingTask* task, void* instance)
      : runtime_(rt), task_(task), instance_(instance) {}
  ~TaskContext();
  TaskContext(const TaskContext&) = delete;

  runtime::Runtime* runtime() const { return runtime_; }
  runtime::IncomingTask* task() const { return task_; }
  void* instance() const { return instance_; }
  void set_instance(void* p) { instance_ = p; }
  // The caller speaks another language (docs/wire.md).
  bool plain() const;

  template <class... Ts>
  bool read_arguments(std::tuple<Ts...>& out) {
    DecodeSource source;
    source.runtime = runtime_;
    source.refs = task_->nested;
    source.task = task_;
    Decoder d(task_->payload, source);
    if (!begin_arguments(d, sizeof...(Ts))) return false;
    std::apply([&](auto&... v) { (read(d, v), ...); }, out);
    return end_arguments(d);
  }

  // Runs `body`; what it throws becomes the task's error.
  template <class F>
  void run(F&& body) {
    try {
      body();
    } catch (const TaskCancelledError& e) {
      fail(ErrorKind::kCancelled, e.what());
    } catch (const std::exception& e) {
      fail_with(typeid(e), e.what());
    } catch (...) {
      fail_with(typeid(void), "");
    }
  }

  // Encodes the result. Throws what the codec throws.
  template <class T>
  void store(const T& value) {
    Encoder<CountSink> counter(CountSink(), plain());
    write(counter, value);
    size_t size = counter.sink().position();
    if (size <= small_.size() && counter.sink().refs() == 0) {
      Encoder<MemorySink> writer(MemorySink(small_.data(), 0, size, nullptr), plain());
      write(writer, value);
      result_ = {};
      result_.inline_bytes = {small_.data(), size};
      return;
    }
    ValueBuffer& buffer = buffer_.emplace(encode_sized(value, size, counter.sink().refs(), 0));
    check(buffer.make_return(*task_, &result_));
    keep_references(result_);
  }
  void store_none() { store(std::monostate{}); }
  // A function's result: one value, or one for each element where the caller asked for so many.
  template <class T>
  void store_result(const T& value) {
    if (task_->n_returns <= 1) return store(value);
    if constexpr (requires { std::tuple_size<T>::value; }) {
      constexpr size_t n = std::tuple_size_v<T>;
      if (n == task_->n_returns) return store_each(value, std::make_index_sequence<n>());
    }
    fail_returns();
  }
  template <class T>
  void yield(const T& item) {
    store(item);
    check(send_item());
  }

  void fail(ErrorKind kind, std::string message);
  // Answers the caller. `retryable` errors are those of the user's code when retry_exceptions was asked for.
  void answer();

 private:
  template <class T>
  ValueBuffer encode(const T& value, uint32_t index) {
    Encoder<CountSink> counter(CountSink(), plain());
    write(counter, value);
    return encode_sized(value, counter.sink().position(), counter.sink().refs(), index);
  }
  template <class T>
  ValueBuffer encode_sized(const T& value, size_t size, uint32_t refs, uint32_t index) {
    auto buffer = check(ValueBuffer::create(runtime_, size, refs, task_, index));
    Encoder<MemorySink> writer(buffer.sink(), plain());
    write(writer, value);
    return buffer;
  }
  template <class T, size_t... I>
  void store_each(const T& values, std::index_sequence<I...>) {
    parts_.reserve(sizeof...(I));   // results point into them
    (parts_.push_back(encode(std::get<I>(values), I)), ...);
    results_.resize(sizeof...(I));
    for (size_t i = 0; i < parts_.size(); ++i) {
      check(parts_[i].make_return(*task_, &results_[i]));
      keep_references(results_[i]);
    }
  }
  void fail_returns();
  bool begin_arguments(Decoder& d, size_t expected);
  bool end_arguments(Decoder& d);
  void fail_with(const std::type_info& type, const char* what);
  void keep_references(const runtime::ReturnValue& value);
  void drop_references();
  Status send_item();

  runtime::Runtime* runtime_;
  runtime::IncomingTask* task_;
  void* instance_;
  std::array<std::byte, 128> small_;    // most results: neither heap nor arena is asked for them
  std::optional<ValueBuffer> buffer_;
  runtime::ReturnValue result_;
  std::vector<ValueBuffer> parts_;      // of several return values
  std::vector<runtime::ReturnValue> results_;
  std::vector<Slot> kept_;              // references inside the result, until it is sent
  std::optional<protocol::ErrorRecord> error_;
  bool user_error_ = false;
};

}  // namespace internal

template <class T>
class Stream {
 public:
  explicit Stream(internal::TaskContext& context) : context_(context) {}
  // Hands one item to the consumer; waits while it lags too far behind. Throws TaskCancelledError when nobody wants more.
  void yield(const T& item) { context_.yield(item); }

 private:
  internal::TaskContext& context_;
};

}  // namespace sheaf
