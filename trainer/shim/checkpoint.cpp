// Activation checkpointing: for a part of the forward pass only the inputs are kept, and the part
// is recomputed in the backward pass.
#include "error.h"

#include <ATen/core/grad_mode.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

extern "C" {

// Returns as many tensors as it was registered with, owned by the caller, from inputs owned by the
// caller. A result other than 0 is a failure, already reported to pm_set_last_error.
typedef int (*pm_body)(const void* context, const at::Tensor* const* inputs, size_t input_count,
                       at::Tensor** outputs);
}

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The checkpointed function. It is dropped with the last graph that may call it.
struct Body : torch::CustomClassHolder {
  pm_body call;
  void (*drop)(void*);
  void* context;
  size_t output_count;

  Body(pm_body call, void (*drop)(void*), void* context, size_t output_count)
      : call(call), drop(drop), context(context), output_count(output_count) {}
  ~Body() override { drop(context); }

  variable_list operator()(at::TensorList inputs) const {
    std::vector<const Tensor*> pointers;
    for (const auto& input : inputs) {
      pointers.push_back(&input);
    }
    std::vector<Tensor*> made(output_count, nullptr);
    variable_list outputs;
    outputs.reserve(output_count);
    TORCH_CHECK(call(context, pointers.data(), pointers.size(), made.data()) == 0,
                patchmill::last_error());
    for (auto* tensor : made) {
      outputs.push_back(*std::unique_ptr<Tensor>(tensor));
    }
    return outputs;
  }
};

struct Checkpoint : torch::autograd::Function<Checkpoint> {
  static variable_list forward(AutogradContext* context, const c10::intrusive_ptr<Body>& body,
                               at::TensorList inputs) {
    at::NoGradGuard no_grad;
    context->save_for_backward(inputs.vec());
    context->saved_data["body"] = at::IValue::make_capsule(body);
    context->set_materialize_grads(false);
    return (*body)(inputs);
  }

  // The inner pass adds the gradients of parameters, which the body holds, directly to them. An
  // output needed by nothing has no gradient, and is not a root of the inner pass.
  static variable_list backward(AutogradContext* context, variable_list grads) {
    variable_list inputs;
    for (const auto& saved : context->get_saved_variables()) {
      inputs.push_back(saved.detach().set_requires_grad(saved.requires_grad()));
    }
    const auto capsule = context->saved_data["body"].toCapsule();
    variable_list roots, root_grads;
    {
      at::AutoGradMode with_grad(true);
      auto outputs = static_cast<const Body&>(*capsule)(inputs);
      for (size_t i = 0; i < outputs.size(); ++i) {
        if (grads[i].defined() && outputs[i].requires_grad()) {
          roots.push_back(std::move(outputs[i]));
          root_grads.push_back(std::move(grads[i]));
        }
      }
    }
    if (!roots.empty()) {
      torch::autograd::backward(roots, root_grads);
    }
    variable_list input_grads = {Tensor()};  // none of the body
    for (const auto& input : inputs) {
      input_grads.push_back(input.grad());
    }
    return input_grads;
  }
};

}  // namespace

extern "C" {

// outputs_out = the outputs of `call` for the inputs, of which at least one requires a gradient. It
// is called once more in each backward pass, perhaps on one of libtorch's threads, never on two at
// a time. `drop` ends `context` when nothing can call it any more, also if this function fails.
int pm_checkpoint(pm_body call, void (*drop)(void*), void* context, const Tensor* const* inputs,
                  size_t input_count, Tensor** outputs_out, size_t output_count) {
  return patchmill::guard([&] {
    const auto body = c10::make_intrusive<Body>(call, drop, context, output_count);
    variable_list list;
    for (size_t i = 0; i < input_count; ++i) {
      list.push_back(*inputs[i]);
    }
    const auto outputs = Checkpoint::apply(body, at::TensorList(list));
    for (size_t i = 0; i < output_count; ++i) {
      outputs_out[i] = new Tensor(outputs[i]);
    }
  });
}
}
