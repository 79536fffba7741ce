// Selects the compiled level of kernels.cpp for this processor.
#include "kernels.h"

namespace patchmill {

#define PATCHMILL_DECLARE(level)   \
  namespace level {                \
  extern const Kernels<float> fp32; \
  extern const Kernels<Bf16> bf16;  \
  }
PATCHMILL_DECLARE(baseline)
#if defined(__x86_64__)
PATCHMILL_DECLARE(x86_64_v3)
PATCHMILL_DECLARE(x86_64_v4)
PATCHMILL_DECLARE(x86_64_v4_bf16)
#endif

namespace {

struct Level {
  const Kernels<float>& fp32;
  const Kernels<Bf16>& bf16;
};

const Level& level() {
  static const Level found = [] {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512cd")) {
      if (__builtin_cpu_supports("avx512bf16")) {
        return Level{x86_64_v4_bf16::fp32, x86_64_v4_bf16::bf16};
      }
      return Level{x86_64_v4::fp32, x86_64_v4::bf16};
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2")) {
      return Level{x86_64_v3::fp32, x86_64_v3::bf16};
    }
#endif
    return Level{baseline::fp32, baseline::bf16};
  }();
  return found;
}

}  // namespace

template <>
const Kernels<float>& kernels<float>() {
  return level().fp32;
}

template <>
const Kernels<Bf16>& kernels<Bf16>() {
  return level().bf16;
}

}  // namespace patchmill
