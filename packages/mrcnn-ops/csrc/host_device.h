// The arithmetic of one element is written once, in inline functions that the CPU kernels and, under nvcc, the CUDA
// kernels include.
#pragma once

#ifdef __CUDACC__
#define MRCNN_HD __host__ __device__
#else
#define MRCNN_HD
#endif

// Before a loop with a small, fixed number of turns whose arrays should stay in registers.
#ifdef __CUDA_ARCH__
#define MRCNN_UNROLL _Pragma("unroll")
#else
#define MRCNN_UNROLL
#endif
