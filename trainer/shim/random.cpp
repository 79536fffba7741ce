// Random numbers from a generator of their own, so that no ambient state takes part.
#include "error.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>

#include <cstdint>

namespace {
using at::Tensor;
}

extern "C" {

// Fills `out` (on the CPU) from N(0, std) by a generator seeded with `seed`. Serial, so that the thread count takes no
// part; in fp64, because the fp32 fill takes another path on machines with AVX2.
int pm_fill_normal(Tensor* out, double std, uint64_t seed) {
  return patchmill::guard([&] {
    at::NoGradGuard no_grad;
    TORCH_CHECK(out->device().is_cpu() && out->scalar_type() == at::kDouble, "expected an fp64 tensor on the CPU");
    out->normal_(0.0, std, at::detail::createCPUGenerator(seed));
  });
}

}
