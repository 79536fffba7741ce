// Process-wide settings of libtorch, and the states of its random generators. All of these exist in
// both flavours of libtorch.
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

// Backend numbers of the ABI, which are libtorch's own.
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

// From now on attention uses the first of these backends that supports a shape: 0 math, 1 flash, 2
// memory-efficient, 3 cuDNN. An unlisted backend is not used. On the CPU only the selection counts,
// not the order.
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
        order.push_back(backend);  // libtorch requires all; it skips those not allowed
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

// Precision of fp32 products on a GPU: "highest" is IEEE fp32, "high" allows TF32, "medium" bf16.
int pm_set_matmul_precision(const char* precision) {
  return patchmill::guard([&] { at::globalContext().setFloat32MatmulPrecision(precision); });
}

// 1 if products of fp32 matrices on a GPU may use TF32, else 0.
int pm_allows_tf32(int* allows) {
  return patchmill::guard([&] { *allows = at::globalContext().allowTF32CuBLAS(); });
}

// Settings of the GPU's caching allocator, used unless the environment sets some. Must be called
// before the first allocation on a GPU. `applied` becomes 1 if they were used, 0 if the
// environment's were kept.
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

// 1 if the GPU's caching allocator uses expandable segments.
int pm_expandable_segments(int* on) {
  return patchmill::guard(
      [&] { *on = c10::CachingAllocator::AcceleratorAllocatorConfig::use_expandable_segments(); });
}

// threads_out = the number of threads that run a loop of the shim, which is the number set in
// libtorch.
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

// Sets that generator to a state returned by `pm_random_state`.
int pm_set_random_state(int device, const Tensor* state) {
  return patchmill::guard([&] {
    auto generator = generator_of(device);
    std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(*state);
  });
}

}
