# cmake --install: the library, the command, the headers, the data that ships with Glyptic, and a CMake package, so
# that a program needs no more than
#
#   find_package(glyptic CONFIG REQUIRED)
#   target_link_libraries(app PRIVATE glyptic::glyptic)
#
# Components: Runtime (library, command, data) and Development (headers, package).
include(CMakePackageConfigHelpers)

install(TARGETS glyptic EXPORT glypticTargets
  LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT Runtime NAMELINK_COMPONENT Development
  INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
if(GLYPTIC_BUILD_CLI)
  install(TARGETS glyptic_cli RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}" COMPONENT Runtime)
endif()
install(DIRECTORY "${PROJECT_SOURCE_DIR}/data/mnist-6k" DESTINATION "${CMAKE_INSTALL_DATADIR}/glyptic/data"
  COMPONENT Runtime FILES_MATCHING PATTERN "*.gz" PATTERN "README.md")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/configs" DESTINATION "${CMAKE_INSTALL_DATADIR}/glyptic" COMPONENT Runtime)
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DATADIR}/doc/glyptic" COMPONENT Runtime)
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/glyptic" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
  COMPONENT Development FILES_MATCHING PATTERN "*.h")

set(_package "${CMAKE_INSTALL_LIBDIR}/cmake/glyptic")
install(EXPORT glypticTargets NAMESPACE glyptic:: DESTINATION "${_package}" COMPONENT Development)
configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/glypticConfig.cmake.in"
  "${CMAKE_CURRENT_BINARY_DIR}/glypticConfig.cmake" INSTALL_DESTINATION "${_package}"
  NO_CHECK_REQUIRED_COMPONENTS_MACRO)
# Below 1.0 a minor version may change the interface.
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/glypticConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/glypticConfig.cmake" "${CMAKE_CURRENT_BINARY_DIR}/glypticConfigVersion.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/FindLibTorch.cmake" DESTINATION "${_package}" COMPONENT Development)
