// What tch lacks of autograd: gradients kept in storage of ours, and the fused head + loss.
//
// Shapes: n rows, d width, v vocabulary, k targets per row, c rows of a chunk.
#include "error.h"

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstdint>

namespace {

using at::Tensor;

// Sum of the negative log-likelihoods of a chunk, and, where asked for, d(mean loss)/d(logits) in fp32.
struct ChunkLoss {
  Tensor nll_sum;
  Tensor grad_cv;
};

ChunkLoss chunk_loss(const Tensor& x_cd, const Tensor& w_vd, const Tensor& y_ck, int64_t rows, bool with_grad) {
  auto logp_cv = at::_log_softmax(at::mm(x_cd, w_vd.t()).to(at::kFloat), 1, false);
  auto nll_sum = logp_cv.gather(1, y_ck).sum().neg();
  if (!with_grad) {
    return {nll_sum, Tensor()};
  }
  auto grad_cv = logp_cv.exp_().mul_(1.0 / double(rows));  // softmax / n
  auto share = at::full({1, 1}, -1.0 / double(rows * y_ck.size(1)), grad_cv.options());
  grad_cv.scatter_add_(1, y_ck, share.expand(y_ck.sizes()));
  return {nll_sum, grad_cv};
}

// dw_vd += grad_cv^T x_cd, accumulated in fp32 whatever the kind of the factors.
void add_weight_grad(Tensor& dw_vd, const Tensor& grad_cv, const Tensor& x_cd) {
  if (x_cd.scalar_type() == at::kFloat) {
    dw_vd.addmm_(grad_cv.t(), x_cd);
  } else if (x_cd.is_cuda()) {
    dw_vd.add_(at::mm(grad_cv.t(), x_cd, at::kFloat));
  } else {
    dw_vd.add_(at::mm(grad_cv.t(), x_cd));  // the CPU has no bf16 product with an fp32 result
  }
}

// Mean of -log softmax(x w^T)[row, target] over all n * k targets, by chunks of rows: no [n, v] tensor ever lives.
// The gradients are made beside the loss, while a chunk's logits are at hand; backward scales them.
// x: [n, d] in the compute kind; w: [v, d] in fp32, cast to that kind here; y: [n, k] int64.
struct LinearCrossEntropy : torch::autograd::Function<LinearCrossEntropy> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x_nd, const Tensor& w_vd,
                        const Tensor& y_nk, int64_t chunk_rows, bool with_grad) {
    at::NoGradGuard no_grad;
    const auto rows = x_nd.size(0);
    const auto kind_w_vd = w_vd.to(x_nd.scalar_type());
    auto loss = at::zeros({}, x_nd.options().dtype(at::kFloat));
    Tensor dx_nd, dw_vd;
    if (with_grad) {
      dx_nd = at::empty_like(x_nd);
      dw_vd = at::zeros(w_vd.sizes(), w_vd.options().dtype(at::kFloat));
    }
    for (int64_t first = 0; first < rows; first += chunk_rows) {
      const auto end = std::min(rows, first + chunk_rows);
      const auto x_cd = x_nd.slice(0, first, end);
      const auto chunk = chunk_loss(x_cd, kind_w_vd, y_nk.slice(0, first, end), rows, with_grad);
      loss.add_(chunk.nll_sum);
      if (with_grad) {
        const auto grad_cv = chunk.grad_cv.to(x_nd.scalar_type());
        auto dx_cd = dx_nd.slice(0, first, end);
        at::mm_out(dx_cd, grad_cv, kind_w_vd);
        add_weight_grad(dw_vd, grad_cv, x_cd);
      }
    }
    if (with_grad) {
      context->save_for_backward({dx_nd, dw_vd});
    }
    return loss.div_(double(rows * y_nk.size(1)));
  }

  // Scales in place, always (asking whether the factor is 1 would wait for the device). The saved tensors' versions
  // change by it, so a second backward through the same graph is refused by autograd, not silently wrong.
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grad_outputs) {
    at::NoGradGuard no_grad;
    auto saved = context->get_saved_variables();
    saved[0].mul_(grad_outputs[0]);
    saved[1].mul_(grad_outputs[0]);
    return {saved[0], saved[1], Tensor(), Tensor(), Tensor()};
  }
};

void check_operands(const Tensor& x_nd, const Tensor& w_vd, const Tensor& y_nk, int64_t chunk_rows) {
  TORCH_CHECK(x_nd.dim() == 2 && w_vd.dim() == 2 && x_nd.size(1) == w_vd.size(1), "x is ", x_nd.sizes(), ", w is ",
              w_vd.sizes(), "; expected [n, d] and [v, d]");
  TORCH_CHECK(y_nk.dim() == 2 && y_nk.size(0) == x_nd.size(0) && y_nk.scalar_type() == at::kLong, "y is ",
              y_nk.sizes(), " of ", y_nk.scalar_type(), "; expected [n, k] of Long with n = ", x_nd.size(0));
  TORCH_CHECK(0 < x_nd.size(0) && 0 < chunk_rows, "no rows to take the mean of");
}

}  // namespace

extern "C" {

// loss_out = mean over n and k of the cross-entropy of x w^T against y, differentiable in x and w.
int pm_linear_cross_entropy(const Tensor* x_nd, const Tensor* w_vd, const Tensor* y_nk, int64_t chunk_rows,
                            Tensor** loss_out) {
  return patchmill::guard([&] {
    check_operands(*x_nd, *w_vd, *y_nk, chunk_rows);
    const bool with_grad = at::GradMode::is_enabled() && (x_nd->requires_grad() || w_vd->requires_grad());
    *loss_out = new Tensor(LinearCrossEntropy::apply(*x_nd, *w_vd, *y_nk, chunk_rows, with_grad));
  });
}

// Makes `grad` the gradient of `leaf`. Backward adds to it in place, so it may be a view of a larger tensor.
int pm_set_grad(const Tensor* leaf, const Tensor* grad) {
  return patchmill::guard([&] {
    TORCH_CHECK(leaf->is_leaf() && leaf->requires_grad(), "a gradient can only be set on a leaf that requires one");
    TORCH_CHECK(leaf->sizes() == grad->sizes() && leaf->scalar_type() == grad->scalar_type() &&
                    leaf->device() == grad->device(),
                "the gradient is not of the leaf's shape, kind and device");
    leaf->mutable_grad() = *grad;
  });
}

}
