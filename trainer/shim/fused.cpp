// The parts of a LLaMA block bound by memory traffic, each as one differentiable function: on the
// CPU by the kernels of kernels.h, elsewhere composed of libtorch's own. Also the products, with
// weight gradients written directly to the leaf's gradient.
//
// Shapes: b windows, t positions, k tokens per patch, d width, f width of the MLP, h query heads, g
// key and value heads, e width of a head, n = b * t.
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
#include <optional>
#include <vector>

namespace {

using at::Tensor;
using patchmill::Bf16;
using patchmill::HeadStrides;
using patchmill::kernels;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Parts of the rows for summing the gradient of a gain: a fixed number, so the result does not
// depend on threads.
constexpr int64_t GAIN_PARTS = 32;

template <class T>
T* data(const Tensor& tensor) {
  return tensor.defined() ? static_cast<T*>(tensor.data_ptr()) : nullptr;
}

// Calls body with a null pointer of the kernels' element type for `tensor`.
template <class Body>
void with_type(const Tensor& tensor, Body body) {
  if (tensor.scalar_type() == at::kFloat) {
    body(static_cast<float*>(nullptr));
  } else {
    TORCH_CHECK(tensor.scalar_type() == at::kBFloat16, "no kernel for ", tensor.scalar_type());
    body(static_cast<Bf16*>(nullptr));
  }
}

template <class Body>
void over_rows(int64_t rows, int64_t row_elements, Body body) {
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, row_elements));
  at::parallel_for(0, rows, grain, body);
}

// y = x w^T with the fp32 leaf w cast to the dtype of x.
struct Linear : torch::autograd::Function<Linear> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& w) {
    at::NoGradGuard no_grad;
    const auto kind_w = w.to(x.scalar_type());
    context->save_for_backward({x, kind_w, w});
    auto sizes = x.sizes().vec();
    sizes.back() = w.size(0);
    auto y_no = at::empty({x.numel() / x.size(-1), w.size(0)}, x.options());
    patchmill::multiply(x.reshape({-1, x.size(-1)}), kind_w.t(), y_no);
    return y_no.view(sizes);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::NoGradGuard no_grad;
    const auto saved = context->get_saved_variables();
    const auto &x = saved[0], &kind_w = saved[1];
    auto w = saved[2];
    const auto grad_no = grads[0].reshape({-1, kind_w.size(0)});
    Tensor dx;
    if (context->needs_input_grad(0)) {
      dx = at::empty({grad_no.size(0), kind_w.size(1)}, grad_no.options());
      patchmill::multiply(grad_no, kind_w, dx);
      dx = dx.view(x.sizes());
    }
    return {dx, patchmill::add_weight_grad(w, grad_no, x.reshape({-1, kind_w.size(1)}))};
  }
};

// [b, t, d] means of the embeddings of k ids each.
struct EmbedMean : torch::autograd::Function<EmbedMean> {
  static Tensor forward(AutogradContext* context, const Tensor& w, const Tensor& ids,
                        at::ScalarType kind) {
    at::NoGradGuard no_grad;
    const auto b = ids.size(0), t = ids.size(1), k = ids.size(2), d = w.size(1);
    auto out = at::empty({b, t, d}, w.options().dtype(kind));
    with_type(out, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      over_rows(b * t, d * k, [&](int64_t begin, int64_t end) {
        kernels<T>().embed_mean(data<float>(w), data<int64_t>(ids), k, data<T>(out), begin, end, d);
      });
    });
    context->save_for_backward({w, ids});
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::NoGradGuard no_grad;
    const auto saved = context->get_saved_variables();
    const auto &w = saved[0], &ids = saved[1];
    const auto grad = grads[0].contiguous();
    const auto d = w.size(1);
    const bool in_place = w.grad().defined();
    auto dw = in_place ? w.grad() : at::zeros_like(w);
    with_type(grad, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      at::parallel_for(0, d, 16, [&](int64_t begin, int64_t end) {
        kernels<T>().embed_mean_grad(data<T>(grad), data<int64_t>(ids), ids.size(2),
                                     data<float>(dw), ids.size(0) * ids.size(1), d, begin, end);
      });
    });
    return {in_place ? Tensor() : dw, Tensor(), Tensor()};
  }
};

