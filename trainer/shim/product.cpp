// MKL, which libtorch takes for fp32, gives processors that are not Intel's no more than AVX2.
// oneDNN, which it takes for bf16, has AVX-512 for all of them: twice the speed on Zen 5. Which one
// is taken follows from the processor and the shapes alone, so that a run that is resumed takes the
// same. oneDNN's sums may have another order on another number of threads.
#include "product.h"

#include "error.h"

#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>

namespace at::native {

// out = alpha a b + beta out. libtorch exports it and leaves out its header.
TORCH_API void mkldnn_matmul(const Tensor& a, const Tensor& b, const Tensor& out, float beta,
                             float alpha);

}  // namespace at::native

namespace patchmill {

namespace {

// Multiplications from which on oneDNN's preparations, some microseconds, are made up for.
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
  // To a single row oneDNN adds past the end of its memory, if b lies transposed.
  if (1 < a.size(0) && takes_onednn(a, b, sum)) {
    at::native::mkldnn_matmul(a, b, sum, 1, 1);
    sum.unsafeGetTensorImpl()->bump_version();
  } else {
    sum.addmm_(a, b);
  }
}

}  // namespace patchmill

extern "C" {

// out = a b, both of two or of three dimensions and of one kind.
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
