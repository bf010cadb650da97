// Large std::variants whose copying, moving and destruction are compiled once.
//
// The compiler writes a jump table over all alternatives for each special member of a std::variant, in
// every source file that sees it: for the message types of the state machines that was half of the
// time of a build. A struct that derives from the variant and says SHEAF_VARIANT(Name) leaves them to
// the one file that says SHEAF_DEFINE_VARIANT(Name). std::visit, std::get and the like work as before;
// std::variant_size_v wants Name::variant.
#pragma once

#include <variant>

#define SHEAF_VARIANT(Name)        \
  using variant::variant;          \
  Name() = default;                \
  Name(const Name&);               \
  Name(Name&&) noexcept;           \
  Name& operator=(const Name&);    \
  Name& operator=(Name&&) noexcept; \
  ~Name();

#define SHEAF_DEFINE_VARIANT(Name)                 \
  Name::Name(const Name&) = default;               \
  Name::Name(Name&&) noexcept = default;           \
  Name& Name::operator=(const Name&) = default;    \
  Name& Name::operator=(Name&&) noexcept = default; \
  Name::~Name() = default;
