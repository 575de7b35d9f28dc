#include "map.cuh"

namespace PYDELTA_NAMESPACE {

void sign_flip(const void* x, void* out, Dtype dtype, Axis axis, Key key, Stream stream) {
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    run_elements(Task{"sign_flip", axis, Transform::sign}, Map<T>{static_cast<const T*>(x), out, key},
                 stream);
  });
}

}  // namespace PYDELTA_NAMESPACE
