# Programs that go through what state machines can do, and the same programs with one defect each, which they have to
# notice. All defects of a folder's sources are compiled in at once, and a run chooses one of them (tests/sim/defect.h).

# sheaf_prover(<program> LINK <library> SOURCES a.cc ... [ARGS ...] [MUTANT_ARGS ...] [NO_DEFECT_ARGS ...] [TIMEOUT s]):
# run as a test with ARGS; with the altered sources, for each mutant with MUTANT_ARGS, and for none with NO_DEFECT_ARGS.
function(sheaf_prover program)
  cmake_parse_arguments(ARG "" "LINK;TIMEOUT" "SOURCES;ARGS;MUTANT_ARGS;NO_DEFECT_ARGS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_library(${program}_objects OBJECT ${ARG_SOURCES})
  target_link_libraries(${program}_objects PUBLIC ${ARG_LINK})
  add_executable(${program} $<TARGET_OBJECTS:${program}_objects>)
  target_link_libraries(${program} PRIVATE ${ARG_LINK})
  set_target_properties(${program} PROPERTIES SHEAF_LINK "${ARG_LINK}" SHEAF_MUTANT_ARGS "${ARG_MUTANT_ARGS}"
    SHEAF_NO_DEFECT_ARGS "${ARG_NO_DEFECT_ARGS}")
  add_test(NAME ${program} COMMAND ${program} ${ARG_ARGS})
  set_tests_properties(${program} PROPERTIES LABELS sim TIMEOUT ${ARG_TIMEOUT})
endfunction()

# <program>_defects: the program with the altered sources of <folder>. They stand in for the library's objects, as they
# define the same symbols and come first; an object of the library that was needed all the same would be a link error.
function(sheaf_defects program folder)
  set(name ${program}_defects)
  if(NOT TARGET ${name})
    get_target_property(library ${program} SHEAF_LINK)
    add_executable(${name} $<TARGET_OBJECTS:${program}_objects>)
    target_link_libraries(${name} PRIVATE ${library})
    add_dependencies(mutants ${name})
    # Where no defect is chosen nothing is violated; else each would be caught for another's sake.
    get_target_property(arguments ${program} SHEAF_NO_DEFECT_ARGS)
    add_test(NAME unaltered_${program} COMMAND ${name} ${arguments})
    set_tests_properties(unaltered_${program} PROPERTIES LABELS sim TIMEOUT 300)
  endif()
  get_property(folders TARGET ${name} PROPERTY SHEAF_FOLDERS)
  if(NOT folder IN_LIST folders)
    target_sources(${name} PRIVATE $<TARGET_OBJECTS:sheaf_${folder}_defects>)
    set_property(TARGET ${name} APPEND PROPERTY SHEAF_FOLDERS ${folder})
  endif()
endfunction()

# sheaf_caught(<mutant> <program> <oracle> [arguments ...]): a test that <program>, with that defect, sees <oracle>
# violated.
function(sheaf_caught mutant program oracle)
  get_target_property(arguments ${program} SHEAF_MUTANT_ARGS)
  get_property(folder GLOBAL PROPERTY SHEAF_MUTANT_${mutant})
  sheaf_defects(${program} ${folder})
  set(name ${program}_${mutant})
  add_test(NAME ${name}
    COMMAND ${program}_defects ${arguments} ${ARGN} --defect ${mutant} --expect ${oracle})
  set_tests_properties(${name} PROPERTIES LABELS sim TIMEOUT 300)
endfunction()

# sheaf_mutant(<name> <folder>/<source> [CAUGHT_BY <program> <oracle> [arguments ...]] FROM <text> TO <text>): FROM must
# occur exactly once in the source. TO is what stands there instead; where it says DEFECT it asks whether this one is
# chosen, and when it is not, TO must do what FROM does. The folder's module has to name the source under ALTERED.
function(sheaf_mutant name source)
  cmake_parse_arguments(PARSE_ARGV 2 ARG "" "FROM;TO" "CAUGHT_BY")
  string(REGEX REPLACE "/.*" "" folder "${source}")
  string(REGEX REPLACE "^[^/]*/" "" file "${source}")
  get_target_property(may_alter sheaf_${folder} SHEAF_ALTERED)
  if(NOT file IN_LIST may_alter)
    message(FATAL_ERROR "mutant ${name}: ${folder}/CMakeLists.txt does not name ${file} under ALTERED")
  endif()
  get_property(known GLOBAL PROPERTY SHEAF_ALTERED_${folder})
  if(NOT file IN_LIST known)
    set_property(GLOBAL APPEND PROPERTY SHEAF_ALTERED_${folder} ${file})
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/${source}")
    file(READ "${PROJECT_SOURCE_DIR}/${source}" text)
    string(PREPEND text "#include \"tests/sim/defect.h\"\n")
  else()
    get_property(text GLOBAL PROPERTY SHEAF_ALTERED_TEXT_${source})
  endif()
  string(FIND "${text}" "${ARG_FROM}" first)
  string(FIND "${text}" "${ARG_FROM}" last REVERSE)
  string(FIND "${ARG_TO}" "DEFECT" asks)
  string(REPLACE "DEFECT" "SHEAF_DEFECT(\"${name}\")" to "${ARG_TO}")
  if(first EQUAL -1 OR NOT first EQUAL last OR asks EQUAL -1)
    # Only the build of the mutants fails.
    string(APPEND text "#error mutant ${name}: not exactly one place in ${source} reads as it should\n")
  else()
    string(REPLACE "${ARG_FROM}" "${to}" text "${text}")
  endif()
  set_property(GLOBAL PROPERTY SHEAF_ALTERED_TEXT_${source} "${text}")
  set_property(GLOBAL PROPERTY SHEAF_MUTANT_${name} ${folder})
  if(ARG_CAUGHT_BY)
    sheaf_caught(${name} ${ARG_CAUGHT_BY})
  endif()
endfunction()

# After the last sheaf_mutant(): the altered sources of all folders.
function(sheaf_altered_sources)
  foreach(folder IN LISTS SHEAF_MODULES ITEMS launchers)
    get_property(files GLOBAL PROPERTY SHEAF_ALTERED_${folder})
    if(NOT files)
      continue()
    endif()
    set(altered "")
    foreach(file IN LISTS files)
      get_property(text GLOBAL PROPERTY SHEAF_ALTERED_TEXT_${folder}/${file})
      set(path "${CMAKE_CURRENT_BINARY_DIR}/altered/${folder}/${file}")
      file(CONFIGURE OUTPUT "${path}" CONTENT "${text}" @ONLY)
      list(APPEND altered "${path}")
    endforeach()
    add_library(sheaf_${folder}_defects OBJECT ${altered})
    target_link_libraries(sheaf_${folder}_defects PRIVATE sheaf_${folder})
    target_compile_options(sheaf_${folder}_defects PRIVATE -O1 -g0)
  endforeach()
endfunction()
