// Functions tch lacks for an optimizer step that never waits for the device.
#include "error.h"
#include "kernels/kernels.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
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

// Elements whose squares are summed as one block.
constexpr int64_t BLOCK = 1 << 16;

// Sum of squares in fp64, in an order that depends on `count` alone.
double square_sum(const float* x, int64_t count) {
  constexpr int LANES = 8;
  double sums[LANES] = {};
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) {
    for (int lane = 0; lane < LANES; ++lane) {
      const double value = x[i + lane];
      sums[lane] += value * value;
    }
  }
  for (; i < count; ++i) {
    sums[0] += double(x[i]) * x[i];
  }
  double sum = 0;
  for (const double lane : sums) {
    sum += lane;
  }
  return sum;
}

// L2 norm of fp32 elements on the CPU; threads take whole blocks, whose sums are added in order.
double norm(const float* x, int64_t count) {
  std::vector<double> sums((count + BLOCK - 1) / BLOCK);
  at::parallel_for(0, int64_t(sums.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      sums[block] = square_sum(x + block * BLOCK, std::min(BLOCK, count - block * BLOCK));
    }
  });
  double sum = 0;
  for (const double block : sums) {
    sum += block;
  }
  return std::sqrt(sum);
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

// norm_out = L2 norm of the flat fp32 tensor, summed in fp64; fp32, []. Its bits do not depend on
// the number of threads. On a GPU it is the norm of the norms of parts, which bounds the memory.
int pm_norm(const Tensor* flat, int64_t part_elements, Tensor** norm_out) {
  return patchmill::guard([&] {
    at::NoGradGuard no_grad;
    if (flat->is_cpu()) {
      const double found = norm(elements(*flat, flat->numel()), flat->numel());
      *norm_out = new Tensor(at::scalar_tensor(found, flat->options()));
      return;
    }
    const auto norms = at::_foreach_norm(flat->split(part_elements), 2, at::kDouble);
    *norm_out = new Tensor(at::linalg_vector_norm(at::stack(norms)).to(at::kFloat));
  });
}

}
