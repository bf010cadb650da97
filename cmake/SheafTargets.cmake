# The few shapes of target that Sheaf has.

# Adds a folder as soon as it has a CMakeLists.txt.
function(sheaf_add_folder folder)
  if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/CMakeLists.txt)
    add_subdirectory(${folder})
  endif()
endfunction()

# Drops sources that are not there, with a warning: a half-written folder must not stop the others from building.
function(sheaf_existing_sources out)
  set(kept "")
  foreach(source IN LISTS ARGN)
    if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${source} OR EXISTS ${source})
      list(APPEND kept ${source})
    else()
      message(WARNING "${CMAKE_CURRENT_SOURCE_DIR}/CMakeLists.txt names ${source}, which does not exist")
    endif()
  endforeach()
  set(${out} ${kept} PARENT_SCOPE)
endfunction()

# In a unity build these sources are compiled together, and with no others.
function(sheaf_unity_group label)
  set(batch "${CMAKE_UNITY_BUILD_BATCH_SIZE}")
  if(NOT batch GREATER 0)
    set(batch 8)   # CMake's own
  endif()
  set(count 0)
  foreach(source IN LISTS ARGN)
    math(EXPR number "${count} / ${batch}")
    set_source_files_properties(${source} PROPERTIES UNITY_GROUP ${label}_${number})
    math(EXPR count "${count} + 1")
  endforeach()
endfunction()

# sheaf_module(<folder> SOURCES a.cc ... [ALTERED b.cc ...] LINK lower_module ...): one static target per folder, named
# sheaf_<folder>. ALTERED: those of its sources in place of which tests link others (cmake/SheafMutants.cmake).
# Link third-party libraries only where a source includes them; what a folder links, libsheaf.so links.
function(sheaf_module name)
  cmake_parse_arguments(ARG "" "" "SOURCES;ALTERED;LINK" ${ARGN})
  sheaf_existing_sources(sources ${ARG_SOURCES})
  if(sources)
    add_library(sheaf_${name} STATIC ${sources})
    set(scope PUBLIC)
  else()
    add_library(sheaf_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  if(ARG_ALTERED)
    list(REMOVE_ITEM sources ${ARG_ALTERED})
    sheaf_unity_group(altered ${ARG_ALTERED})
    sheaf_unity_group(other ${sources})
    set_target_properties(sheaf_${name} PROPERTIES UNITY_BUILD_MODE GROUP SHEAF_ALTERED "${ARG_ALTERED}")
  endif()
  target_include_directories(sheaf_${name} ${scope} $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
  target_link_libraries(sheaf_${name} ${scope} ${ARG_LINK})
endfunction()

# libsheaf.so from the objects of the given folders: what drivers, workers, sheafd and the Python extension share.
function(sheaf_shared_library)
  set(objects "")
  set(libraries "")
  foreach(module IN LISTS ARGN)
    if(NOT TARGET sheaf_${module})
      continue()
    endif()
    get_target_property(type sheaf_${module} TYPE)
    if(type STREQUAL "STATIC_LIBRARY")
      list(APPEND objects $<TARGET_OBJECTS:sheaf_${module}>)
      get_target_property(linked sheaf_${module} LINK_LIBRARIES)
    else()
      get_target_property(linked sheaf_${module} INTERFACE_LINK_LIBRARIES)
    endif()
    if(linked)
      list(APPEND libraries ${linked})
    endif()
  endforeach()
  list(FILTER libraries EXCLUDE REGEX "^sheaf_")
  list(REMOVE_DUPLICATES libraries)

  # <sheaf/sheaf.h> in the tree, as it is after an installation.
  file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/include/sheaf/sheaf.h
    CONTENT "// The public C++ interface of Sheaf.\n#pragma once\n\n#include \"runtime/sheaf.h\"\n")

  add_library(sheaf SHARED ${objects})
  add_library(Sheaf::sheaf ALIAS sheaf)
  target_link_libraries(sheaf PRIVATE ${libraries} PUBLIC Threads::Threads)
  target_link_options(sheaf PRIVATE -Wl,-Bsymbolic-functions)
  if(NOT SHEAF_SANITIZE)  # a sanitizer's runtime may come with the executable
    target_link_options(sheaf PRIVATE -Wl,--no-undefined)
  endif()
  target_include_directories(sheaf PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/include>
    $<INSTALL_INTERFACE:${SHEAF_INSTALL_INCLUDE}> $<INSTALL_INTERFACE:${SHEAF_INSTALL_INCLUDE}/sheaf>)
  target_compile_features(sheaf PUBLIC cxx_std_20)
endfunction()

# sheaf_test(<name> SOURCES a.cc ... LINK module ... [LABELS unit ...]): one GoogleTest binary known to ctest.
# Sources that use the same names for different things have a namespace each: a unity build compiles them together.
function(sheaf_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;LINK;LABELS" ${ARGN})
  sheaf_existing_sources(sources ${ARG_SOURCES})
  if(NOT sources)
    return()
  endif()
  add_executable(${name} ${sources})
  # A fifth less time to compile than -O2. Not -O0: its copies of templates would serve the library, too.
  target_compile_options(${name} PRIVATE -O1)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_LINK} GTest::gtest_main GTest::gtest Threads::Threads)
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
  sheaf_sanitize_test(${name} ${ARG_TIMEOUT})
endfunction()
