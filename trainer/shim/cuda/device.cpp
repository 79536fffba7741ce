// A GPU's properties and memory.
#include "cuda.h"
#include "error.h"

#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>

#include <cstdio>

namespace {

// Throws libtorch's own error without a driver, and ours for a device that does not exist.
void check_device(int device) {
  const int count = c10::cuda::device_count_ensure_non_zero();
  TORCH_CHECK(0 <= device && device < count, "cuda:", device, " does not exist; libtorch sees ",
              count, " devices");
}

constexpr auto kAll = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);

}  // namespace

extern "C" {

int pm_cuda_built() { return 1; }

int pm_cuda_properties(int device, PmCudaProperties* properties) {
  return patchmill::guard([&] {
    check_device(device);
    const auto* found = at::cuda::getDeviceProperties(c10::DeviceIndex(device));
    PmCudaProperties filled{};
    std::snprintf(filled.name, sizeof(filled.name), "%s", found->name);
    filled.memory_bytes = int64_t(found->totalGlobalMem);
    filled.multiprocessors = found->multiProcessorCount;
    filled.capability_major = found->major;
    filled.capability_minor = found->minor;
    *properties = filled;
  });
}

int pm_cuda_memory(int device, PmCudaMemory* memory) {
  return patchmill::guard([&] {
    check_device(device);
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(c10::DeviceIndex(device));
    const auto& allocated = stats.allocated_bytes[kAll];
    const auto& reserved = stats.reserved_bytes[kAll];
    *memory = {allocated.current, allocated.peak, reserved.current, reserved.peak};
  });
}

int pm_cuda_reset_peaks(int device) {
  return patchmill::guard([&] {
    check_device(device);
    c10::cuda::CUDACachingAllocator::resetPeakStats(c10::DeviceIndex(device));
  });
}

int pm_cuda_synchronize(int device) {
  return patchmill::guard([&] {
    check_device(device);
    c10::cuda::CUDAGuard guard{c10::DeviceIndex(device)};
    c10::cuda::device_synchronize();
  });
}

int pm_cuda_forbid_waits(int forbid) {
  return patchmill::guard([&] {
    c10::cuda::warning_state().set_sync_debug_mode(
        forbid != 0 ? c10::cuda::SyncDebugMode::L_ERROR : c10::cuda::SyncDebugMode::L_DISABLED);
  });
}

}
