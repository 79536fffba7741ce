// Causal attention on the CPU by the kernels of kernels.h, from merged rows to merged rows: heads
// are never copied apart.
//
// Shapes: b windows, t positions, h query heads, g key and value heads, e width of a head.
#include "error.h"
#include "kernels/kernels.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdint>

namespace {

using at::Tensor;
using patchmill::AttentionHeads;
using patchmill::Bf16;
using patchmill::kernels;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Sizes {
  int64_t b, t, h, g, e;

  int64_t row() const { return (h + 2 * g) * e; }
};

template <class T>
T* at_window(const Tensor& rows, int64_t window) {
  return static_cast<T*>(rows.data_ptr()) + window * rows.size(1) * rows.size(2);
}

template <class T>
AttentionHeads<T> heads_of(const Sizes& sizes, const T* window, int64_t group, const Tensor& cos,
                           const Tensor& sin) {
  const auto [b, t, h, g, e] = sizes;
  return {window + group * (h / g) * e,
          window + (h + group) * e,
          window + (h + g + group) * e,
          sizes.row(),
          static_cast<const T*>(cos.data_ptr()),
          static_cast<const T*>(sin.data_ptr()),
          t,
          e,
          h / g};
}

// Calls body(window, group, scratch) for each key and value head of each window, on all threads.
template <class T, class Body>
void over_groups(const Sizes& sizes, Body body) {
  const auto floats = kernels<T>().attention_scratch(sizes.t, sizes.e);
  at::parallel_for(0, sizes.b * sizes.g, 1, [&](int64_t begin, int64_t end) {
    const Tensor scratch = at::empty({floats}, at::TensorOptions().dtype(at::kFloat));
    for (int64_t i = begin; i < end; ++i) {
      body(i / sizes.g, i % sizes.g, static_cast<float*>(scratch.data_ptr()));
    }
  });
}

template <class T>
void forward_of(const Sizes& sizes, const Tensor& qkv, const Tensor& cos, const Tensor& sin,
                Tensor& out, Tensor& log_sum) {
  const auto [b, t, h, g, e] = sizes;
  over_groups<T>(sizes, [&](int64_t window, int64_t group, float* scratch) {
    const auto heads = heads_of<T>(sizes, at_window<T>(qkv, window), group, cos, sin);
    const auto head = group * heads.query_heads;
    kernels<T>().attention(heads, at_window<T>(out, window) + head * heads.width, h * e,
                           log_sum.data_ptr<float>() + (window * h + head) * t, scratch);
  });
}

template <class T>
void backward_of(const Sizes& sizes, const variable_list& saved, const Tensor& grad_out,
                 Tensor& grad_qkv) {
  const auto &qkv = saved[0], &cos = saved[1], &sin = saved[2], &out = saved[3],
             &log_sum = saved[4];
  const auto [b, t, h, g, e] = sizes;
  over_groups<T>(sizes, [&](int64_t window, int64_t group, float* scratch) {
    const auto heads = heads_of<T>(sizes, at_window<T>(qkv, window), group, cos, sin);
    const auto head = group * heads.query_heads;
    auto* grads = at_window<T>(grad_qkv, window);
    kernels<T>().attention_grad(
        heads, at_window<T>(out, window) + head * e, at_window<T>(grad_out, window) + head * e,
        h * e, log_sum.data_ptr<float>() + (window * h + head) * t, grads + head * e,
        grads + (h + group) * e, grads + (h + g + group) * e, scratch);
  });
}

struct Attention : torch::autograd::Function<Attention> {
  static Tensor forward(AutogradContext* context, const Tensor& qkv, const Tensor& cos,
                        const Tensor& sin, int64_t h, int64_t g, int64_t e) {
    at::NoGradGuard no_grad;
    const Sizes sizes = {qkv.size(0), qkv.size(1), h, g, e};
    auto out = at::empty({sizes.b, sizes.t, h * e}, qkv.options());
    auto log_sum = at::empty({sizes.b, h, sizes.t}, qkv.options().dtype(at::kFloat));
    qkv.scalar_type() == at::kFloat ? forward_of<float>(sizes, qkv, cos, sin, out, log_sum)
                                    : forward_of<Bf16>(sizes, qkv, cos, sin, out, log_sum);
    context->save_for_backward({qkv, cos, sin, out, log_sum});
    context->saved_data["h"] = h;
    context->saved_data["g"] = g;
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::NoGradGuard no_grad;
    const auto saved = context->get_saved_variables();
    const auto& qkv = saved[0];
    const auto h = context->saved_data["h"].toInt(), g = context->saved_data["g"].toInt();
    const Sizes sizes = {qkv.size(0), qkv.size(1), h, g, qkv.size(2) / (h + 2 * g)};
    const auto grad_out = grads[0].contiguous();
    auto grad_qkv = at::empty_like(qkv);
    qkv.scalar_type() == at::kFloat ? backward_of<float>(sizes, saved, grad_out, grad_qkv)
                                    : backward_of<Bf16>(sizes, saved, grad_out, grad_qkv);
    return {grad_qkv, Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

extern "C" {

// Scratch bytes a thread needs besides its result, forward and backward.
int64_t pm_attention_scratch_bytes(int64_t t, int64_t e, int is_bf16) {
  const auto floats =
      is_bf16 ? kernels<Bf16>().attention_scratch(t, e) : kernels<float>().attention_scratch(t, e);
  return int64_t(sizeof(float)) * floats;
}

// out [b, t, h e] = causal attention of the heads in qkv [b, t, (h + 2 g) e], on the CPU; queries
// and keys are rotated by cos and sin [t, e / 2].
int pm_attention(const Tensor* qkv, const Tensor* cos, const Tensor* sin, int64_t h, int64_t g,
                 int64_t e, Tensor** out) {
  return patchmill::guard([&] {
    TORCH_CHECK(qkv->is_cpu() && qkv->dim() == 3 && 0 < g && h % g == 0 && e % 2 == 0 &&
                    qkv->size(2) == (h + 2 * g) * e,
                "qkv is ", qkv->sizes(), " on ", qkv->device(),
                "; expected [b, t, (h + 2 g) e] on the CPU");
    TORCH_CHECK(qkv->scalar_type() == at::kFloat || qkv->scalar_type() == at::kBFloat16,
                "no kernel for ", qkv->scalar_type());
    for (const auto* table : {cos, sin}) {
      TORCH_CHECK(table->dim() == 2 && table->size(0) == qkv->size(1) && table->size(1) == e / 2 &&
                      table->scalar_type() == qkv->scalar_type(),
                  "a rotary table is ", table->sizes(), " of ", table->scalar_type());
    }
    *out = new Tensor(
        Attention::apply(qkv->contiguous(), cos->contiguous(), sin->contiguous(), h, g, e));
  });
}
}
