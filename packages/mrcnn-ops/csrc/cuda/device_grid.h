// Runs the grid's bodies on a GPU, in a stream. Only for nvcc.
#pragma once

#include <cuda_runtime.h>

#include "block.h"

namespace mrcnn {

template <class Body>
__global__ void __launch_bounds__(256) element_kernel(const __grid_constant__ Body body, const int64_t count) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) body(i);
}

template <class Body>
__global__ void __launch_bounds__(Body::kThreads)
    block_kernel(const __grid_constant__ Body body, const int64_t num_units) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  DeviceBlock block(shared_memory);
  for (int64_t unit = blockIdx.x; unit < num_units; unit += gridDim.x) body(block, unit);
}

// The first error ends the work: nothing is launched after it.
class DeviceGrid {
 public:
  explicit DeviceGrid(cudaStream_t stream) : stream_(stream) {}

  template <class Body>
  void run_elements(const Body& body, int64_t count) {
    launch(reinterpret_cast<const void*>(&element_kernel<Body>), (count + 255) / 256, 256, 0, body, count);
  }

  template <class Body>
  void run_blocks(const Body& body, int64_t num_units) {
    launch(reinterpret_cast<const void*>(&block_kernel<Body>), num_units, Body::kThreads, body.shared_bytes(), body,
           num_units);
  }

  void fill(void* memory, int byte, size_t bytes) {
    if (error_ == cudaSuccess && bytes > 0) error_ = cudaMemsetAsync(memory, byte, bytes, stream_);
  }

  int error() const { return static_cast<int>(error_); }

 private:
  template <class Body>
  void launch(const void* kernel, int64_t num_blocks, int num_threads, size_t shared_bytes, const Body& body,
              int64_t count) {
    if (error_ != cudaSuccess || num_blocks == 0) return;
    constexpr int64_t kMaxBlocks = 1 << 20;  // the kernels stride over the rest
    const dim3 grid(static_cast<unsigned>(num_blocks < kMaxBlocks ? num_blocks : kMaxBlocks));
    void* arguments[] = {const_cast<Body*>(&body), &count};
    error_ = cudaLaunchKernel(kernel, grid, dim3(num_threads), arguments, shared_bytes, stream_);
  }

  cudaStream_t stream_;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace mrcnn
