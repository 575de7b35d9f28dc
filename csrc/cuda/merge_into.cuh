// The kernel of merge_into, which mask_rescale runs for one model.
#pragma once
#include "ops.h"

namespace PYDELTA_NAMESPACE {

// What is written: see merge_into in ops.h.
struct Target {
  void* out;
  Dtype out_dtype;
  int64_t numel, n, start;
};

// Defined in merge_into.cu.
void merge_masked(const char* op, const void* base, const std::vector<MaskedModel>& models, Dtype dtype,
                  const Target& target, const Merging& merging, Stream stream);

}  // namespace PYDELTA_NAMESPACE
