// The loops of kernels.h, for one level of the instruction set, named by PATCHMILL_LEVEL.
//
// On a CPU, operations bound by memory traffic are ours: residual sum with RMSNorm, SwiGLU, patch
// embedding, softmax with loss, AdamW with clipping. Each is one pass, compiled for four levels of
// the instruction set and chosen at start; fused.cpp makes them differentiable. On a GPU the same
// functions are composed of libtorch's operations. Sums are in fp32, and their order does not
// depend on the number of threads.
//
// No header with inline functions is included outside the anonymous namespace: their copies,
// compiled for this level, could be linked into code for other processors.
#include "kernels.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>  // always inlined
#endif

#define PATCHMILL_JOIN_(a, b) a##b
#define PATCHMILL_JOIN(a, b) PATCHMILL_JOIN_(a, b)

namespace patchmill {
namespace PATCHMILL_LEVEL {
namespace {

#include "math.h"

#include "attention.h"

template <class T>
void add_rms_norm(const T* x, const T* delta, const float* gain, T* sum, T* y, float* rstd,
                  int64_t begin, int64_t end, int64_t width, float eps) {
  for (int64_t row = begin; row < end; ++row) {
    const T* values = x + row * width;
    float squares = 0;
    if (delta) {
      const T* more = delta + row * width;
      T* total = sum + row * width;
#pragma omp simd reduction(+ : squares)
      for (int64_t i = 0; i < width; ++i) {
        store(total[i], load(values[i]) + load(more[i]));
        const float value = load(total[i]);
        squares += value * value;
      }
      values = total;
    } else {
#pragma omp simd reduction(+ : squares)
      for (int64_t i = 0; i < width; ++i) {
        squares += load(values[i]) * load(values[i]);
      }
    }
    const float scale = 1.0f / __builtin_sqrtf(squares / float(width) + eps);
    rstd[row] = scale;
    T* out = y + row * width;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      store(out[i], load(values[i]) * scale * gain[i]);
    }
  }
}

template <class T>
void add_rms_norm_grad(const T* sum, const float* gain, const float* rstd, const T* grad_sum,
                       const T* grad_y, T* grad_x, float* grad_gain, int64_t begin, int64_t end,
                       int64_t width) {
  for (int64_t row = begin; row < end; ++row) {
    const T* values = sum + row * width;
    const T* grad = grad_y + row * width;
    const float scale = rstd[row];
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < width; ++i) {
      const float through = load(grad[i]) * load(values[i]);
      dot += through * gain[i];
      grad_gain[i] += through * scale;
    }
    const float back = dot * scale * scale * scale / float(width);
    T* out = grad_x + row * width;
    if (grad_sum) {
      const T* straight = grad_sum + row * width;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        store(out[i], load(straight[i]) + load(grad[i]) * gain[i] * scale - load(values[i]) * back);
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        store(out[i], load(grad[i]) * gain[i] * scale - load(values[i]) * back);
      }
    }
  }
}

template <class T>
void swiglu(const T* gate_up, T* out, int64_t begin, int64_t end, int64_t width) {
  for (int64_t row = begin; row < end; ++row) {
    const T* gate = gate_up + row * 2 * width;
    const T* up = gate + width;
    T* to = out + row * width;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      const float g = load(gate[i]);
      store(to[i], g / (1.0f + exponential(-g)) * load(up[i]));
    }
  }
}

template <class T>
void swiglu_grad(const T* gate_up, const T* grad, T* grad_gate_up, int64_t begin, int64_t end,
                 int64_t width) {
  for (int64_t row = begin; row < end; ++row) {
    const T* gate = gate_up + row * 2 * width;
    const T* up = gate + width;
    const T* from = grad + row * width;
    T* to_gate = grad_gate_up + row * 2 * width;
    T* to_up = to_gate + width;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      const float g = load(gate[i]);
      const float sigmoid = 1.0f / (1.0f + exponential(-g));
      const float d = load(from[i]);
      store(to_gate[i], d * load(up[i]) * sigmoid * (1.0f + g * (1.0f - sigmoid)));
      store(to_up[i], d * g * sigmoid);
    }
  }
}

