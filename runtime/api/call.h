// Writing a call: arguments of any types to the parameters of a signature, then submission.
//
// An ObjectRef<T> is accepted wherever a T is expected, and is then resolved before the task starts; where the parameter
// is an ObjectRef<T> itself it is passed on as a reference. An argument of more than 8 KB becomes an object of its own.
#pragma once

#include <array>
#include <tuple>
#include <type_traits>

#include "runtime/api/codec.h"
#include "runtime/api/engine.h"
#include "runtime/api/invoke.h"

namespace sheaf::internal {

template <class T>
struct RefValue {
  static constexpr bool is_ref = false;
  using type = T;
};
template <class T>
struct RefValue<ObjectRef<T>> {
  static constexpr bool is_ref = true;
  using type = T;
};
template <class T>
struct NumberElement {
  using type = void;
};
template <class T>
struct NumberElement<std::vector<T>> {
  using type = T;
};
template <class T>
struct NumberElement<View<T>> {
  using type = T;
};

// Whether a value written as From can be read as To.
template <class From, class To>
constexpr bool readable_as() {
  if constexpr (std::is_same_v<From, To>) return true;
  else if constexpr (std::is_arithmetic_v<From> && std::is_arithmetic_v<To>) return true;
  else if constexpr (std::is_same_v<typename NumberElement<From>::type, void>) return false;
  else return std::is_same_v<typename NumberElement<From>::type, typename NumberElement<To>::type>;
}

// Stands for the parameters of functions of other languages: what the argument is.
struct AnyParameter {};
template <class A>
using ParameterFor =
    std::conditional_t<RefValue<A>::is_ref, AnyParameter,
                       std::conditional_t<std::is_convertible_v<const A&, std::string_view>, std::string_view, A>>;

// How argument A travels for parameter P (both without cv and reference).
template <class P, class A>
constexpr bool by_dependency() {
  return RefValue<A>::is_ref && !RefValue<P>::is_ref;
}

// The argument as what the parameter's codec writes; by reference when no conversion is needed.
template <class P, class A>
decltype(auto) as_parameter(const A& arg) {
  if constexpr (std::is_same_v<P, A> || (!std::is_arithmetic_v<A> && readable_as<A, P>())) {
    return static_cast<const A&>(arg);
  } else if constexpr (std::is_same_v<P, std::string> && std::is_convertible_v<const A&, std::string_view>) {
    return std::string_view(arg);
  } else {
    static_assert(std::is_convertible_v<const A&, P>, "an argument does not fit the parameter of the remote function");
    return static_cast<P>(arg);
  }
}

template <class E, class P, class A>
void write_argument(E& e, const A& arg) {
  decltype(auto) value = as_parameter<P>(arg);
  write(e, value);
}

template <class T>
Slot put_encoded(runtime::Runtime* rt, const T& value, bool plain, size_t bytes, uint32_t refs) {
  auto buffer = check(ValueBuffer::create(rt, bytes, refs));
  Encoder<MemorySink> writer(buffer.sink(), plain);
  write(writer, value);
  return check(buffer.put());
}

// One argument, sized in a first pass and written in a second one.
template <class P, class A>
class Argument {
 public:
  // Bytes in the call. May store a large value as an object.
  size_t prepare(CallBuffer& call, const A& arg, bool plain, uint32_t* next_dependency) {
    if constexpr (by_dependency<P, A>()) {
      static_assert(readable_as<typename RefValue<A>::type, P>() || std::is_same_v<P, AnyParameter>,
                    "the reference is to a value of another type than the parameter");
      if (!arg) throw_argument("an ObjectRef that refers to nothing cannot be an argument");
      call.add_dependency(arg.slot(), false);
      dependency_ = (*next_dependency)++;
      return 5;
    } else {
      Encoder<CountSink> counter(CountSink(), plain);
      write_argument<Encoder<CountSink>, P>(counter, arg);
      size_t size = counter.sink().position();
      if (size <= kArgumentBytesMax) return size;
      decltype(auto) value = as_parameter<P>(arg);
      call.add_dependency(put_encoded(call.runtime(), value, plain, size, counter.sink().refs()), true);
      dependency_ = (*next_dependency)++;
      return 5;
    }
  }
  void write_to(Encoder<MemorySink>& e, const A& arg) {
    if (dependency_ != kInCall) return e.tagged(ValueTag::kDependency, dependency_);
    if constexpr (!by_dependency<P, A>()) write_argument<Encoder<MemorySink>, P>(e, arg);
  }

 private:
  static constexpr uint32_t kInCall = UINT32_MAX;
  uint32_t dependency_ = kInCall;
};

// Padding of arrays of numbers depends on where they stand: the second pass may need so much more.
inline constexpr size_t kPaddingSlack = 72;

template <class... P, class... A, size_t... I>
void write_call(CallBuffer& call, bool plain, Parameters<P...>, std::index_sequence<I...>, const A&... args) {
  static_assert(sizeof...(P) == sizeof...(A), "the remote function takes another number of arguments");
  std::tuple<Argument<std::remove_cvref_t<P>, A>...> arguments;
  uint32_t dependencies = 0;
  size_t size = 9;
  ((size += std::get<I>(arguments).prepare(call, args, plain, &dependencies)), ...);
  MemorySink sink = call.reserve(size + kPaddingSlack * sizeof...(A));
  Encoder<MemorySink> e(sink, plain);
  struct Head {
    ValueTag tag = ValueTag::kArguments;
    uint32_t positional = sizeof...(A);
    uint32_t keywords = 0;
  } __attribute__((packed)) head;
  e.raw(&head, sizeof head);
  (std::get<I>(arguments).write_to(e, args), ...);
  call.trim(e.sink().position());
}

}  // namespace sheaf::internal
