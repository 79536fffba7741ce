// Loops over rows for which libtorch would make several passes over memory. They use plain
// pointers, no libtorch: the file is compiled once for each level of the instruction set, and
// `kernels()` picks the level of this processor.
//
// Shapes: rows of `width` elements, row-major. A kernel works on rows [begin, end) and touches no
// other, so calls on disjoint ranges may run at once. Sums are in fp32 for every T.
#pragma once

#include <cstdint>

namespace patchmill {

struct Bf16 {
  uint16_t bits;
};

// Offset of element 0 of (batch, head, position), in elements; a head's elements are contiguous.
struct HeadStrides {
  int64_t batch, head, position;
};

// A key and value head of one window and the query heads sharing it, within rows that hold all
// heads side by side. Each pointer is to position 0; a query head starts `width` elements after the
// previous one.
template <class T>
struct AttentionHeads {
  const T *q, *k, *v;
  int64_t row;  // elements from one position to the next
  const T *cos, *sin;  // [positions, width / 2]: they rotate queries and keys
  int64_t positions, width, query_heads;
};

// The factors of an AdamW update, equal for all elements.
struct AdamWFactors {
  float clip;         // of the gradient
  float kept;         // 1 - rate * weight decay
  float beta1_rest;   // 1 - beta1
  float beta2, beta2_rest;
  float rate;         // divided by 1 - beta1^step
  float root;         // sqrt(1 - beta2^step)
  float eps;
};

template <class T>
struct Kernels {
  // sum = x + delta (delta may be null: then sum is not written), y = sum * rstd * gain, rstd = 1 /
  // sqrt(mean(sum^2) + eps).
  void (*add_rms_norm)(const T* x, const T* delta, const float* gain, T* sum, T* y, float* rstd,
                       int64_t begin, int64_t end, int64_t width, float eps);
  // grad_x = grad_sum (may be null) + the gradient through y; grad_gain [width] += the rows'
  // contribution.
  void (*add_rms_norm_grad)(const T* sum, const float* gain, const float* rstd, const T* grad_sum,
                            const T* grad_y, T* grad_x, float* grad_gain, int64_t begin,
                            int64_t end, int64_t width);
  // out [n, width] = silu(gate) * up, where gate_up is [n, 2 * width].
  void (*swiglu)(const T* gate_up, T* out, int64_t begin, int64_t end, int64_t width);
  void (*swiglu_grad)(const T* gate_up, const T* grad, T* grad_gate_up, int64_t begin, int64_t end,
                      int64_t width);
  // Copies heads of `head_width` elements from one layout to another. With `direction` 1 they are
  // rotated by cos and sin [positions, head_width / 2], with -1 rotated back; if cos is null they
  // stay unchanged. Row n is position n % positions of batch n / positions.
  void (*turn_heads)(const T* from, HeadStrides from_strides, T* to, HeadStrides to_strides,
                     const T* cos, const T* sin, float direction, int64_t begin, int64_t end,
                     int64_t positions, int64_t heads, int64_t head_width);
  // nll[row] = sum over the row's targets (without those that are `ignored`) of -log
  // softmax(logits)[target]. The logits become scale * d(sum of nll)/d(logits) unless `scale` is 0.
  // `scratch` holds `width` floats.
  void (*softmax_nll)(T* logits, const int64_t* targets, int64_t target_count, int64_t ignored,
                      float scale, float* nll, float* scratch, int64_t begin, int64_t end,
                      int64_t width);
  // out [n, width] = mean of the rows weight[ids[row][0..count]].
  void (*embed_mean)(const float* weight, const int64_t* ids, int64_t count, T* out, int64_t begin,
                     int64_t end, int64_t width);
  // grad_weight[id] += grad[row] / count for columns [begin, end) of all rows, in row order.
  void (*embed_mean_grad)(const T* grad, const int64_t* ids, int64_t count, float* grad_weight,
                          int64_t rows, int64_t width, int64_t begin, int64_t end);
  // sum[i] += x[i] for elements [begin, end).
  void (*add_to_fp32)(const T* x, float* sum, int64_t begin, int64_t end);
  // AdamW of elements [begin, end), with the gradient multiplied by `clip`.
  void (*adamw)(float* param, const float* grad, float* exp_avg, float* exp_avg_sq,
                const AdamWFactors& factors, int64_t begin, int64_t end);
  // The number of floats `attention` and `attention_grad` need as `scratch`, preferably aligned to
  // 64 bytes.
  int64_t (*attention_scratch)(int64_t positions, int64_t width);
  // Causal attention: out [position, query head, width], with rows `out_row` apart, and the
  // logarithm of each row's sum of exponentials, log_sum [query head, position].
  void (*attention)(const AttentionHeads<T>& heads, T* out, int64_t out_row, float* log_sum,
                    float* scratch);
  // grad_q, grad_k and grad_v are laid out like q, k and v.
  void (*attention_grad)(const AttentionHeads<T>& heads, const T* out, const T* grad_out,
                         int64_t out_row, const float* log_sum, T* grad_q, T* grad_k, T* grad_v,
                         float* scratch);
};

template <class T>
const Kernels<T>& kernels();

}  // namespace patchmill
