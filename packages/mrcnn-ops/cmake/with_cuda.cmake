# Sets WITH_CUDA: whether the CUDA kernels are built. Needs TF_HAS_CUDA.
#
# AUTO builds them where they can be built and used: with NVIDIA's driver, a TensorFlow with CUDA, and nvcc. nvcc without
# a driver is not enough: CPU-only installations on a machine with a CUDA toolkit would take three times as long. To
# build a wheel for other machines (a docker image), set it to ON.
set(MRCNN_OPS_CUDA AUTO CACHE STRING "CUDA kernels: ON, OFF or AUTO")
set_property(CACHE MRCNN_OPS_CUDA PROPERTY STRINGS ON OFF AUTO)
string(TOUPPER "${MRCNN_OPS_CUDA}" WITH_CUDA)
if(NOT WITH_CUDA MATCHES "^(ON|OFF|AUTO)$")
  message(FATAL_ERROR "MRCNN_OPS_CUDA must be ON, OFF or AUTO, got ${MRCNN_OPS_CUDA}")
endif()
if(WITH_CUDA STREQUAL "ON" AND NOT TF_HAS_CUDA)
  message(FATAL_ERROR "MRCNN_OPS_CUDA=ON, but this TensorFlow is built without CUDA: "
    "install one with it (pip install 'tensorflow[and-cuda]~=2.21.0'), or choose OFF")
endif()
if(WITH_CUDA STREQUAL "AUTO")
  set(WITH_CUDA OFF)
  set(MRCNN_DRIVER_FILES /proc/driver/nvidia/version /dev/dxg CACHE STRING "Files that NVIDIA's driver makes; dxg: WSL")
  set(HAS_DRIVER OFF)
  foreach(file IN LISTS MRCNN_DRIVER_FILES)
    if(EXISTS "${file}")
      set(HAS_DRIVER ON)
    endif()
  endforeach()
  if(TF_HAS_CUDA AND HAS_DRIVER)
    if(NOT CMAKE_CUDA_COMPILER)
      unset(CMAKE_CUDA_COMPILER CACHE)  # check_language keeps that it found none; a compiler may have come since
    endif()
    include(CheckLanguage)
    check_language(CUDA)
    if(CMAKE_CUDA_COMPILER)
      set(WITH_CUDA ON)
    else()
      message(WARNING "This machine has NVIDIA's driver, but no nvcc: mrcnn-ops is built for the CPU only")
    endif()
  endif()
endif()
