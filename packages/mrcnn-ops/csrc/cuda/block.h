// A thread block, in two forms: DeviceBlock is one on a GPU, HostBlock runs the threads of one in a loop. The body of a
// kernel is written once, as a function over either. So the tests on the host run the code of the GPU; only its
// barriers and atomics differ.
//
// A body is a sequence of regions, `block.for_each_thread([&](int thread) {...})`, with a barrier at the end of each.
// Within a region no thread may read what another one writes. Outside of regions all threads compute the same: there,
// a value in shared memory is read through `block.uniform`, which adds a barrier, because the next region may overwrite
// the value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../host_device.h"

namespace mrcnn {

#ifdef __CUDACC__

class DeviceBlock {
 public:
  static constexpr int kStates = 1;  // a thread has its own

  __device__ explicit DeviceBlock(unsigned char* shared_memory) : shared_memory_(shared_memory) {}

  // Declared for the host too, as the bodies are, but never called there.
  MRCNN_HD int num_threads() const {
#ifdef __CUDA_ARCH__
    return static_cast<int>(blockDim.x);
#else
    return 0;
#endif
  }

  template <class Region>
  MRCNN_HD void for_each_thread(const Region& region) {
#ifdef __CUDA_ARCH__
    region(static_cast<int>(threadIdx.x));
    __syncthreads();
#endif
  }

  template <class T>
  MRCNN_HD T uniform(const T& shared_value) {
    const T value = shared_value;
#ifdef __CUDA_ARCH__
    __syncthreads();
#endif
    return value;
  }

  MRCNN_HD unsigned char* shared_memory() const { return shared_memory_; }

  // One State per thread, kept from region to region: here in registers.
  template <class State, int kThreads>
  class PerThread {
   public:
    MRCNN_HD State& operator[](int) { return state_; }

   private:
    State state_;
  };

 private:
  unsigned char* shared_memory_;
};

#endif  // __CUDACC__

// The order in which a HostBlock runs its threads must not matter.
enum class ThreadOrder { kAscending, kDescending, kShuffled };

class HostBlock {
 public:
  HostBlock(int num_threads, ThreadOrder order, unsigned char* shared_memory)
      : num_threads_(num_threads), order_(order), shared_memory_(shared_memory) {}

  int num_threads() const { return num_threads_; }

  template <class Region>
  void for_each_thread(const Region& region) {
    for (int i = 0; i < num_threads_; ++i) region(thread_at(i));
  }

  template <class T>
  T uniform(const T& shared_value) {
    return shared_value;
  }

  unsigned char* shared_memory() const { return shared_memory_; }

  template <class State, int kThreads>
  class PerThread {
   public:
    PerThread() : states_(kThreads) {}
    State& operator[](int thread) { return states_[thread]; }

   private:
    std::vector<State> states_;
  };

 private:
  int thread_at(int i) const {
    if (order_ == ThreadOrder::kAscending) return i;
    if (order_ == ThreadOrder::kDescending) return num_threads_ - 1 - i;
    return (i * 5 + 3) % num_threads_;  // a permutation: block sizes are powers of two
  }

  int num_threads_;
  ThreadOrder order_;
  unsigned char* shared_memory_;
};

// Divides a piece of memory into arrays, each aligned for everything. From a null pointer it only counts.
class Divider {
 public:
  MRCNN_HD explicit Divider(void* memory) : memory_(static_cast<unsigned char*>(memory)), used_(0) {}

  template <class T>
  MRCNN_HD T* take(int64_t count) {
    unsigned char* here = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += (static_cast<size_t>(count) * sizeof(T) + 15) / 16 * 16;
    return reinterpret_cast<T*>(here);
  }

  MRCNN_HD size_t used() const { return used_; }

 private:
  unsigned char* memory_;
  size_t used_;
};

}  // namespace mrcnn
