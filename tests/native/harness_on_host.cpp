// Kernels whose results are known, some of them wrong on purpose: they show what the harness sees.
#include "common/divisor.h"
#include "on_host.h"

// Reverses each block's values through shared memory; without the barrier it is wrong.
template <bool kBarrier>
__global__ void reverse_kernel(const float* in, float* out) {
  SHARED_ARRAY(float, values, 64);
  const unsigned t = threadIdx.x;
  const unsigned first = blockIdx.x * blockDim.x;
  values[t] = in[first + t];
  if (kBarrier) {
    __syncthreads();
  }
  out[first + t] = values[blockDim.x - 1 - t];
}

// The same with CUDA's own words, as a kernel copied from elsewhere would have them.
__global__ void reverse_plain_kernel(const float* in, float* out) {
  __shared__ float values[64];
  const unsigned t = threadIdx.x;
  const unsigned first = blockIdx.x * blockDim.x;
  values[t] = in[first + t];
  __syncthreads();
  out[first + t] = values[blockDim.x - 1 - t];
}

__global__ void unwritten_shared_kernel(float* out) {
  SHARED_ARRAY(float, values, 64);
  if (threadIdx.x != 0) {
    values[threadIdx.x] = 1.0f;
  }
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = values[threadIdx.x];
}

__global__ void divergent_barrier_kernel(float* out) {
  if (threadIdx.x < 3) {
    __syncthreads();
    out[threadIdx.x] = 1.0f;
  } else {
    __syncthreads();
    out[threadIdx.x] = 2.0f;
  }
}

__global__ void warp_waits_for_block_kernel(float* out) {
  if (threadIdx.x == 0) {
    __syncwarp();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1.0f;
}

__global__ void histogram_kernel(const int* values, long long count, int* bins) {
  GRID_STRIDE_LOOP(i, count) { atomicAdd(&bins[values[i]], 1); }
}

__global__ void warp_sum_kernel(const float* in, float* out) {
  float sum = in[threadIdx.x];
  for (int delta = warpSize / 2; delta > 0; delta /= 2) {
    sum += __shfl_down_sync(0xffffffffu, sum, delta);
  }
  const float total = __shfl_sync(0xffffffffu, sum, 0);
  const unsigned positive = __ballot_sync(0xffffffffu, in[threadIdx.x] > 0);
  out[threadIdx.x] = total;
  out[blockDim.x + threadIdx.x] = static_cast<float>(positive >> threadIdx.x % warpSize & 1u);
  out[2 * blockDim.x + threadIdx.x] = __shfl_xor_sync(0xffffffffu, in[threadIdx.x], 1);
  out[3 * blockDim.x + threadIdx.x] = __shfl_up_sync(0xffffffffu, in[threadIdx.x], 1);
}

__global__ void position_kernel(int* out) {
  const dim3 b = blockDim;
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + b.x * (threadIdx.y + b.y * threadIdx.z);
  out[block * b.x * b.y * b.z + thread] += static_cast<int>(1000 * block + thread);
}

extern "C" int reverse(int barrier, const float* in, float* out, int blocks, int threads,
                       int order) {
  return guarded(order, [=] {
    const auto kernel = barrier ? reverse_kernel<true> : reverse_kernel<false>;
    deeplab::launch(kernel, blocks, threads, nullptr, in, out);
  });
}

extern "C" int reverse_plain(const float* in, float* out, int blocks, int threads, int order) {
  return guarded(order,
                 [=] { deeplab::launch(reverse_plain_kernel, blocks, threads, nullptr, in, out); });
}

extern "C" int unwritten_shared(float* out, int blocks, int threads, int order) {
  return guarded(order,
                 [=] { deeplab::launch(unwritten_shared_kernel, blocks, threads, nullptr, out); });
}

extern "C" int divergent_barrier(float* out, int threads) {
  return guarded(0, [=] { deeplab::launch(divergent_barrier_kernel, 1, threads, nullptr, out); });
}

extern "C" int warp_waits_for_block(float* out, int threads) {
  return guarded(0,
                 [=] { deeplab::launch(warp_waits_for_block_kernel, 1, threads, nullptr, out); });
}

extern "C" int histogram(const int* values, long long count, int* bins, int blocks, int threads,
                         int order) {
  return guarded(order, [=] {
    deeplab::launch(histogram_kernel, blocks, threads, nullptr, values, count, bins);
  });
}

extern "C" int warp_sum(const float* in, float* out, int threads, int order) {
  return guarded(order, [=] { deeplab::launch(warp_sum_kernel, 1, threads, nullptr, in, out); });
}

extern "C" int position(int* out, int gx, int gy, int gz, int bx, int by, int bz) {
  return guarded(0, [=] {
    cuda_on_host::launch(dim3(gx, gy, gz), dim3(bx, by, bz), [=] { position_kernel(out); });
  });
}

// words: the divisor as kernels are handed it.
extern "C" int divide(long long value, long long* words, const unsigned* numbers, long long count,
                      unsigned* quotients) {
  return guarded(0, [=] {
    const deeplab::Divisor divisor = deeplab::divisor_of(value);
    std::memcpy(words, &divisor, sizeof(divisor));
    for (long long i = 0; i < count; ++i) quotients[i] = divisor.quotient(numbers[i]);
  });
}
