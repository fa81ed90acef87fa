// The Device of the launchers on a GPU: torch's memory, torch's current stream.
#pragma once

#include <vector>

#include "../common/check.h"
#include "../common/cuda_torch.cuh"
#include "../common/host_device.h"

namespace deeplab {

class TorchDevice {
 public:
  // like: a tensor on the device.
  TorchDevice(const Tensor& like, Index max_blocks, cudaStream_t stream)
      : max_blocks(max_blocks), stream(stream), like_(like) {}

  template <typename T>
  T* allocate(Index count) {
    const int64_t bytes[] = {count * static_cast<int64_t>(sizeof(T))};
    memory_.push_back(
        torch::stable::new_empty(like_, {bytes, 1}, torch::headeronly::ScalarType::Byte));
    return static_cast<T*>(memory_.back().mutable_data_ptr());
  }

  int read(const int* value) const {
    int copy = 0;
    STD_CUDA_CHECK(cudaMemcpyAsync(&copy, value, sizeof(copy), cudaMemcpyDeviceToHost, stream));
    STD_CUDA_CHECK(cudaStreamSynchronize(stream));
    return copy;
  }

  Index max_blocks;
  cudaStream_t stream;

 private:
  Tensor like_;
  std::vector<Tensor> memory_;
};

}  // namespace deeplab
