// From a function pointer to an Invoker: the code in a worker that decodes arguments, calls, and encodes the result.
#pragma once

#include <functional>
#include <tuple>
#include <type_traits>

#include "runtime/api/context.h"
#include "runtime/api/registry.h"

namespace sheaf::internal {

// What a parameter of type P is decoded into.
template <class P>
struct StoredOf {
  using type = std::remove_cvref_t<P>;
};
template <>
struct StoredOf<std::string_view> {
  using type = std::string;
};
template <>
struct StoredOf<const std::string_view&> {
  using type = std::string;
};
template <class P>
using Stored = typename StoredOf<P>::type;

template <class P, class S>
decltype(auto) pass(S& stored) {
  if constexpr (std::is_lvalue_reference_v<P>) return static_cast<S&>(stored);
  else return static_cast<S&&>(stored);
}

template <class... P>
struct Parameters {
  static constexpr size_t count = sizeof...(P);
};

template <class P>
struct StreamOf : std::false_type {};
template <class T>
struct StreamOf<Stream<T>&> : std::true_type {
  using Item = T;
};

// R and the parameters of a function or member function. A leading Stream<T>& is no parameter for callers.
template <class R, class... P>
struct PlainSignature {
  using Result = R;
  using Params = Parameters<P...>;
  static constexpr bool streaming = false;
  using Item = void;
};
template <class R, class... P>
struct Signature : PlainSignature<R, P...> {};
template <class R, class First, class... P>
  requires StreamOf<First>::value
struct Signature<R, First, P...> {
  static_assert(std::is_void_v<R>, "a function that streams returns void");
  using Result = R;
  using Params = Parameters<P...>;
  static constexpr bool streaming = true;
  using Item = typename StreamOf<First>::Item;
};

template <class F>
struct CallableTraits;
template <class R, class... P>
struct CallableTraits<R (*)(P...)> : Signature<R, P...> {};
template <class R, class... P>
struct CallableTraits<R (*)(P...) noexcept> : Signature<R, P...> {};
#define SHEAF_METHOD_TRAITS(qualifiers)                                          \
  template <class R, class C, class... P>                                        \
  struct CallableTraits<R (C::*)(P...) qualifiers> : Signature<R, P...> {        \
    using Class = C;                                                             \
  };
SHEAF_METHOD_TRAITS()
SHEAF_METHOD_TRAITS(const)
SHEAF_METHOD_TRAITS(noexcept)
SHEAF_METHOD_TRAITS(const noexcept)
#undef SHEAF_METHOD_TRAITS

template <class Traits, class Call, class... P>
void invoke_with(TaskContext& ctx, Call&& call, Parameters<P...>) {
  std::tuple<Stored<P>...> args;
  // Reading may run user code (constructors, fields()): it counts as the task's own.
  ctx.run([&] {
    if (!ctx.read_arguments(args)) return;
    std::apply(
        [&](auto&... stored) {
          if constexpr (Traits::streaming) {
            Stream<typename Traits::Item> stream(ctx);
            call(stream, pass<P>(stored)...);
          } else if constexpr (std::is_void_v<typename Traits::Result>) {
            call(pass<P>(stored)...);
            ctx.store_none();
          } else {
            ctx.store_result(call(pass<P>(stored)...));
          }
        },
        args);
  });
}

template <auto F>
void invoke_function(TaskContext& ctx) {
  using Traits = CallableTraits<decltype(F)>;
  auto call = [](auto&&... args) -> decltype(auto) { return F(static_cast<decltype(args)&&>(args)...); };
  invoke_with<Traits>(ctx, call, typename Traits::Params());
}

// C: the registered class, which may derive from the one that declares the method.
template <class C, auto M>
void invoke_method(TaskContext& ctx) {
  using Traits = CallableTraits<decltype(M)>;
  auto* object = static_cast<C*>(ctx.instance());
  auto call = [object](auto&&... args) -> decltype(auto) {
    return (object->*M)(static_cast<decltype(args)&&>(args)...);
  };
  invoke_with<Traits>(ctx, call, typename Traits::Params());
}

template <class C, class Constructor>
struct Construct;
template <class C, class... P>
struct Construct<C, void(P...)> {
  static void invoke(TaskContext& ctx) {
    using Traits = PlainSignature<void, P...>;
    auto call = [&ctx](auto&&... args) {
      ctx.set_instance(new C(static_cast<decltype(args)&&>(args)...));   // deleted by the worker when the actor ends
    };
    invoke_with<Traits>(ctx, call, Parameters<P...>());
  }
  static void destroy(void* object) { delete static_cast<C*>(object); }
};

}  // namespace sheaf::internal