// sum = x + delta and y = the normalized sum; without delta, sum is x.
struct AddRmsNorm : torch::autograd::Function<AddRmsNorm> {
  static variable_list forward(AutogradContext* context, const Tensor& x,
                               const std::optional<Tensor>& delta, const Tensor& gain, double eps) {
    at::NoGradGuard no_grad;
    const auto d = gain.size(0), rows = x.numel() / d;
    auto sum = delta.has_value() ? at::empty_like(x) : x;
    auto y = at::empty_like(x);
    auto rstd = at::empty({rows}, x.options().dtype(at::kFloat));
    with_type(x, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      over_rows(rows, d, [&](int64_t begin, int64_t end) {
        kernels<T>().add_rms_norm(data<T>(x), delta ? data<T>(*delta) : nullptr, data<float>(gain),
                                  data<T>(sum), data<T>(y), data<float>(rstd), begin, end, d,
                                  float(eps));
      });
    });
    context->save_for_backward({sum, gain, rstd});
    context->set_materialize_grads(false);
    context->saved_data["has_delta"] = delta.has_value();
    return delta.has_value() ? variable_list{sum, y} : variable_list{y};
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::NoGradGuard no_grad;
    const auto saved = context->get_saved_variables();
    const auto &sum = saved[0], &gain = saved[1], &rstd = saved[2];
    const bool has_delta = context->saved_data["has_delta"].toBool();
    const auto grad_sum = has_delta && grads[0].defined() ? grads[0].contiguous() : Tensor();
    const auto &last = grads.back();
    if (!last.defined()) {
      return {grad_sum, grad_sum, Tensor(), Tensor()};
    }
    const auto grad_y = last.contiguous();
    const auto d = gain.size(0), rows = sum.numel() / d;
    auto dx = at::empty_like(sum);
    auto parts = at::zeros({GAIN_PARTS, d}, gain.options());
    with_type(sum, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      at::parallel_for(0, GAIN_PARTS, 1, [&](int64_t first, int64_t last) {
        for (int64_t part = first; part < last; ++part) {
          kernels<T>().add_rms_norm_grad(data<T>(sum), data<float>(gain), data<float>(rstd),
                                         data<T>(grad_sum), data<T>(grad_y), data<T>(dx),
                                         data<float>(parts) + part * d, part * rows / GAIN_PARTS,
                                         (part + 1) * rows / GAIN_PARTS, d);
        }
      });
    });
    return {dx, has_delta ? dx : Tensor(), patchmill::add_grad(gain, parts.sum(0)), Tensor()};
  }
};

// [b, t, f] from gate and up side by side, [b, t, 2 f].
struct SwiGlu : torch::autograd::Function<SwiGlu> {
  static Tensor forward(AutogradContext* context, const Tensor& gate_up) {
    at::NoGradGuard no_grad;
    const auto f = gate_up.size(-1) / 2, rows = gate_up.numel() / (2 * f);
    auto sizes = gate_up.sizes().vec();
    sizes.back() = f;
    auto out = at::empty(sizes, gate_up.options());
    with_type(out, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      over_rows(rows, 2 * f, [&](int64_t begin, int64_t end) {
        kernels<T>().swiglu(data<T>(gate_up), data<T>(out), begin, end, f);
      });
    });
    context->save_for_backward({gate_up});
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::NoGradGuard no_grad;
    const auto gate_up = context->get_saved_variables()[0];
    const auto grad = grads[0].contiguous();
    const auto f = grad.size(-1), rows = grad.numel() / f;
    auto dx = at::empty_like(gate_up);
    with_type(grad, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      over_rows(rows, 2 * f, [&](int64_t begin, int64_t end) {
        kernels<T>().swiglu_grad(data<T>(gate_up), data<T>(grad), data<T>(dx), begin, end, f);
      });
    });
    return {dx};
  }
};

