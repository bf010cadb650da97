# What `pip install .` and `cmake --install` lay down: headers, libsheaf.so, the CMake package. sheafd and the Python
# extension are installed by their own folders, into SHEAF_INSTALL_BIN and SHEAF_INSTALL_PYTHON.
include(CMakePackageConfigHelpers)

install(TARGETS sheaf EXPORT SheafTargets
  LIBRARY DESTINATION ${SHEAF_INSTALL_LIB} COMPONENT runtime)
install(EXPORT SheafTargets NAMESPACE Sheaf:: DESTINATION ${SHEAF_INSTALL_CMAKE} COMPONENT runtime)
configure_package_config_file(cmake/SheafConfig.cmake.in ${PROJECT_BINARY_DIR}/SheafConfig.cmake
  INSTALL_DESTINATION ${SHEAF_INSTALL_CMAKE} PATH_VARS SHEAF_INSTALL_BIN)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/SheafConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/SheafConfig.cmake ${PROJECT_BINARY_DIR}/SheafConfigVersion.cmake
  DESTINATION ${SHEAF_INSTALL_CMAKE} COMPONENT runtime)

# Headers include one another from the root of the tree, so include/sheaf/ is a second include directory.
install(FILES ${PROJECT_BINARY_DIR}/include/sheaf/sheaf.h
  DESTINATION ${SHEAF_INSTALL_INCLUDE}/sheaf COMPONENT runtime)
foreach(module IN LISTS SHEAF_MODULES)
  if(EXISTS ${PROJECT_SOURCE_DIR}/${module})
    install(DIRECTORY ${module} DESTINATION ${SHEAF_INSTALL_INCLUDE}/sheaf COMPONENT runtime
      FILES_MATCHING PATTERN "*.h")
  endif()
endforeach()

# sheaf_install_program(<target>): into bin, finding libsheaf.so beside it wherever the tree is moved to.
function(sheaf_install_program target)
  set_target_properties(${target} PROPERTIES INSTALL_RPATH "$ORIGIN/${SHEAF_BIN_TO_LIB}")
  install(TARGETS ${target} RUNTIME DESTINATION ${SHEAF_INSTALL_BIN} COMPONENT runtime)
endfunction()

# sheaf_install_extension(<target>): the Python extension, into the package.
function(sheaf_install_extension target)
  set_target_properties(${target} PROPERTIES INSTALL_RPATH "$ORIGIN/lib")
  install(TARGETS ${target} LIBRARY DESTINATION ${SHEAF_INSTALL_PYTHON} COMPONENT runtime)
endfunction()
