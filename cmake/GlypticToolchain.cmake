# Compiler settings that every target shares. What each is for, with measurements, is in docs/development.md.

add_library(glyptic_flags INTERFACE)
target_compile_options(glyptic_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers>
  # Objects of programs are compiled like those of the library, so that all can use one precompiled header.
  $<$<COMPILE_LANGUAGE:C,CXX>:-fPIC>
  # A product and a sum round twice on every machine, so that results do not depend on whether it has FMA.
  $<$<COMPILE_LANGUAGE:C,CXX>:-ffp-contract=off>)
if(GLYPTIC_WERROR)
  target_compile_options(glyptic_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  target_compile_options(glyptic_flags INTERFACE
    "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-Xclang -fno-pch-timestamp>")
endif()
set(CMAKE_POSITION_INDEPENDENT_CODE OFF)

if(GLYPTIC_SANITIZE)
  target_compile_options(glyptic_flags INTERFACE
    # A finding ends the program, so that a test cannot pass over it.
    $<$<COMPILE_LANGUAGE:C,CXX>:-fsanitize=${GLYPTIC_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1>)
  target_link_options(glyptic_flags INTERFACE -fsanitize=${GLYPTIC_SANITIZE})
endif()

if(GLYPTIC_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "libFuzzer comes with clang; configure with CXX=clang++, or with -DGLYPTIC_FUZZ=OFF")
  endif()
  # Coverage for libFuzzer; the one C file is gcc's, which has no such option.
  target_compile_options(glyptic_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=fuzzer-no-link>)
endif()

find_program(GLYPTIC_CCACHE ccache)
if(GLYPTIC_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Without these sloppiness settings a precompiled header defeats the cache.
  set(CMAKE_CXX_COMPILER_LAUNCHER "${CMAKE_COMMAND}" -E env
    "CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime" "CCACHE_NOHASHDIR=1"
    "CCACHE_BASEDIR=${CMAKE_SOURCE_DIR}" "CCACHE_IGNOREOPTIONS=-Werror" "${GLYPTIC_CCACHE}")
  set(CMAKE_C_COMPILER_LAUNCHER "${CMAKE_CXX_COMPILER_LAUNCHER}")
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${CMAKE_CXX_COMPILER_LAUNCHER}")
endif()

# CMake names the precompiled header by its full path, in a form (-Xclang) that ccache hashes as it stands, so that no
# clone could use what another compiled. There is one such header, and ninja runs everything in the build folder, so
# that a relative name does. (The variables are those of CMake's own Modules/Compiler/Clang.cmake.)
if(GLYPTIC_CCACHE AND CMAKE_GENERATOR STREQUAL "Ninja" AND CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  file(RELATIVE_PATH _pch "${CMAKE_BINARY_DIR}" "${PROJECT_BINARY_DIR}/src/CMakeFiles/glyptic.dir/cmake_pch.hxx")
  set(CMAKE_CXX_COMPILE_OPTIONS_CREATE_PCH -Xclang -emit-pch -Xclang -include -Xclang "${_pch}" -x c++-header)
  set(CMAKE_CXX_COMPILE_OPTIONS_USE_PCH
    -Xclang -include-pch -Xclang "${_pch}.pch" -Xclang -include -Xclang "${_pch}")
endif()

find_program(GLYPTIC_MOLD mold)
if(GLYPTIC_MOLD AND CMAKE_CXX_COMPILER_ID MATCHES "Clang|GNU")
  target_link_options(glyptic_flags INTERFACE -fuse-ld=mold)
endif()
