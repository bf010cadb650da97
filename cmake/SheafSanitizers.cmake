# What a build with SHEAF_SANITIZE differs in, and the one place for options of the sanitizers' runtimes, each with its
# reason. docs/hacking.md says how to run it.

# Reports of every process that a test starts, the daemon and the workers among them: their exit codes and streams are
# not always looked at. The last test, sanitizer_show, fails when there is one.
set(SHEAF_SANITIZER_REPORTS ${CMAKE_BINARY_DIR}/sanitizer_reports)

if(SHEAF_SANITIZE)
  # -O1 -g1, because -O2 -g takes long to build. Assertions of the standard library are on, ours as well.
  set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1 -D_GLIBCXX_ASSERTIONS")
  set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O1 -g1")
  add_compile_options(-fsanitize=${SHEAF_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${SHEAF_SANITIZE})
  if(SHEAF_SANITIZE MATCHES "thread")
    # GCC says that fences are not modelled. Ours (lanes, bells, pins, traces) order atomics among themselves.
    add_compile_options(-Wno-tsan)
  endif()

  set(supp ${PROJECT_SOURCE_DIR}/cmake/sanitizers)
  string(JOIN ":" asan
    log_path=${SHEAF_SANITIZER_REPORTS}/asan
    detect_stack_use_after_return=1
    strict_string_checks=1)
  string(JOIN ":" ubsan
    log_path=${SHEAF_SANITIZER_REPORTS}/ubsan
    print_stacktrace=1)
  string(JOIN ":" lsan
    suppressions=${supp}/lsan.supp
    print_suppressions=0)
  string(JOIN ":" tsan
    log_path=${SHEAF_SANITIZER_REPORTS}/tsan
    suppressions=${supp}/tsan.supp
    # Tests fork beside threads; their children only make system calls, or exec.
    die_after_fork=0
    second_deadlock_stack=1)
  set(SHEAF_SANITIZER_ENVIRONMENT
    "ASAN_OPTIONS=${asan}" "UBSAN_OPTIONS=${ubsan}" "LSAN_OPTIONS=${lsan}" "TSAN_OPTIONS=${tsan}")
endif()

# A test's environment under a sanitizer: the options above, and four times its time.
function(sheaf_sanitize_test name timeout)
  if(NOT SHEAF_SANITIZE)
    return()
  endif()
  if(NOT TARGET sanitizer_tests)  # what to build: simulators and checkers have one thread and take long
    add_custom_target(sanitizer_tests)
  endif()
  add_dependencies(sanitizer_tests ${name})
  math(EXPR timeout "4 * ${timeout}")
  set_tests_properties(${name} PROPERTIES TIMEOUT ${timeout} ENVIRONMENT "${SHEAF_SANITIZER_ENVIRONMENT}"
    FIXTURES_REQUIRED sanitizer)
endfunction()

# The first test empties the folder of reports, the last one shows what came into it.
function(sheaf_sanitizer_reports)
  if(NOT SHEAF_SANITIZE)
    return()
  endif()
  foreach(part clear show)
    add_test(NAME sanitizer_${part} COMMAND ${CMAKE_COMMAND} -DPART=${part} -DREPORTS=${SHEAF_SANITIZER_REPORTS}
      -P ${PROJECT_SOURCE_DIR}/cmake/sanitizers/reports.cmake)
  endforeach()
  set_tests_properties(sanitizer_clear PROPERTIES FIXTURES_SETUP sanitizer)
  set_tests_properties(sanitizer_show PROPERTIES FIXTURES_CLEANUP sanitizer)
endfunction()
