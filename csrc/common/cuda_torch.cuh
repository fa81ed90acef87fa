// The pieces of torch that a CUDA entry needs: device guard, current stream, launch check.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

namespace deeplab {

// Runs launcher(stream) on the tensor's device and on torch's current stream there, and reports a
// failed launch as an exception.
template <typename Launcher>
void on_current_stream(int device, const Launcher& launcher) {
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  launcher(static_cast<cudaStream_t>(stream));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace deeplab
