// Weight gradients in fp32 whatever the kind of the factors, added where the leaf keeps its gradient.
#pragma once

#include <ATen/Functions.h>

namespace patchmill {

// sum += grad_no^T x_ni, accumulated in fp32. On the CPU each bf16 product is rounded once before it is added: libtorch
// has no bf16 product with an fp32 result there.
inline void add_product(at::Tensor& sum_oi, const at::Tensor& grad_no, const at::Tensor& x_ni) {
  if (x_ni.scalar_type() == at::kFloat) {
    sum_oi.addmm_(grad_no.t(), x_ni);
  } else if (x_ni.is_cuda()) {
    sum_oi.add_(at::mm(grad_no.t(), x_ni, at::kFloat));
  } else {
    sum_oi.add_(at::mm(grad_no.t(), x_ni));
  }
}

// Adds grad_no^T x_ni to the gradient of the leaf w and returns nothing, or returns it where none is set.
inline at::Tensor add_weight_grad(const at::Tensor& w, const at::Tensor& grad_no, const at::Tensor& x_ni) {
  if (w.grad().defined()) {
    auto grad = w.grad();
    add_product(grad, grad_no, x_ni);
    return at::Tensor();
  }
  auto grad = at::zeros_like(w);
  add_product(grad, grad_no, x_ni);
  return grad;
}

// Adds dw to the gradient of the leaf w and returns nothing, or returns it where none is set.
inline at::Tensor add_grad(const at::Tensor& w, const at::Tensor& dw) {
  if (!w.grad().defined()) {
    return dw;
  }
  w.grad().add_(dw);
  return at::Tensor();
}

}  // namespace patchmill