// Copies between rows [b, t, (h + 2 g) e], which hold the heads of queries, keys and values side by
// side, and these three apart, [b, heads, t, e]. Queries and keys are rotated, values are not.
void turn(const Tensor& rows, std::vector<Tensor>& apart, const Tensor& cos_te,
          const Tensor& sin_te, bool is_forward) {
  const auto b = rows.size(0), t = rows.size(1), width = rows.size(2), e = apart[0].size(3);
  with_type(rows, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    over_rows(b * t, width, [&](int64_t begin, int64_t end) {
      auto* beside = data<T>(rows);
      for (size_t i = 0; i < apart.size(); ++i) {
        const HeadStrides rows_strides = {t * width, e, width};
        const HeadStrides strides = {apart[i].stride(0), apart[i].stride(1), apart[i].stride(2)};
        const auto heads = apart[i].size(1);
        const auto* cos = i < 2 ? data<T>(cos_te) : nullptr;
        if (is_forward) {
          kernels<T>().turn_heads(beside, rows_strides, data<T>(apart[i]), strides, cos,
                                  data<T>(sin_te), 1, begin, end, t, heads, e);
        } else {
          kernels<T>().turn_heads(data<T>(apart[i]), strides, beside, rows_strides, cos,
                                  data<T>(sin_te), -1, begin, end, t, heads, e);
        }
        beside += heads * e;
      }
    });
  });
}

