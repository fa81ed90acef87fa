#include <torch/csrc/stable/library.h>

#include <string>

#include "instruction_set.h"

namespace deeplab {
namespace {

std::string cpu_instruction_set() { return name_of(cpu_target()); }

}  // namespace
}  // namespace deeplab

STABLE_TORCH_LIBRARY_IMPL(deeplab_repro, CompositeImplicitAutograd, m) {
  m.impl("cpu_instruction_set", TORCH_BOX(&deeplab::cpu_instruction_set));
}