template <class T>
void turn_heads(const T* from, HeadStrides from_strides, T* to, HeadStrides to_strides,
                const T* cos, const T* sin, float direction, int64_t begin, int64_t end,
                int64_t positions, int64_t heads, int64_t head_width) {
  const int64_t half = head_width / 2;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t batch = row / positions, position = row % positions;
    for (int64_t head = 0; head < heads; ++head) {
      const auto place = [&](HeadStrides strides) {
        return batch * strides.batch + head * strides.head + position * strides.position;
      };
      const T* source = from + place(from_strides);
      T* target = to + place(to_strides);
      if (!cos) {
        __builtin_memcpy(target, source, head_width * sizeof(T));
        continue;
      }
      const T* c = cos + position * half;
      const T* s = sin + position * half;
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const float low = load(source[i]), high = load(source[half + i]),
                    turn = direction * load(s[i]);
        store(target[i], low * load(c[i]) - high * turn);
        store(target[half + i], high * load(c[i]) + low * turn);
      }
    }
  }
}

template <class T>
void softmax_nll(T* logits, const int64_t* targets, int64_t target_count, int64_t ignored,
                 float scale, float* nll, float* scratch, int64_t begin, int64_t end,
                 int64_t width) {
  for (int64_t row = begin; row < end; ++row) {
    T* values = logits + row * width;
    const int64_t* wanted = targets + row * target_count;
    float largest = -__builtin_huge_valf();
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < width; ++i) {
      const float value = load(values[i]);
      largest = value > largest ? value : largest;
    }
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; ++i) {
      scratch[i] = exponential(load(values[i]) - largest);
      sum += scratch[i];
    }
    const float log_sum = largest + __builtin_logf(sum);
    float total = 0;
    int64_t counted = 0;
    for (int64_t k = 0; k < target_count; ++k) {
      if (wanted[k] != ignored) {
        total += log_sum - load(values[wanted[k]]);
        ++counted;
      }
    }
    nll[row] = total;
    if (scale == 0) {
      continue;
    }
    const float softmax_scale = float(counted) * scale / sum;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      scratch[i] *= softmax_scale;
    }
    for (int64_t k = 0; k < target_count; ++k) {
      if (wanted[k] != ignored) {
        scratch[wanted[k]] -= scale;
      }
    }
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      store(values[i], scratch[i]);
    }
  }
}

template <class T>
void embed_mean(const float* weight, const int64_t* ids, int64_t count, T* out, int64_t begin,
                int64_t end, int64_t width) {
  const float share = 1.0f / float(count);
  for (int64_t row = begin; row < end; ++row) {
    T* to = out + row * width;
    const int64_t* from = ids + row * count;
    for (int64_t first = 0; first < width; first += 64) {
      const int64_t part = width - first < 64 ? width - first : 64;
      float sum[64] = {};
      for (int64_t k = 0; k < count; ++k) {
        const float* row_weight = weight + from[k] * width + first;
#pragma omp simd
        for (int64_t i = 0; i < part; ++i) {
          sum[i] += row_weight[i];
        }
      }
#pragma omp simd
      for (int64_t i = 0; i < part; ++i) {
        store(to[first + i], sum[i] * share);
      }
    }
  }
}

template <class T>
void embed_mean_grad(const T* grad, const int64_t* ids, int64_t count, float* grad_weight,
                     int64_t rows, int64_t width, int64_t begin, int64_t end) {
  const float share = 1.0f / float(count);
  for (int64_t row = 0; row < rows; ++row) {
    const T* from = grad + row * width;
    for (int64_t k = 0; k < count; ++k) {
      float* to = grad_weight + ids[row * count + k] * width;
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        to[i] += load(from[i]) * share;
      }
    }
  }
}

template <class T>
void add_to_fp32(const T* x, float* sum, int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    sum[i] += load(x[i]);
  }
}

void adamw(float* param, const float* grad, float* exp_avg, float* exp_avg_sq,
           const AdamWFactors& factors, int64_t begin, int64_t end) {
  const auto [clip, kept, beta1_rest, beta2, beta2_rest, rate, root, eps] = factors;
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    const float g = grad[i] * clip;
    const float m = exp_avg[i] + (g - exp_avg[i]) * beta1_rest;
    const float v = exp_avg_sq[i] * beta2 + g * g * beta2_rest;
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    param[i] = param[i] * kept - rate * m / (__builtin_sqrtf(v) / root + eps);
  }
}

template <class T>
constexpr Kernels<T> table() {
  return {
      add_rms_norm<T>,      add_rms_norm_grad<T>, swiglu<T>,          swiglu_grad<T>, turn_heads<T>,
      softmax_nll<T>,       embed_mean<T>,        embed_mean_grad<T>, add_to_fp32<T>, adamw,
      attention_scratch<T>, attention<T>,         attention_grad<T>};
}

}  // namespace

extern const Kernels<float> fp32;
extern const Kernels<Bf16> bf16;
const Kernels<float> fp32 = table<float>();
const Kernels<Bf16> bf16 = table<Bf16>();

}  // namespace PATCHMILL_LEVEL
}  // namespace patchmill
