// Matrix products by the faster of the two libraries in libtorch for the CPU.
#pragma once

#include <ATen/core/Tensor.h>

namespace patchmill {

// out = a b: [n, i] and [i, o] to [n, o], or a batch of these in three dimensions. `out` is dense
// and is neither `a` nor `b`; nothing is recorded for a backward pass.
void multiply(const at::Tensor& a, const at::Tensor& b, at::Tensor& out);

// sum += a b, in two dimensions; otherwise as above.
void add_multiplied(at::Tensor& sum, const at::Tensor& a, const at::Tensor& b);

}  // namespace patchmill
