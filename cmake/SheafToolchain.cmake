# Compiler settings shared by every target; ccache and a fast linker are used when present.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_EXPORT_PACKAGE_REGISTRY OFF)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
# -g1: line tables, enough for a stack trace, at a tenth of the size of full debug information.
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g1 -DNDEBUG")
set(CMAKE_C_FLAGS_RELEASE "-O2 -g1 -DNDEBUG")

find_program(SHEAF_CCACHE ccache)
if(SHEAF_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${SHEAF_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${SHEAF_CCACHE})
endif()
find_program(SHEAF_MOLD mold)
if(SHEAF_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

add_compile_options(
  -Wall -Wextra -Wno-unused-parameter -Wno-maybe-uninitialized -fno-omit-frame-pointer
  "$<$<COMPILE_LANGUAGE:CXX>:-Wshadow>"
  # Nobody replaces our functions at load time, so calls inside the library need no indirection.
  -fno-semantic-interposition)
include(cmake/SheafSanitizers.cmake)
