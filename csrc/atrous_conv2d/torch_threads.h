// torch's threads, as code that knows nothing of torch asks for them.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "cpu/jobs.h"

namespace deeplab {

inline Parallel torch_threads() {
  return {static_cast<int>(torch::stable::get_num_threads()),
          [](Index count, void (*body)(Index, void*), void* context) {
            torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
              for (Index i = begin; i < end; ++i) body(i, context);
            });
          }};
}

}  // namespace deeplab
