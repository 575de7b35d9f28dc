// y = outer * scale * H (inner * x): hadamard and rotate are this without and with signs.
#pragma once
#include "walk.h"

namespace PYDELTA_NAMESPACE {

template <class T>
void unary(const T* x, T* out, Axis axis, int64_t block, const Signs& inner, const Signs& outer,
           compute_t<T> scale, int threads);

}  // namespace PYDELTA_NAMESPACE
