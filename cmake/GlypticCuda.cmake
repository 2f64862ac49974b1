# Decides whether CUDA kernels are built. Sources under kernels/cuda include no torch header, so that they
# compile in seconds and any toolkit will do; only the thin launchers in src/ops/cuda meet LibTorch.

set(GLYPTIC_WITH_CUDA OFF)
if(NOT GLYPTIC_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER AND TARGET LibTorch::cuda)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES "80-real;90" CACHE STRING "CUDA architectures (the last one also as PTX)")
    endif()
    set(CMAKE_CUDA_STANDARD 17)
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    set(GLYPTIC_WITH_CUDA ON)
  elseif(GLYPTIC_CUDA STREQUAL "ON")
    message(FATAL_ERROR "GLYPTIC_CUDA=ON, but "
      "nvcc is '${CMAKE_CUDA_COMPILER}' and the torch package is built for CUDA '${LIBTORCH_CUDA_VERSION}'. "
      "Install the CUDA toolkit (nvcc on PATH) and a CUDA build of torch, or configure with GLYPTIC_CUDA=OFF.")
  endif()
endif()
message(STATUS "Glyptic: torch ${LIBTORCH_VERSION}, CUDA kernels ${GLYPTIC_WITH_CUDA}")
