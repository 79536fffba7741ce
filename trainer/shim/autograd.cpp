// Autograd functions tch lacks: gradients kept in storage of ours, and the fused head + loss.
//
// Shapes: n rows, d width, v vocabulary, k targets per row, c rows of a chunk.
#include "accumulate.h"
#include "error.h"
#include "kernels/kernels.h"
#include "product.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

using at::Tensor;

// Targets that are not counted, as in torch's cross-entropy.
constexpr int64_t IGNORED = -100;

// Sum of the negative log-likelihoods of a chunk, and, if requested, d(mean loss)/d(logits) in the
// compute dtype.
struct ChunkLoss {
  Tensor nll_sum;
  Tensor grad_cv;
};

// On the CPU: overwrites the logits, one row at a time in fp32.
template <class T>
ChunkLoss chunk_loss_on_cpu(Tensor logits_cv, const Tensor& y_ck, const Tensor& targets,
                            bool with_grad) {
  const auto rows = logits_cv.size(0), width = logits_cv.size(1);
  auto nll = at::empty({rows}, logits_cv.options().dtype(at::kFloat));
  const auto scale =
      with_grad ? float(1.0 / double(std::max<int64_t>(1, *targets.data_ptr<int64_t>()))) : 0.0f;
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(width, 0.0f);
    patchmill::kernels<T>().softmax_nll(static_cast<T*>(logits_cv.data_ptr()),
                                        y_ck.data_ptr<int64_t>(), y_ck.size(1), IGNORED, scale,
                                        nll.data_ptr<float>(), scratch.data(), begin, end, width);
  });
  return {nll.sum(), with_grad ? logits_cv : Tensor()};
}

// Elsewhere, composed of libtorch's operations; nothing is read back from the device.
ChunkLoss composed_chunk_loss(const Tensor& logits_cv, const Tensor& y_ck, const Tensor& targets,
                              bool with_grad) {
  const auto counted_ck = y_ck.ne(IGNORED);
  const auto index_ck = y_ck.clamp_min(0);
  auto logp_cv = at::_log_softmax(logits_cv.to(at::kFloat), 1, false);
  auto nll_sum = (logp_cv.gather(1, index_ck) * counted_ck).sum().neg();
  if (!with_grad) {
    return {nll_sum, Tensor()};
  }
  const auto share_ck = counted_ck.to(at::kFloat) / targets.clamp_min(1);
  auto grad_cv = logp_cv.exp_().mul_(share_ck.sum(1, true));
  grad_cv.scatter_add_(1, index_ck, share_ck.neg());
  return {nll_sum, grad_cv.to(logits_cv.scalar_type())};
}

// `logits_cv` is storage for the logits.
ChunkLoss chunk_loss(Tensor logits_cv, const Tensor& x_cd, const Tensor& w_vd, const Tensor& y_ck,
                     const Tensor& targets, bool with_grad) {
  patchmill::multiply(x_cd, w_vd.t(), logits_cv);
  if (!logits_cv.is_cpu()) {
    return composed_chunk_loss(logits_cv, y_ck, targets, with_grad);
  }
  const auto y = y_ck.contiguous();
  return logits_cv.scalar_type() == at::kFloat
             ? chunk_loss_on_cpu<float>(logits_cv, y, targets, with_grad)
             : chunk_loss_on_cpu<patchmill::Bf16>(logits_cv, y, targets, with_grad);
}

