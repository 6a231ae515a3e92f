// The arithmetic of one element is written once, in inline functions that the CPU kernels and, under nvcc, the CUDA
// kernels include.
#pragma once

#ifdef __CUDACC__
#define MRCNN_HD __host__ __device__
#else
#define MRCNN_HD
#endif
