// What tch lacks for an optimizer step that never waits for the device.
#include "error.h"

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>

#include <cstdint>
#include <vector>

namespace {
using at::Tensor;
}

extern "C" {

// One AdamW update of `param` in place, libtorch's fused kernel: param *= 1 - rate * weight_decay, then
// param -= rate * m_hat / (sqrt(v_hat) + eps). `step` (fp32, []) counts this update already. All of it is left
// as it is where `found_inf` (fp32, []) is 1.
int pm_adamw(Tensor* param, Tensor* grad, Tensor* exp_avg, Tensor* exp_avg_sq, Tensor* step, const Tensor* found_inf,
             double rate, double beta1, double beta2, double weight_decay, double eps) {
  return patchmill::guard([&] {
    at::NoGradGuard no_grad;
    at::_fused_adamw_({*param}, {*grad}, {*exp_avg}, {*exp_avg_sq}, {}, {*step}, rate, beta1, beta2, weight_decay, eps,
                      /*amsgrad=*/false, /*maximize=*/false, /*grad_scale=*/{}, *found_inf);
  });
}

// norm_out = L2 norm of the flat tensor, as the norm of the norms of its parts: an fp32 sum over a billion squares
// would lose digits.
int pm_norm(const Tensor* flat, int64_t part_elements, Tensor** norm_out) {
  return patchmill::guard([&] {
    at::NoGradGuard no_grad;
    const auto parts = flat->split(part_elements);
    *norm_out = new Tensor(at::linalg_vector_norm(at::stack(at::_foreach_norm(parts, 2))));
  });
}

}
