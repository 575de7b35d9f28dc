#include "ops.h"

namespace PYDELTA_NAMESPACE {

std::string missing() {
  int driver = 0, runtime = 0, devices = 0;
  cudaDriverGetVersion(&driver);
  if (driver == 0) return "no CUDA device: no NVIDIA driver is installed";
  cudaRuntimeGetVersion(&runtime);
  const auto version = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaErrorInsufficientDriver) {
    return "the NVIDIA driver knows CUDA " + version(driver) + " and the kernels need " + version(runtime) +
           ": update the driver, or install the package triton";
  }
  if (error != cudaSuccess) return std::string("no CUDA device: ") + cudaGetErrorString(error);
  int newest = 0;
  for (int device = 0; device < devices; ++device) {
    int major = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    newest = major > newest ? major : newest;
  }
  return newest >= 8 ? "" : "no CUDA device of compute capability 8.0 or newer";
}

std::vector<std::string> targets() {
  std::vector<std::string> names;
  for (const int arch : {__CUDA_ARCH_LIST__}) names.push_back("sm_" + std::to_string(arch / 10));
  names.push_back("compute" + names.back().substr(2));  // setup.py adds PTX of the newest
  return names;
}

}  // namespace PYDELTA_NAMESPACE
