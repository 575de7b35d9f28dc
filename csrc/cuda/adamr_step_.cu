#include "lists.cuh"

namespace PYDELTA_NAMESPACE {
namespace {

struct Numbers {
  float one, rest_one, two, rest_two, root, rate, eps;
  const double* pull;
  bool l1;
};

__device__ __forceinline__ float sign_of(float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : 0.0f; }

// Parameters, gradients, m, v, bases, weights (masters, of type W, or the parameters themselves).
template <class T, class W, class B, bool pulls>
__global__ void __launch_bounds__(kListThreads)
    step(const __grid_constant__ Table<6> table, Numbers n, double* partial) {
  const Chunk chunk = chunk_of(table);
  const auto list = [&](int k) { return table.address[k][chunk.tensor]; };
  T* const p = static_cast<T*>(list(0)) + chunk.start;
  const T* const g = static_cast<const T*>(list(1)) + chunk.start;
  float* const m = static_cast<float*>(list(2)) + chunk.start;
  float* const v = static_cast<float*>(list(3)) + chunk.start;
  const B* const base = static_cast<const B*>(list(4)) + chunk.start;
  W* const weights = static_cast<W*>(list(5)) + chunk.start;
  const bool copies = list(0) != list(5);
  const float pull = pulls ? float(*n.pull) : 0.0f;
  double lane[kLaneVector] = {};
  for (int i = int(threadIdx.x) * 4; i < chunk.count; i += kSumLanes) {
    const int left = chunk.count - i;
    float slope[4], first[4], second[4], w[4], origin[4] = {};
    load_four(slope, g + i, left, table.vector);
    load_four(first, m + i, left, table.vector);
    load_four(second, v + i, left, table.vector);
    load_four(w, weights + i, left, table.vector);
    if (pulls) load_four(origin, base + i, left, table.vector);
    add_squares(lane, slope);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float x = slope[j];
      first[j] = __fadd_rn(__fmul_rn(first[j], n.one), __fmul_rn(x, n.rest_one));
      second[j] = __fadd_rn(__fmul_rn(second[j], n.two), __fmul_rn(__fmul_rn(x, x), n.rest_two));
      if (pulls) {
        const float tau = __fsub_rn(w[j], origin[j]);
        w[j] = __fsub_rn(w[j], __fmul_rn(n.l1 ? sign_of(tau) : tau, pull));
      }
      const float spread = __fadd_rn(__fmul_rn(__fsqrt_rn(second[j]), n.root), n.eps);
      w[j] = __fsub_rn(w[j], __fmul_rn(__fdiv_rn(first[j], spread), n.rate));
    }
    store_four(m + i, first, left, table.vector);
    store_four(v + i, second, left, table.vector);
    store_four(weights + i, w, left, table.vector);
    if (copies) store_four(p + i, w, left, table.vector);
  }
  const double sum = halve(lane);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

}  // namespace

void adamr_step_(const std::vector<int64_t>& numels, const StepLists& lists, const double* pull, double* sums,
                 Dtype dtype, Dtype base_dtype, const StepNumbers& given, Stream stream) {
  const char* const op = "adamr_step_";
  const double steps = double(given.step);
  const Numbers n{float(given.one),
                  float(1 - given.one),
                  float(given.two),
                  float(1 - given.two),
                  float(1 / std::sqrt(1 - std::pow(given.two, steps))),
                  float(given.lr / (1 - std::pow(given.one, steps))),
                  float(given.eps),
                  pull,
                  given.l1};
  const Scratch partial(op, size_t(chunks_in(numels)) * sizeof(double), stream);
  const bool pulls = pull != nullptr && !lists.bases.empty();
  with_type(dtype, [&](auto t) {
    using T = decltype(t);
    const auto run = [&](auto w, auto b, auto pulled, const Addresses& weights) {
      using W = decltype(w);
      using B = decltype(b);
      const auto launch = [&](const Table<6>& table, int chunks, int64_t before) {
        const auto config = config_of(chunks, kHalveBytes, stream);
        check(op, cudaLaunchKernelEx(&config, step<T, W, B, pulled.value>, table, n,
                                     partial.as<double>() + before));
      };
      for_tables<6>(
          numels, {&lists.params, &lists.grads, &lists.exp_avgs, &lists.exp_avg_sqs, &lists.bases, &weights},
          launch);
    };
    const auto with_base = [&](auto w, const Addresses& weights) {
      if (!pulls) return run(w, float{}, std::false_type{}, weights);
      with_type(base_dtype, [&](auto b) { run(w, b, std::true_type{}, weights); });
    };
    if (lists.masters.empty()) return with_base(T{}, lists.params);
    with_base(float{}, lists.masters);
  });
  sum_chunks(op, numels, partial.as<double>(), sums, stream);
}

}  // namespace PYDELTA_NAMESPACE
