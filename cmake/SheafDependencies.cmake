# Required libraries (Debian package names beside them) and optional modules.
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)           # libfmt-dev
find_package(spdlog REQUIRED)        # libspdlog-dev
find_package(tomlplusplus REQUIRED)  # libtomlplusplus-dev
find_package(CLI11 REQUIRED)         # libcli11-dev
find_package(SQLite3 REQUIRED)       # libsqlite3-dev
if(NOT TARGET SQLite3::SQLite3)      # its name since CMake 4.3
  add_library(SQLite3::SQLite3 ALIAS SQLite::SQLite3)
endif()
find_package(OpenSSL 3.0 REQUIRED)    # libssl-dev
if(SHEAF_BUILD_TESTS)
  find_package(GTest REQUIRED)       # libgtest-dev
endif()
find_package(PkgConfig QUIET)

# sheaf_optional_module(<name> <pkg-config name or ""> <header> <meaning when absent> [<meaning when found>]): looks,
# remembers a line for the closing table, sets SHEAF_HAVE_<NAME>. What is used is linked as pkg-config says: a header
# alone does not count.
function(sheaf_optional_module name package header meaning)
  string(TOUPPER ${name} upper)
  set(version "")
  set(found FALSE)
  if(PkgConfig_FOUND AND NOT package STREQUAL "")
    pkg_check_modules(SHEAF_${upper} QUIET IMPORTED_TARGET ${package})
    if(SHEAF_${upper}_FOUND)
      set(found TRUE)
      set(version ${SHEAF_${upper}_VERSION})
    endif()
  endif()
  if(NOT found AND NOT ARGN)
    find_path(SHEAF_${upper}_HEADER_DIR ${header}
      HINTS $ENV{${upper}_HOME} PATHS /usr/local/cuda/include PATH_SUFFIXES include)
    if(SHEAF_${upper}_HEADER_DIR)
      set(found TRUE)
    endif()
  endif()
  set(SHEAF_HAVE_${upper} ${found} PARENT_SCOPE)
  if(found)
    set(line "found ${version}, but nothing here uses it yet")
    if(ARGN)
      set(line "found ${version}: ${ARGN}")
    endif()
  else()
    set(line "not found: ${meaning}")
  endif()
  set_property(GLOBAL APPEND PROPERTY SHEAF_OPTIONAL_LINES "${name}|${line}")
endfunction()

sheaf_optional_module(UCX ucx ucp/api/ucp.h "hosts will talk by TCP with TLS, not by InfiniBand or RoCE")
sheaf_optional_module(libfabric libfabric rdma/fabric.h "no Slingshot or EFA, hosts will talk by TCP with TLS")
sheaf_optional_module(MPI "ompi-cxx" mpi.h "mpirun is still supported as a launcher, through PMIx or a shared file")
sheaf_optional_module(PMIx pmix pmix.h "addresses of a job are exchanged through a 0600 file on a shared directory")
sheaf_optional_module(CUDA "" cuda.h "GPUs are counted and assigned, device objects live on fake devices only")
sheaf_optional_module(liburing liburing liburing.h "spilling to disk uses pread and pwrite in a thread")
sheaf_optional_module(hwloc hwloc hwloc.h "all CPUs count as one NUMA node, workers are not bound to CPUs"
  "workers run close to their memory, GPUs and network cards")

function(sheaf_print_optional_modules)
  message(STATUS "Sheaf ${PROJECT_VERSION}, ${CMAKE_BUILD_TYPE}; optional modules:")
  get_property(lines GLOBAL PROPERTY SHEAF_OPTIONAL_LINES)
  foreach(entry IN LISTS lines)
    string(REPLACE "|" ";" entry "${entry}")
    list(GET entry 0 name)
    list(GET entry 1 text)
    string(LENGTH "${name}" length)
    math(EXPR pad "11 - ${length}")
    string(REPEAT " " ${pad} blanks)
    message(STATUS "  ${name}${blanks}${text}")
  endforeach()
endfunction()
