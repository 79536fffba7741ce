// Weight gradients in fp32 for factors of any dtype, added to the leaf's own gradient.
#pragma once

#include "kernels/kernels.h"
#include "product.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>

namespace patchmill {

// sum += x, without the fp32 copy of x libtorch would make. Both are dense and on the CPU.
inline void add_to_fp32(at::Tensor& sum, const at::Tensor& x) {
  const auto* from = static_cast<const Bf16*>(x.data_ptr());
  auto* to = sum.data_ptr<float>();
  at::parallel_for(0, x.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
    kernels<Bf16>().add_to_fp32(from, to, begin, end);
  });
}

// sum += grad_no^T x_ni, accumulated in fp32. On the CPU each bf16 product is rounded once before
// the addition: libtorch has no bf16 product with an fp32 result there.
inline void add_product(at::Tensor& sum_oi, const at::Tensor& grad_no, const at::Tensor& x_ni) {
  if (x_ni.scalar_type() == at::kFloat) {
    add_multiplied(sum_oi, grad_no.t(), x_ni);
  } else if (x_ni.is_cuda()) {
    sum_oi.add_(at::mm(grad_no.t(), x_ni, at::kFloat));
  } else if (x_ni.scalar_type() == at::kBFloat16 && x_ni.is_cpu() && sum_oi.is_contiguous()) {
    add_to_fp32(sum_oi, at::mm(grad_no.t(), x_ni).contiguous());
  } else {
    sum_oi.add_(at::mm(grad_no.t(), x_ni));
  }
}

// Adds grad_no^T x_ni to the gradient of the leaf w and returns nothing. If none is set, returns it
// instead.
inline at::Tensor add_weight_grad(const at::Tensor& w, const at::Tensor& grad_no,
                                  const at::Tensor& x_ni) {
  if (w.grad().defined()) {
    auto grad = w.grad();
    add_product(grad, grad_no, x_ni);
    return at::Tensor();
  }
  auto grad = at::zeros_like(w);
  add_product(grad, grad_no, x_ni);
  return grad;
}

// Adds dw to the gradient of the leaf w and returns nothing. If none is set, returns it instead.
inline at::Tensor add_grad(const at::Tensor& w, const at::Tensor& dw) {
  if (!w.grad().defined()) {
    return dw;
  }
  w.grad().add_(dw);
  return at::Tensor();
}

}  // namespace patchmill
