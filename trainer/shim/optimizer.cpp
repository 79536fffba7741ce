// Functions tch lacks for an optimizer step that never waits for the device.
#include "error.h"
#include "kernels/kernels.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <cstdint>
#include <vector>

namespace {

using at::Tensor;

// Minimum number of elements a thread takes at a time.
constexpr int64_t GRAIN = 1 << 14;

float number(const Tensor& tensor) {
  TORCH_CHECK(tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.numel() == 1,
              "a number is ", tensor.sizes(), " of ", tensor.scalar_type(), " on ", tensor.device(),
              "; expected one fp32 beside the parameters");
  return *tensor.data_ptr<float>();
}

float* elements(const Tensor& tensor, int64_t count) {
  TORCH_CHECK(tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.is_contiguous() &&
                  tensor.numel() == count,
              "expected ", count, " fp32 in a row, found ", tensor.sizes(), " of ",
              tensor.scalar_type());
  return tensor.data_ptr<float>();
}

}  // namespace

extern "C" {

// One AdamW update of `param` in place: param *= 1 - rate * weight_decay, then param -= rate *
// m_hat / (sqrt(v_hat) + eps), with the gradient multiplied by `clip` (fp32, []). `step` (fp32, [])
// already counts this update. If `found_inf` (fp32, []) is 1, everything stays unchanged. On the
// CPU one kernel does it and leaves `grad` unchanged; elsewhere `grad` is clipped in place.
int pm_adamw(Tensor* param, Tensor* grad, Tensor* exp_avg, Tensor* exp_avg_sq, Tensor* step,
             const Tensor* clip, const Tensor* found_inf, double rate, double beta1, double beta2,
             double weight_decay, double eps) {
  return patchmill::guard([&] {
    at::NoGradGuard no_grad;
    if (!param->is_cpu()) {
      grad->mul_(*clip);
      at::_fused_adamw_({*param}, {*grad}, {*exp_avg}, {*exp_avg_sq}, {}, {*step}, rate, beta1,
                        beta2, weight_decay, eps,
                        /*amsgrad=*/false, /*maximize=*/false, /*grad_scale=*/{}, *found_inf);
      return;
    }
    const double count = number(*step);
    const patchmill::AdamWFactors factors = {
        number(*clip),
        float(1 - rate * weight_decay),
        float(1 - beta1),
        float(beta2),
        float(1 - beta2),
        float(rate / (1 - std::pow(beta1, count))),
        float(std::sqrt(1 - std::pow(beta2, count))),
        float(eps),
    };
    const auto size = param->numel();
    float *p = elements(*param, size), *m = elements(*exp_avg, size),
          *v = elements(*exp_avg_sq, size);
    const float* g = elements(*grad, size);
    if (number(*found_inf) != 0) {
      return;
    }
    at::parallel_for(0, size, GRAIN, [&](int64_t begin, int64_t end) {
      patchmill::kernels<float>().adamw(p, g, m, v, factors, begin, end);
    });
  });
}

// norm_out = L2 norm of the flat tensor, computed as the norm of the norms of its parts: an fp32
// sum over a billion squares would lose digits.
int pm_norm(const Tensor* flat, int64_t part_elements, Tensor** norm_out) {
  return patchmill::guard([&] {
    at::NoGradGuard no_grad;
    const auto parts = flat->split(part_elements);
    *norm_out = new Tensor(at::linalg_vector_norm(at::stack(at::_foreach_norm(parts, 2))));
  });
}

}
