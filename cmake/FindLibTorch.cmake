# Finds the LibTorch that ships inside the `torch` Python package.
#
# PyTorch's own TorchConfig.cmake refuses to configure where its wheel was built with CUDA and no toolkit is
# installed, and it injects global compiler flags. All that is needed here are the folders, so this module asks
# the interpreter for them and defines imported targets:
#
#   LibTorch::torch    libtorch, libtorch_cpu, libc10 (always)
#   LibTorch::gomp     the OpenMP runtime that torch itself uses, so that one process has one thread pool
#   LibTorch::cuda     libtorch_cuda, libc10_cuda (only where the wheel has them)
#   LibTorch::python   libtorch_python and the Python headers (only when the component Python is asked for)
#
# Input:  GLYPTIC_PYTHON (default: python of the active virtual environment, then python3 on PATH), or
#         LIBTORCH_ROOT, the folder that holds include/ and lib/, for programs that have no Python at all.
# Output: LIBTORCH_ROOT, LIBTORCH_VERSION, LIBTORCH_CUDA_VERSION (empty for a CPU wheel), LIBTORCH_LIBRARY_DIR.

if(TARGET LibTorch::torch)
  return()
endif()

if(NOT LIBTORCH_ROOT)
  if(NOT GLYPTIC_PYTHON)
    if(SKBUILD AND DEFINED Python_EXECUTABLE)  # a wheel belongs to the interpreter that builds it
      set(GLYPTIC_PYTHON "${Python_EXECUTABLE}" CACHE FILEPATH "Python whose torch package is used" FORCE)
    elseif(DEFINED ENV{VIRTUAL_ENV} AND EXISTS "$ENV{VIRTUAL_ENV}/bin/python")
      set(GLYPTIC_PYTHON "$ENV{VIRTUAL_ENV}/bin/python" CACHE FILEPATH "Python whose torch package is used")
    elseif(DEFINED Python_EXECUTABLE)
      set(GLYPTIC_PYTHON "${Python_EXECUTABLE}" CACHE FILEPATH "Python whose torch package is used")
    else()
      find_program(GLYPTIC_PYTHON NAMES python3.11 python3 python DOC "Python whose torch package is used")
    endif()
  endif()
  # Reading the package's files is enough; importing torch would cost seconds at every configure.
  execute_process(
    COMMAND "${GLYPTIC_PYTHON}" -c
"import importlib.util, pathlib, re, sys
spec = importlib.util.find_spec('torch')
if spec is None:
    sys.exit('no torch')
root = pathlib.Path(spec.origin).parent
text = (root / 'version.py').read_text()
version = re.search(r\"^__version__ = '([^']+)'\", text, re.M).group(1)
cuda = re.search(r\"^cuda: [^=]*= '([^']+)'\", text, re.M)
print(root, version, cuda.group(1) if cuda else '', sep=';', end='')"
    OUTPUT_VARIABLE _libtorch_info RESULT_VARIABLE _libtorch_result ERROR_QUIET)
  if(NOT _libtorch_result EQUAL 0)
    if(LibTorch_FIND_REQUIRED)
      message(FATAL_ERROR
        "LibTorch: the Python interpreter '${GLYPTIC_PYTHON}' has no torch package. Activate the environment that "
        "has it, or pass -DGLYPTIC_PYTHON=/path/to/python (or -DLIBTORCH_ROOT=... for a plain LibTorch folder).")
    endif()
    set(LibTorch_FOUND FALSE)
    return()
  endif()
  list(GET _libtorch_info 0 LIBTORCH_ROOT)
  list(GET _libtorch_info 1 LIBTORCH_VERSION)
  list(GET _libtorch_info 2 LIBTORCH_CUDA_VERSION)
endif()
# A given LIBTORCH_ROOT is the plain archive, which names its version in one file, or a wheel's folder.
if(NOT LIBTORCH_VERSION AND EXISTS "${LIBTORCH_ROOT}/build-version")
  file(STRINGS "${LIBTORCH_ROOT}/build-version" LIBTORCH_VERSION LIMIT_COUNT 1)
endif()
if(NOT LIBTORCH_VERSION AND EXISTS "${LIBTORCH_ROOT}/version.py")
  file(STRINGS "${LIBTORCH_ROOT}/version.py" _libtorch_line REGEX "^__version__ = ")
  string(REGEX REPLACE ".*'([^']+)'.*" "\\1" LIBTORCH_VERSION "${_libtorch_line}")
endif()

set(LIBTORCH_LIBRARY_DIR "${LIBTORCH_ROOT}/lib")
set(_libtorch_include "${LIBTORCH_ROOT}/include" "${LIBTORCH_ROOT}/include/torch/csrc/api/include")

include(FindPackageHandleStandardArgs)
find_library(LIBTORCH_CPU_LIBRARY torch_cpu PATHS "${LIBTORCH_LIBRARY_DIR}" NO_DEFAULT_PATH)
find_library(LIBTORCH_C10_LIBRARY c10 PATHS "${LIBTORCH_LIBRARY_DIR}" NO_DEFAULT_PATH)
find_library(LIBTORCH_TORCH_LIBRARY torch PATHS "${LIBTORCH_LIBRARY_DIR}" NO_DEFAULT_PATH)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LIBTORCH_TORCH_LIBRARY LIBTORCH_CPU_LIBRARY LIBTORCH_C10_LIBRARY
  VERSION_VAR LIBTORCH_VERSION)
if(NOT LibTorch_FOUND)
  return()
endif()

add_library(LibTorch::torch INTERFACE IMPORTED)
target_include_directories(LibTorch::torch SYSTEM INTERFACE ${_libtorch_include})
target_link_libraries(LibTorch::torch INTERFACE
  "${LIBTORCH_CPU_LIBRARY}" "${LIBTORCH_C10_LIBRARY}")
target_compile_features(LibTorch::torch INTERFACE cxx_std_20)

file(GLOB _libtorch_gomp "${LIBTORCH_LIBRARY_DIR}/libgomp*.so*" "${LIBTORCH_ROOT}/../torch.libs/libgomp*.so*")
add_library(LibTorch::gomp INTERFACE IMPORTED)
if(_libtorch_gomp)
  list(GET _libtorch_gomp 0 _libtorch_gomp)
  target_link_libraries(LibTorch::gomp INTERFACE "${_libtorch_gomp}")
else()
  target_link_libraries(LibTorch::gomp INTERFACE gomp)
endif()

if(EXISTS "${LIBTORCH_LIBRARY_DIR}/libtorch_cuda.so")
  add_library(LibTorch::cuda INTERFACE IMPORTED)
  target_link_libraries(LibTorch::cuda INTERFACE
    "${LIBTORCH_LIBRARY_DIR}/libtorch_cuda.so" "${LIBTORCH_LIBRARY_DIR}/libc10_cuda.so")
endif()

if("Python" IN_LIST LibTorch_FIND_COMPONENTS)
  execute_process(
    COMMAND "${GLYPTIC_PYTHON}" -c
"import sysconfig; print(sysconfig.get_path('include'), sysconfig.get_config_var('EXT_SUFFIX'), sep=';', end='')"
    OUTPUT_VARIABLE _python_info RESULT_VARIABLE _python_result)
  list(GET _python_info 0 LIBTORCH_PYTHON_INCLUDE)
  list(GET _python_info 1 LIBTORCH_PYTHON_SUFFIX)
  if(NOT EXISTS "${LIBTORCH_PYTHON_INCLUDE}/Python.h")
    message(FATAL_ERROR "LibTorch: ${LIBTORCH_PYTHON_INCLUDE}/Python.h is missing; install the Python development "
                        "headers (Debian: apt-get install python3-dev).")
  endif()
  add_library(LibTorch::python INTERFACE IMPORTED)
  target_include_directories(LibTorch::python SYSTEM INTERFACE "${LIBTORCH_PYTHON_INCLUDE}")
  target_link_libraries(LibTorch::python INTERFACE "${LIBTORCH_LIBRARY_DIR}/libtorch_python.so")
endif()
