// Random numbers from their own generator, independent of ambient state.
#include "error.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstdint>

namespace {

using at::Tensor;

// Numbers drawn at a time: 8 MiB. A multiple of 16, the number libtorch draws together.
constexpr int64_t PART_ELEMENTS = 1 << 20;

}  // namespace

extern "C" {

// Fills `out` (a dense fp32 tensor) from N(0, std) by a generator seeded with `seed`. The fill is
// serial, so the thread count does not matter. It is drawn in fp64, because the fp32 fill takes
// another path on machines with AVX2, and in parts, so that a large matrix never exists twice as a
// whole.
int pm_fill_normal(Tensor* out, double std, uint64_t seed) {
  return patchmill::guard([&] {
    at::NoGradGuard no_grad;
    TORCH_CHECK(out->is_contiguous() && out->scalar_type() == at::kFloat,
                "expected a dense fp32 tensor");
    auto generator = at::detail::createCPUGenerator(seed);
    auto flat = out->view({-1});
    for (int64_t first = 0; first < flat.numel(); first += PART_ELEMENTS) {
      auto part = flat.slice(0, first, std::min(flat.numel(), first + PART_ELEMENTS));
      part.copy_(at::empty(part.sizes(), at::kDouble).normal_(0.0, std, generator));
    }
  });
}

}