// Mean of -log softmax(x w^T)[row, target] over all n * k targets that are not ignored, by chunks
// of rows: an [n, v] tensor never exists. The gradients are computed together with the loss, while
// a chunk's logits are available; backward scales them. x: [n, d] in the compute dtype; w: [v, d]
// in fp32, cast to the compute dtype here; y: [n, k] int64.
struct LinearCrossEntropy : torch::autograd::Function<LinearCrossEntropy> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x_nd,
                        const Tensor& w_vd, const Tensor& y_nk, int64_t chunk_rows,
                        bool with_grad) {
    at::NoGradGuard no_grad;
    const auto rows = x_nd.size(0);
    const auto kind_w_vd = w_vd.to(x_nd.scalar_type());
    const auto targets = y_nk.ne(IGNORED).sum();
    auto loss = at::zeros({}, x_nd.options().dtype(at::kFloat));
    Tensor dx_nd, dw_vd;
    if (with_grad) {
      dx_nd = at::empty_like(x_nd);
      dw_vd = at::zeros(w_vd.sizes(), w_vd.options().dtype(at::kFloat));
    }
    const auto room_cv = at::empty({std::min(rows, chunk_rows), w_vd.size(0)}, x_nd.options());
    for (int64_t first = 0; first < rows; first += chunk_rows) {
      const auto end = std::min(rows, first + chunk_rows);
      const auto x_cd = x_nd.slice(0, first, end);
      const auto chunk = chunk_loss(room_cv.slice(0, 0, end - first), x_cd, kind_w_vd,
                                    y_nk.slice(0, first, end), targets, with_grad);
      loss.add_(chunk.nll_sum);
      if (with_grad) {
        auto dx_cd = dx_nd.slice(0, first, end);
        patchmill::multiply(chunk.grad_cv, kind_w_vd, dx_cd);
        patchmill::add_product(dw_vd, chunk.grad_cv, x_cd);
      }
    }
    if (with_grad) {
      context->save_for_backward({dx_nd, dw_vd, w_vd});
    }
    return loss.div_(targets.clamp_min(1));
  }

  // Always scales in place (asking whether the factor is 1 would wait for the device). This changes
  // the versions of the saved tensors, so autograd refuses a second backward through the same graph
  // instead of returning a wrong result.
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grad_outputs) {
    at::NoGradGuard no_grad;
    auto saved = context->get_saved_variables();
    saved[0].mul_(grad_outputs[0]);
    const auto& w_vd = saved[2];
    if (w_vd.grad().defined()) {
      w_vd.grad().addcmul_(saved[1], grad_outputs[0]);
      return {saved[0], Tensor(), Tensor(), Tensor(), Tensor()};
    }
    return {saved[0], saved[1].mul_(grad_outputs[0]), Tensor(), Tensor(), Tensor()};
  }
};

void check_operands(const Tensor& x_nd, const Tensor& w_vd, const Tensor& y_nk,
                    int64_t chunk_rows) {
  TORCH_CHECK(x_nd.dim() == 2 && w_vd.dim() == 2 && x_nd.size(1) == w_vd.size(1), "x is ",
              x_nd.sizes(), ", w is ", w_vd.sizes(), "; expected [n, d] and [v, d]");
  TORCH_CHECK(y_nk.dim() == 2 && y_nk.size(0) == x_nd.size(0) && y_nk.scalar_type() == at::kLong,
              "y is ", y_nk.sizes(), " of ", y_nk.scalar_type(),
              "; expected [n, k] of Long with n = ", x_nd.size(0));
  TORCH_CHECK(0 < x_nd.size(0) && 0 < chunk_rows, "no rows to take the mean of");
}

}  // namespace

extern "C" {

// loss_out = mean over n and k of the cross-entropy of x w^T against y, differentiable in x and w.
int pm_linear_cross_entropy(const Tensor* x_nd, const Tensor* w_vd, const Tensor* y_nk,
                            int64_t chunk_rows, Tensor** loss_out) {
  return patchmill::guard([&] {
    check_operands(*x_nd, *w_vd, *y_nk, chunk_rows);
    const bool with_grad =
        at::GradMode::is_enabled() && (x_nd->requires_grad() || w_vd->requires_grad());
    *loss_out = new Tensor(LinearCrossEntropy::apply(*x_nd, *w_vd, *y_nk, chunk_rows, with_grad));
  });
}

// Sets `grad` as the gradient of `leaf`. Backward adds to it in place, so it may be a view of a
// larger tensor.
int pm_set_grad(const Tensor* leaf, const Tensor* grad) {
  return patchmill::guard([&] {
    TORCH_CHECK(leaf->is_leaf() && leaf->requires_grad(),
                "a gradient can only be set on a leaf that requires one");
    TORCH_CHECK(leaf->sizes() == grad->sizes() && leaf->scalar_type() == grad->scalar_type() &&
                    leaf->device() == grad->device(),
                "the gradient does not have the leaf's shape, dtype and device");
    leaf->mutable_grad() = *grad;
  });
}

}
