// Products of matrices by the faster of the two libraries that libtorch brings for the CPU.
#pragma once

#include <ATen/core/Tensor.h>

namespace patchmill {

// out = a b: [n, i] and [i, o] to [n, o], or of as many as the first of three dimensions says.
// `out` lies densely and is neither of them; nothing is recorded for a backward pass.
void multiply(const at::Tensor& a, const at::Tensor& b, at::Tensor& out);

// sum += a b, of two dimensions; the rest as above.
void add_multiplied(at::Tensor& sum, const at::Tensor& a, const at::Tensor& b);

}  // namespace patchmill
