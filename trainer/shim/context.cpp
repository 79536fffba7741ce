// Choices that libtorch makes for the whole process, and the states of its random generators. All
// of it exists in both flavours of libtorch.
#include "error.h"

#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <c10/core/AllocatorConfig.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

namespace {

using at::Tensor;

// Backends as the ABI numbers them, which is libtorch's own numbering.
constexpr int64_t kBackendCount = 4;
static_assert(int64_t(at::SDPBackend::math) == 0 && int64_t(at::SDPBackend::flash_attention) == 1 &&
              int64_t(at::SDPBackend::efficient_attention) == 2 &&
              int64_t(at::SDPBackend::cudnn_attention) == 3);

at::Generator generator_of(int device) {
  return at::globalContext().defaultGenerator(
      device < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, at::DeviceIndex(device)));
}

}  // namespace

extern "C" {

// From now on attention takes the first of these backends that can do a shape: 0 math, 1 flash, 2
// memory-efficient, 3 cuDNN. A backend that is not listed is not used. On the CPU only which ones
// are listed counts.
int pm_set_attention_backends(const int64_t* backends, int64_t count) {
  return patchmill::guard([&] {
    std::vector<int64_t> order(backends, backends + count);
    bool listed[kBackendCount] = {};
    for (const auto backend : order) {
      TORCH_CHECK(0 <= backend && backend < kBackendCount && !listed[backend], "attention backend ",
                  backend, " is unknown or listed twice");
      listed[backend] = true;
    }
    for (int64_t backend = 0; backend < kBackendCount; ++backend) {
      if (!listed[backend]) {
        order.push_back(backend);  // libtorch wants all of them; what is not allowed is passed over
      }
    }
    order.push_back(int64_t(at::SDPBackend::overrideable));
    auto& context = at::globalContext();
    context.setSDPPriorityOrder(order);
    context.setSDPUseMath(listed[0]);
    context.setSDPUseFlash(listed[1]);
    context.setSDPUseMemEfficient(listed[2]);
    context.setSDPUseCuDNN(listed[3]);
  });
}

// How exact fp32 products are on a GPU: "highest" is IEEE fp32, "high" allows TF32, "medium" bf16.
int pm_set_matmul_precision(const char* precision) {
  return patchmill::guard([&] { at::globalContext().setFloat32MatmulPrecision(precision); });
}

// 1 if products of fp32 matrices on a GPU may be made in TF32, else 0.
int pm_allows_tf32(int* allows) {
  return patchmill::guard([&] { *allows = at::globalContext().allowTF32CuBLAS(); });
}

// Settings of the GPU's caching allocator, unless the environment has some. Before the first
// allocation on a GPU. `applied` becomes 1 if they were taken, 0 if the environment's stay.
int pm_set_allocator_default(const char* settings, int* applied) {
  return patchmill::guard([&] {
    const auto is_set = [](const char* name) {
      const char* text = std::getenv(name);
      return text != nullptr && *text != '\0';
    };
    *applied = !is_set("PYTORCH_ALLOC_CONF") && !is_set("PYTORCH_CUDA_ALLOC_CONF");
    if (*applied) {
      c10::CachingAllocator::setAllocatorSettings(settings);
    }
  });
}

// 1 if the GPU's caching allocator uses segments that can grow.
int pm_expandable_segments(int* on) {
  return patchmill::guard(
      [&] { *on = c10::CachingAllocator::AcceleratorAllocatorConfig::use_expandable_segments(); });
}

// threads_out = on how many threads a loop of the shim runs, which is how many libtorch was told to
// use.
int pm_loop_threads(int64_t* threads_out) {
  return patchmill::guard([&] {
    std::atomic<int64_t> parts{0};
    at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) { ++parts; });
    *threads_out = parts;
  });
}

// state_out = the state of a device's default generator, a byte tensor on the CPU; device -1 is the
// CPU.
int pm_random_state(int device, Tensor** state_out) {
  return patchmill::guard([&] {
    auto generator = generator_of(device);
    std::lock_guard<std::mutex> lock(generator.mutex());
    *state_out = new Tensor(generator.get_state());
  });
}

// Puts that generator into a state that `pm_random_state` gave.
int pm_set_random_state(int device, const Tensor* state) {
  return patchmill::guard([&] {
    auto generator = generator_of(device);
    std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(*state);
  });
}

}
