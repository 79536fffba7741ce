// How the host's memory is kept between steps, and how much of it tensors have.
#include "error.h"

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <malloc.h>

#include <algorithm>
#include <cstdint>
#include <memory>

namespace {

// libtorch's allocators tell it of every block that is made and freed.
struct LiveBytes : c10::MemoryReportingInfoBase {
  int64_t live = 0, peak = 0;

  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device device) override {
    if (device.is_cpu()) {
      live += size;
      peak = std::max(peak, live);
    }
  }
  bool memoryProfilingEnabled() const override { return true; }
};

thread_local std::shared_ptr<LiveBytes> counting;

}  // namespace

extern "C" {

// Keeps what tensors gave back for the tensors to come. By default glibc maps each large block anew and unmaps it when it
// is freed, so that every step takes page faults over all its activations: 27 % of a small model's step. All threads share
// one arena, or what each one once gave back would be kept for it alone.
int pm_keep_freed_memory() {
  return patchmill::guard([] {
#if defined(__GLIBC__)
    TORCH_CHECK(mallopt(M_MMAP_MAX, 0) == 1 && mallopt(M_TRIM_THRESHOLD, -1) == 1 && mallopt(M_TOP_PAD, 64 << 20) == 1 &&
                    mallopt(M_ARENA_MAX, 1) == 1,
                "mallopt refused");
#endif
  });
}

// Counts from now on the bytes of this thread's tensors on the CPU, those of its backward passes included.
int pm_live_bytes_begin() {
  return patchmill::guard([] {
    TORCH_CHECK(!counting, "this thread counts already");
    auto begun = std::make_shared<LiveBytes>();
    c10::ThreadLocalDebugInfo::_push(c10::DebugInfoKind::PROFILER_STATE, begun);
    counting = std::move(begun);
  });
}

// Stops counting. peak_bytes_out = the most that there were at a time.
int pm_live_bytes_end(int64_t* peak_bytes_out) {
  return patchmill::guard([&] {
    TORCH_CHECK(counting, "this thread does not count");
    *peak_bytes_out = counting->peak;
    counting.reset();
    c10::ThreadLocalDebugInfo::_pop(c10::DebugInfoKind::PROFILER_STATE);
  });
}

}