struct SplitRotate : torch::autograd::Function<SplitRotate> {
  static variable_list forward(AutogradContext* context, const Tensor& qkv, const Tensor& cos_te,
                               const Tensor& sin_te, int64_t h, int64_t g, int64_t e) {
    at::NoGradGuard no_grad;
    const auto b = qkv.size(0), t = qkv.size(1);
    variable_list out;
    for (const auto heads : {h, g, g}) {
      out.push_back(at::empty({b, heads, t, e}, qkv.options()));
    }
    turn(qkv, out, cos_te, sin_te, /*is_forward=*/true);
    context->save_for_backward({cos_te, sin_te});
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::NoGradGuard no_grad;
    const auto saved = context->get_saved_variables();
    int64_t heads = 0;
    for (auto& grad : grads) {
      grad = grad.stride(3) == 1 ? grad : grad.contiguous();
      heads += grad.size(1);
    }
    auto dx = at::empty({grads[0].size(0), grads[0].size(2), heads * grads[0].size(3)},
                        grads[0].options());
    turn(dx, grads, saved[0], saved[1], /*is_forward=*/false);
    return {dx, Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

// The same composed of libtorch's operations, for devices without our kernels.

Tensor composed_embed_mean(const Tensor& w, const Tensor& ids, at::ScalarType kind) {
  const auto b = ids.size(0), t = ids.size(1), k = ids.size(2);
  if (k == 1) {
    return at::embedding(w, ids.squeeze(2)).to(kind);
  }
  const auto offsets = at::arange(0, b * t * k, k, ids.options());
  const auto bags =
      at::embedding_bag(w, ids.flatten(), offsets, false, /*mode: mean*/ 1, false, {}, false);
  return std::get<0>(bags).view({b, t, -1}).to(kind);
}

variable_list composed_add_rms_norm(const Tensor& x, const std::optional<Tensor>& delta,
                                    const Tensor& gain, double eps) {
  const auto sum = delta ? x + *delta : x;
  const auto y = at::rms_norm(sum.to(at::kFloat), gain.sizes(), gain, eps).to(x.scalar_type());
  return delta ? variable_list{sum, y} : variable_list{y};
}

Tensor composed_rotate(const Tensor& x_bhte, const Tensor& cos_te, const Tensor& sin_te) {
  const auto halves = x_bhte.chunk(2, 3);
  return at::cat({halves[0] * cos_te - halves[1] * sin_te, halves[1] * cos_te + halves[0] * sin_te},
                 3);
}

variable_list composed_split_rotate(const Tensor& qkv, const Tensor& cos_te, const Tensor& sin_te,
                                    int64_t h, int64_t g, int64_t e) {
  const auto parts = qkv.split_with_sizes({h * e, g * e, g * e}, 2);
  const auto heads = [&](int i) { return parts[i].unflatten(2, {-1, e}).transpose(1, 2); };
  return {composed_rotate(heads(0), cos_te, sin_te), composed_rotate(heads(1), cos_te, sin_te),
          heads(2)};
}

}  // namespace

extern "C" {

// out = x w^T, with x [.., i] in the compute dtype and w [o, i] an fp32 leaf. If w has a gradient
// set, its gradient is added to that in place.
int pm_linear(const Tensor* x, const Tensor* w, Tensor** out) {
  return patchmill::guard([&] {
    TORCH_CHECK(w->dim() == 2 && x->size(-1) == w->size(1) && 0 < w->size(1), "x is ", x->sizes(),
                ", w is ", w->sizes(), "; expected [.., i] and [o, i], i at least 1");
    *out = new Tensor(Linear::apply(*x, *w));
  });
}

// out [b, t, d], in fp32, or in bf16 if `is_bf16`: means of the embeddings w [v, d] of ids [b, t,
// k] (int64, each below v: they are not checked here).
int pm_embed_mean(const Tensor* w, const Tensor* ids, int is_bf16, Tensor** out) {
  return patchmill::guard([&] {
    TORCH_CHECK(w->dim() == 2 && w->scalar_type() == at::kFloat && w->is_contiguous(),
                "w is not an fp32 matrix");
    TORCH_CHECK(ids->dim() == 3 && ids->scalar_type() == at::kLong, "ids are ", ids->sizes(),
                " of ", ids->scalar_type(), "; expected [b, t, k] of Long");
    const auto kind = is_bf16 ? at::kBFloat16 : at::kFloat;
    *out = new Tensor(ids->is_cpu() ? EmbedMean::apply(*w, ids->contiguous(), kind)
                                    : composed_embed_mean(*w, *ids, kind));
  });
}

// sum_out = x + delta, y_out = RMSNorm of this sum times gain (fp32 [d]). Without delta (null),
// sum_out is not written.
int pm_add_rms_norm(const Tensor* x, const Tensor* delta, const Tensor* gain, double eps,
                    Tensor** sum_out, Tensor** y_out) {
  return patchmill::guard([&] {
    TORCH_CHECK(gain->dim() == 1 && x->size(-1) == gain->size(0), "x is ", x->sizes(), ", gain is ",
                gain->sizes());
    const auto more = delta ? std::optional<Tensor>(delta->contiguous()) : std::nullopt;
    const auto out = x->is_cpu() ? AddRmsNorm::apply(x->contiguous(), more, *gain, eps)
                                 : composed_add_rms_norm(*x, more, *gain, eps);
    if (delta) {
      *sum_out = new Tensor(out[0]);
    }
    *y_out = new Tensor(out.back());
  });
}

// out [.., f] = silu(gate) * up, from gate_up [.., 2 f].
int pm_swiglu(const Tensor* gate_up, Tensor** out) {
  return patchmill::guard([&] {
    if (gate_up->is_cpu()) {
      *out = new Tensor(SwiGlu::apply(gate_up->contiguous()));
    } else {
      const auto halves = gate_up->chunk(2, -1);
      *out = new Tensor(at::silu(halves[0]) * halves[1]);
    }
  });
}

// q_out [b, h, t, e], k_out and v_out [b, g, t, e] from qkv [b, t, (h + 2 g) e]; q and k are
// rotated by cos and sin [t, e / 2].
int pm_split_rotate(const Tensor* qkv, const Tensor* cos_te, const Tensor* sin_te, int64_t h,
                    int64_t g, int64_t e, Tensor** q_out, Tensor** k_out, Tensor** v_out) {
  return patchmill::guard([&] {
    TORCH_CHECK(qkv->dim() == 3 && qkv->size(2) == (h + 2 * g) * e &&
                    cos_te->size(0) == qkv->size(1) && cos_te->scalar_type() == qkv->scalar_type(),
                "qkv is ", qkv->sizes(), ", cos is ", cos_te->sizes());
    const auto out = qkv->is_cpu() ? SplitRotate::apply(qkv->contiguous(), cos_te->contiguous(),
                                                        sin_te->contiguous(), h, g, e)
                                   : composed_split_rotate(*qkv, *cos_te, *sin_te, h, g, e);
    *q_out = new Tensor(out[0]);
    *k_out = new Tensor(out[1]);
    *v_out = new Tensor(out[2]);
  });
}
}
