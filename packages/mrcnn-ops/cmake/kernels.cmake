# The CPU kernels as object files, KERNEL_OBJECTS: for the op library (../CMakeLists.txt) and for the C++ tests
# (../csrc/tests). They do not depend on TensorFlow.
set(KERNELS_DIR ${CMAKE_CURRENT_LIST_DIR}/../csrc/cpu)

# The compiler must not fuse products and sums: an IoU must be the same number with and without FMA instructions. Where
# fusing is faster (ROIAlign's sums over channels) the code does it explicitly.
set(KERNEL_FLAGS -std=c++17 -O3 -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno -Wall -Wextra -Wno-psabi)

add_library(kernels OBJECT
  ${KERNELS_DIR}/detections.cc ${KERNELS_DIR}/dispatch.cc ${KERNELS_DIR}/mask_encoder.cc ${KERNELS_DIR}/proposals.cc
  ${KERNELS_DIR}/roi_align_plan.cc)
target_compile_options(kernels PRIVATE ${KERNEL_FLAGS})
set(KERNEL_OBJECTS $<TARGET_OBJECTS:kernels>)

# simd_kernels.cc is compiled once for each instruction set; dispatch.cc picks one when the library is used.
macro(add_simd_kernels isa)
  add_library(simd_kernels_${isa} OBJECT ${KERNELS_DIR}/simd_kernels.cc)
  target_compile_options(simd_kernels_${isa} PRIVATE ${KERNEL_FLAGS} ${ARGN})
  target_compile_definitions(simd_kernels_${isa} PRIVATE MRCNN_ISA=${isa})
  list(APPEND KERNEL_OBJECTS $<TARGET_OBJECTS:simd_kernels_${isa}>)
endmacro()

add_simd_kernels(portable)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  add_simd_kernels(avx2 -mavx2 -mfma -mf16c)
  target_compile_definitions(kernels PUBLIC MRCNN_HAVE_AVX2)
endif()
