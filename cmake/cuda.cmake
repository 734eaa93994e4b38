# SPDX-License-Identifier: Apache-2.0
# The CUDA module. SNNFAST_CUDA=AUTO builds it if a CUDA compiler is found that can compile for all our architectures,
# and says in one sentence why not otherwise; ON makes that an error; OFF leaves it out.
set(SNNFAST_CUDA AUTO CACHE STRING "Build the CUDA module: AUTO, ON or OFF")
set_property(CACHE SNNFAST_CUDA PROPERTY STRINGS AUTO ON OFF)
if(NOT SNNFAST_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "SNNFAST_CUDA must be AUTO, ON or OFF, got '${SNNFAST_CUDA}'")
endif()

if(SNNFAST_SANITIZE AND SNNFAST_CUDA STREQUAL "AUTO")
  set(SNNFAST_CUDA OFF)  # the kernels meet the sanitizers on the host: tests/cuda_host
endif()

# Why the module cannot be built, or empty. Enabling a language cannot be undone, so a compile is tried first.
set(SNNFAST_CUDA_MISSING "")
if(NOT SNNFAST_CUDA STREQUAL "OFF")
  # Machine code for these, and PTX of the last one for whatever comes after it.
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90-real 100-real 100-virtual)
  endif()
  # The compiler, and the host compiler that it is to use, are tried by us first: CMake's check_language keeps to itself
  # what nvcc said, and would try whatever host compiler comes first.
  if(NOT CMAKE_CUDA_HOST_COMPILER)
    set(CMAKE_CUDA_HOST_COMPILER "${CMAKE_CXX_COMPILER}")
    if(NOT "$ENV{CUDAHOSTCXX}" STREQUAL "")
      set(CMAKE_CUDA_HOST_COMPILER "$ENV{CUDAHOSTCXX}")
    endif()
  endif()
  if(CMAKE_CUDA_COMPILER)
    set(nvcc "${CMAKE_CUDA_COMPILER}")
  elseif(NOT "$ENV{CUDACXX}" STREQUAL "")
    set(nvcc "$ENV{CUDACXX}")
  else()
    unset(nvcc CACHE)
    find_program(nvcc nvcc PATHS ENV PATH NO_DEFAULT_PATH)
  endif()
  if(NOT nvcc)
    set(SNNFAST_CUDA_MISSING "no CUDA compiler was found (CUDACXX, PATH)")
  else()
    set(probe "${CMAKE_CURRENT_BINARY_DIR}/cuda_probe.cu")
    file(WRITE "${probe}" "#include <cuda_runtime.h>\n#include <string>\n__global__ void k(float* x) { *x = 1; }\n")
    set(gencode "")
    foreach(arch IN LISTS CMAKE_CUDA_ARCHITECTURES)
      if(arch MATCHES "^([0-9]+)")
        list(APPEND gencode "-gencode=arch=compute_${CMAKE_MATCH_1},code=sm_${CMAKE_MATCH_1}")
      endif()
    endforeach()
    execute_process(
      COMMAND "${nvcc}" -std=c++17 ${gencode} -ccbin "${CMAKE_CUDA_HOST_COMPILER}" -c "${probe}" -o "${probe}.o"
      RESULT_VARIABLE failed OUTPUT_VARIABLE said ERROR_VARIABLE said)
    if(failed)
      string(REGEX MATCH "[^\n]*(error|fatal|unsupported|Unsupported)[^\n]*" reason "${said}")
      if(NOT reason)
        set(reason "it ended with ${failed}")
      endif()
      set(SNNFAST_CUDA_MISSING
        "${nvcc} cannot compile for ${CMAKE_CUDA_ARCHITECTURES} with ${CMAKE_CUDA_HOST_COMPILER}: ${reason}")
    else()
      set(ENV{CUDAHOSTCXX} "${CMAKE_CUDA_HOST_COMPILER}")  # for check_language
      include(CheckLanguage)
      check_language(CUDA)
      if(NOT CMAKE_CUDA_COMPILER)
        set(SNNFAST_CUDA_MISSING "CMake cannot use ${nvcc}: ${CMAKE_BINARY_DIR}/CMakeFiles has a log of its errors")
      endif()
    endif()
  endif()
  if(NOT SNNFAST_CUDA_MISSING)
    enable_language(CUDA)
    find_package(CUDAToolkit QUIET)
    if(NOT TARGET CUDA::cudart_static)  # some packages of nvcc come without it
      set(SNNFAST_CUDA_MISSING "CMake finds no static CUDA runtime (cudart_static) that belongs to ${nvcc}")
    endif()
  endif()
  if(SNNFAST_CUDA_MISSING AND SNNFAST_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SNNFAST_CUDA=ON, but ${SNNFAST_CUDA_MISSING}")
  elseif(SNNFAST_CUDA_MISSING)
    message(STATUS "snnfast: built without the CUDA module, because ${SNNFAST_CUDA_MISSING}")
  endif()
endif()

if(SNNFAST_CUDA STREQUAL "OFF" OR SNNFAST_CUDA_MISSING)
  return()
endif()

set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)

add_library(snnfast_cuda STATIC
  csrc/cuda/coded.cu csrc/cuda/coded_plan.cpp csrc/cuda/compact.cu csrc/cuda/current.cu csrc/cuda/device.cu
  csrc/cuda/encode.cu csrc/cuda/first_spike.cu csrc/cuda/layer.cu csrc/cuda/plan.cpp csrc/cuda/slices.cu csrc/cuda/tiny.cu)
set_target_properties(snnfast_cuda PROPERTIES POSITION_INDEPENDENT_CODE ON CUDA_RUNTIME_LIBRARY Static)
target_include_directories(snnfast_cuda PUBLIC csrc)
# Says nvcc's manual: what this packs, drivers from before CUDA 12.4 cannot read. A build with CUDA 13 asks for newer ones
# anyway.
set(snnfast_fatbin -Xfatbin=-compress-all)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
  set(snnfast_fatbin --compress-mode=size)
endif()
# -fmad=false for the reason of -ffp-contract=off; where a fused multiply-add is exact, the source says so. The next three
# are what nvcc does anyway, unless CUDAFLAGS asks for fast maths, which would end the exact contract.
target_compile_options(snnfast_cuda PRIVATE
  $<$<COMPILE_LANGUAGE:CUDA>:-fmad=false -ftz=false -prec-div=true -prec-sqrt=true ${snnfast_fatbin}
    -Xcompiler=-Wall,-Wextra,-fvisibility=hidden,-ffp-contract=off>
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -fvisibility=hidden -ffp-contract=off>)
if(SNNFAST_WERROR)
  target_compile_options(snnfast_cuda PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings -Xcompiler=-Werror> $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()

pybind11_add_module(_cuda MODULE NO_EXTRAS csrc/bind/cuda.cpp)
string(REPLACE ";" " " architectures "${CMAKE_CUDA_ARCHITECTURES}")
target_compile_definitions(_cuda PRIVATE
  SNNFAST_VERSION="${SKBUILD_PROJECT_VERSION_FULL}" SNNFAST_CUDA_ARCHITECTURES="${architectures}")
# The runtime is linked statically: the module needs no CUDA library on the machine, only a driver to run.
target_link_libraries(_cuda PRIVATE snnfast_flags snnfast_cuda CUDA::cudart_static)
set_target_properties(_cuda PROPERTIES LINKER_LANGUAGE CXX)
target_link_options(_cuda PRIVATE -Wl,--exclude-libs,ALL)
install(TARGETS _cuda LIBRARY DESTINATION ${SKBUILD_PROJECT_NAME})
