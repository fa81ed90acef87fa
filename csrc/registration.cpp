// Defines the ops. Each <op>_cpu.cpp and <op>_cuda.cu registers its own kernels for its device, so
// a library without the CUDA files is complete, and torch's dispatcher chooses between them.
#include <torch/csrc/stable/library.h>

static const char* const kSchemas[] = {
#include "schemas.inc"
};

STABLE_TORCH_LIBRARY(deeplab_repro, m) {
  for (const char* schema : kSchemas) {
    m.def(schema);
  }
}
