#include "kernels.h"

namespace PYDELTA_NAMESPACE {

const Kernels& kernels() {
  static const Kernels table{
#define PYDELTA_KERNEL(name, ...) name,
#include "kernels.inc"
#undef PYDELTA_KERNEL
  };
  return table;
}

}  // namespace PYDELTA_NAMESPACE
