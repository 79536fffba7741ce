// fp32 products use the faster of libtorch's two libraries. libtorch takes MKL, which gives
// processors of other makers than Intel only AVX2. oneDNN, which libtorch uses for bf16, has
// AVX-512 for all. On 2 cores of an AMD EPYC (Zen 5) a product of 2048 x 192 and 192 x 1024 reaches
// 499 instead of 223 GFLOP/s, and evaluating the fixtures' model takes 2.2 instead of 4.1 s.
//
// oneDNN is used on x86-64 with AVX-512 on processors of other makers than Intel, from 2^22
// multiplications on; below that its preparation costs more than it gains. The choice follows from
// the processor and the shapes alone, never from a measurement, so a resumed run multiplies as
// before. It needs the same number of threads: the order of oneDNN's sums depends on it where many
// rows make a small gradient.
//
// oneDNN keeps its preparation for each shape, some 0.6 MB, up to 1 GB; a run has a few dozen
// shapes. `bench` and MFU measure the machine's limit with products made the same way.
#include "product.h"

#include "error.h"

#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>

namespace at::native {

// out = alpha a b + beta out. libtorch exports the function but omits its header.
TORCH_API void mkldnn_matmul(const Tensor& a, const Tensor& b, const Tensor& out, float beta,
                             float alpha);

}  // namespace at::native

namespace patchmill {

namespace {

// From this many multiplications on, the gain outweighs oneDNN's preparation of some microseconds.
constexpr int64_t ONEDNN_MULTIPLICATIONS_MIN = 1 << 22;

bool is_faster_by_onednn() {
#if defined(__x86_64__)
  static const bool found =
      at::hasMKLDNN() && !__builtin_cpu_is("intel") && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl");
  return found;
#else
  return false;
#endif
}

bool takes_onednn(const at::Tensor& a, const at::Tensor& b, const at::Tensor& out) {
  return out.scalar_type() == at::kFloat && out.is_cpu() && out.is_contiguous() &&
         is_faster_by_onednn() && a.numel() * b.size(-1) >= ONEDNN_MULTIPLICATIONS_MIN;
}

}  // namespace

void multiply(const at::Tensor& a, const at::Tensor& b, at::Tensor& out) {
  if (takes_onednn(a, b, out)) {
    at::native::mkldnn_matmul(a, b, out, 0, 1);
    out.unsafeGetTensorImpl()->bump_version();
  } else {
    at::matmul_out(out, a, b);
  }
}

void add_multiplied(at::Tensor& sum, const at::Tensor& a, const at::Tensor& b) {
  // If b is transposed and the result is a single row, oneDNN adds past the end of its memory.
  if (1 < a.size(0) && takes_onednn(a, b, sum)) {
    at::native::mkldnn_matmul(a, b, sum, 1, 1);
    sum.unsafeGetTensorImpl()->bump_version();
  } else {
    sum.addmm_(a, b);
  }
}

}  // namespace patchmill

extern "C" {

// out = a b, both with two or both with three dimensions, and of one dtype.
int pm_product(const at::Tensor* a, const at::Tensor* b, at::Tensor** out) {
  return patchmill::guard([&] {
    TORCH_CHECK(a->dim() == b->dim() && (a->dim() == 2 || a->dim() == 3) &&
                    a->size(-1) == b->size(-2) && (a->dim() == 2 || a->size(0) == b->size(0)),
                "a is ", a->sizes(), ", b is ", b->sizes(),
                "; expected [n, i] and [i, o], or as many of each");
    at::NoGradGuard no_grad;
    auto sizes = a->sizes().vec();
    sizes.back() = b->size(-1);
    auto result = at::empty(sizes, a->options());
    patchmill::multiply(*a, *b, result);
    *out = new at::Tensor(result);
  });
}

}
