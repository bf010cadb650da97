# Programs that go through what state machines can do, and the same programs built from sources with
# one defect each, which they have to notice.

# sheaf_prover(<program> LINK <library> SOURCES a.cc ... [ARGS ...] [MUTANT_ARGS ...] [TIMEOUT s]): run as a test with
# ARGS, and for each mutant with MUTANT_ARGS.
function(sheaf_prover program)
  cmake_parse_arguments(ARG "" "LINK;TIMEOUT" "SOURCES;ARGS;MUTANT_ARGS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_library(${program}_objects OBJECT ${ARG_SOURCES})
  target_link_libraries(${program}_objects PUBLIC ${ARG_LINK})
  add_executable(${program} $<TARGET_OBJECTS:${program}_objects>)
  target_link_libraries(${program} PRIVATE ${ARG_LINK})
  set_target_properties(${program} PROPERTIES SHEAF_LINK "${ARG_LINK}" SHEAF_MUTANT_ARGS "${ARG_MUTANT_ARGS}")
  add_test(NAME ${program} COMMAND ${program} ${ARG_ARGS})
  set_tests_properties(${program} PROPERTIES LABELS sim TIMEOUT ${ARG_TIMEOUT})
endfunction()

# sheaf_caught(<mutant> <program> <oracle> [arguments ...]): a test that <program>, with that defect, sees <oracle>
# violated. The altered object stands in for the library's, as it defines the same symbols and comes first.
function(sheaf_caught mutant program oracle)
  get_target_property(library ${program} SHEAF_LINK)
  get_target_property(arguments ${program} SHEAF_MUTANT_ARGS)
  set(name ${program}_${mutant})
  add_executable(${name} $<TARGET_OBJECTS:${program}_objects> $<TARGET_OBJECTS:mutant_${mutant}>)
  target_link_libraries(${name} PRIVATE ${library})
  add_test(NAME ${name} COMMAND ${name} ${arguments} ${ARGN} --expect ${oracle})
  set_tests_properties(${name} PROPERTIES LABELS sim TIMEOUT 300)
  add_dependencies(mutants ${name})
endfunction()

# sheaf_mutant(<name> <folder>/<source> [CAUGHT_BY <program> <oracle> [arguments ...]] FROM <text> TO <text>): the text
# must occur exactly once in the source.
function(sheaf_mutant name source)
  cmake_parse_arguments(PARSE_ARGV 2 ARG "" "FROM;TO" "CAUGHT_BY")
  set(original "${PROJECT_SOURCE_DIR}/${source}")
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${original}")
  file(READ "${original}" text)
  string(REPLACE "${ARG_FROM}" "${ARG_TO}" altered "${text}")
  string(FIND "${text}" "${ARG_FROM}" first)
  string(FIND "${text}" "${ARG_FROM}" last REVERSE)
  if(first EQUAL -1 OR NOT first EQUAL last)
    # Its own build fails, and nobody else's.
    set(altered "#error mutant ${name}: not exactly one place in ${source} reads as it should\n")
  endif()
  set(mutated "${CMAKE_CURRENT_BINARY_DIR}/mutant_${name}.cc")
  file(CONFIGURE OUTPUT "${mutated}" CONTENT "${altered}" @ONLY)
  string(REGEX REPLACE "/.*" "" folder "${source}")
  add_library(mutant_${name} OBJECT "${mutated}")
  target_link_libraries(mutant_${name} PRIVATE sheaf_${folder})
  target_compile_options(mutant_${name} PRIVATE -O1 -g0)   # quick to compile, as there are many
  if(ARG_CAUGHT_BY)
    sheaf_caught(${name} ${ARG_CAUGHT_BY})
  endif()
endfunction()
