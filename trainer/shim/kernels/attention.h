// Causal attention of kernels.h. Included within the anonymous namespace of a level of the
// instruction set, after math.h.
//
// Causal attention on a CPU is ours as well. libtorch's multiplies through MKL, which knows no bf16
// and not every maker's AVX-512, and copies heads apart and together again. Ours reads the rows
// written by the merged product and rotates queries and keys as it loads them. It multiplies each
// block of 48 queries with the keys visible to any of its rows, so little more than half of the
// products is computed. It writes the rows the next product reads. It keeps these rows and one
// number for each row. One thread handles a key and value head of a window, so never more threads
// work than there are of these. Generation with a cache, and a GPU, use libtorch's.
//
// In bf16, where the processor multiplies pairs of bf16 (AVX-512 BF16), queries, keys, values,
// weights and their gradients are rounded to it once each, and sums stay in fp32. This took 5 % off
// a step at 4,096 ids and 3 % at 32,000. Elsewhere all of attention is in fp32.
//
// Shapes: t positions, e width of a head, padded with zeros to whole vectors in scratch.

constexpr int64_t LANES = 16;
typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

// Two bf16 adjacent along the depth of a product, the first in the low half.
struct Pair {
  uint32_t bits;
};

// The type of a factor, its number of elements along the depth, and a vector of factors.
template <class T>
struct FactorOf {
  using Factor = float;
};
#if defined(__AVX512BF16__)
template <>
struct FactorOf<Bf16> {
  using Factor = Pair;
};
#endif
template <class F>
struct VectorOf {
  using Type = Vector;
};
template <>
struct VectorOf<Pair> {
  using Type = Bits;
};
template <class F>
constexpr int64_t FOLD = 1;
template <>
constexpr int64_t FOLD<Pair> = 2;

// Size of a product's tile: as large as fits the registers.
#if defined(__AVX512F__)
constexpr int TILE_ROWS = 6, TILE_VECTORS = 4;
#elif defined(__AVX__)
constexpr int TILE_ROWS = 6, TILE_VECTORS = 1;
#else
constexpr int TILE_ROWS = 2, TILE_VECTORS = 1;
#endif
// Queries per block: whole tiles.
constexpr int64_t BLOCK_ROWS = 48;
// Columns of a panel, which stores a right factor with its columns in sequence.
constexpr int64_t PANEL = 64;
// Rows of the right factor multiplied at a time: they stay in the first-level cache.
constexpr int64_t DEPTH = 96;

constexpr int64_t padded(int64_t length, int64_t unit) { return (length + unit - 1) / unit * unit; }

// A left factor: element (m, k) is at m * row + k * column. Depth, row and column are counted in
// factors.
template <class F>
struct Left {
  const F* data;
  int64_t row, column;
};

inline const Vector& vector_at(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void multiply_add(Vector& sum, float left, const Vector& right) { sum += left * right; }
#if defined(__AVX512BF16__)
inline const Bits& vector_at(const Pair* from) { return *reinterpret_cast<const Bits*>(from); }
inline void multiply_add(Vector& sum, Pair left, const Bits& right) {
  sum = Vector(
      _mm512_dpbf16_ps(__m512(sum), __m512bh(_mm512_set1_epi32(int(left.bits))), __m512bh(right)));
}
#endif

// c [ROWS, VECTORS * LANES] = a b, or += if `add`.
template <int ROWS, int VECTORS, class F>
inline void tile(int64_t depth, Left<F> a, const F* b, int64_t b_row, float* c, int64_t c_row,
                 bool add) {
  Vector sum[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) {
      sum[r][v] = add ? vector_at(c + r * c_row + v * LANES) : Vector{};
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    typename VectorOf<F>::Type right[VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) {
      right[v] = vector_at(b + k * b_row + v * LANES);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const F left = a.data[r * a.row + k * a.column];
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) {
        multiply_add(sum[r][v], left, right[v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) {
      *reinterpret_cast<Vector*>(c + r * c_row + v * LANES) = sum[r][v];
    }
  }
}

template <int ROWS, class F>
void tile_row(int64_t columns, int64_t depth, Left<F> a, const F* b, int64_t b_row, float* c,
              int64_t c_row, bool add) {
  constexpr int64_t WIDTH = TILE_VECTORS * LANES;
  int64_t j = 0;
  for (; j + WIDTH <= columns; j += WIDTH) {
    tile<ROWS, TILE_VECTORS>(depth, a, b + j, b_row, c + j, c_row, add);
  }
  for (; j < columns; j += LANES) {
    tile<ROWS, 1>(depth, a, b + j, b_row, c + j, c_row, add);
  }
}

// c [rows, columns] = a b, or += if `add`; columns are whole vectors.
template <class F>
void multiply(int64_t rows, int64_t columns, int64_t depth, Left<F> a, const F* b, int64_t b_row,
              float* c, int64_t c_row, bool add) {
  for (int64_t k = 0; k < depth; k += DEPTH) {
    const int64_t part = depth - k < DEPTH ? depth - k : DEPTH;
    const F* right = b + k * b_row;
    int64_t i = 0;
    for (; i + TILE_ROWS <= rows; i += TILE_ROWS) {
      const Left<F> left = {a.data + i * a.row + k * a.column, a.row, a.column};
      tile_row<TILE_ROWS>(columns, part, left, right, b_row, c + i * c_row, c_row, add || k > 0);
    }
    for (; i < rows; ++i) {
      const Left<F> left = {a.data + i * a.row + k * a.column, a.row, a.column};
      tile_row<1>(columns, part, left, right, b_row, c + i * c_row, c_row, add || k > 0);
    }
  }
}

// The same with b stored in panels.
template <class F>
void multiply_panels(int64_t rows, int64_t columns, int64_t depth, Left<F> a, const F* panels,
                     int64_t panel_rows, float* c, int64_t c_row) {
  for (int64_t j = 0; j < columns; j += PANEL) {
    const int64_t part = columns - j < PANEL ? columns - j : PANEL;
    multiply(rows, part, depth, a, panels + j * panel_rows, PANEL, c + j, c_row, false);
  }
}

// Loads rows of a head, `row` apart, into rows of `width` floats, times `scale`; rotated unless cos
// is null.
template <class T>
void load_rows(const T* from, int64_t row, const T* cos, const T* sin, float scale, int64_t rows,
               int64_t e, float* to, int64_t width) {
  const int64_t half = e / 2;
  for (int64_t r = 0; r < rows; ++r) {
    const T* x = from + r * row;
    float* y = to + r * width;
    if (cos) {
      const T *c = cos + r * half, *s = sin + r * half;
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const float a = load(x[i]) * scale, b = load(x[half + i]) * scale;
        y[i] = a * load(c[i]) - b * load(s[i]);
        y[half + i] = b * load(c[i]) + a * load(s[i]);
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < e; ++i) {
        y[i] = load(x[i]) * scale;
      }
    }
    for (int64_t i = e; i < width; ++i) {
      y[i] = 0;
    }
  }
}

// Stores rows of `width` floats, times `scale`; rotated back unless cos is null.
template <class T>
void store_rows(const float* from, int64_t width, const T* cos, const T* sin, float scale,
                int64_t rows, int64_t e, T* to, int64_t row) {
  const int64_t half = e / 2;
  for (int64_t r = 0; r < rows; ++r) {
    const float* x = from + r * width;
    T* y = to + r * row;
    if (cos) {
      const T *c = cos + r * half, *s = sin + r * half;
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const float a = x[i] * scale, b = x[half + i] * scale;
        store(y[i], a * load(c[i]) + b * load(s[i]));
        store(y[half + i], b * load(c[i]) - a * load(s[i]));
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < e; ++i) {
        store(y[i], x[i] * scale);
      }
    }
  }
}

// Transposes `rows` rows of `width` factors into panels of PANEL rows; columns beyond the last row
// are zero.
template <class F>
void transpose(const F* from, int64_t rows, int64_t width, F* panels) {
  for (int64_t first = 0; first < padded(rows, PANEL); first += PANEL) {
    F* panel = panels + first * width;
    const int64_t count = rows - first < PANEL ? rows - first : PANEL;
    for (int64_t i = 0; i < width; ++i) {
      for (int64_t j = 0; j < count; ++j) {
        panel[i * PANEL + j] = from[(first + j) * width + i];
      }
      for (int64_t j = count; j < PANEL; ++j) {
        panel[i * PANEL + j] = F{};
      }
    }
  }
}

// Converts rows of floats to factors with the depth along the rows: a left factor with rows `row` /
// FOLD apart. `room` holds the result if it is a copy. `columns` are whole vectors.
inline const float* along_rows(const float* rows, int64_t, int64_t, int64_t, float*) {
  return rows;
}
// The same with the depth across the rows: [rows / FOLD, row], a right factor, or a left one read
// by columns.
inline const float* across_rows(const float* rows, int64_t, int64_t, int64_t, float*) {
  return rows;
}

#if defined(__AVX512BF16__)
inline const Pair* along_rows(const float* rows, int64_t count, int64_t row, int64_t columns,
                              Pair* room) {
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t i = 0; i < columns; i += LANES) {
      const auto halves = _mm512_cvtneps_pbh(__m512(vector_at(rows + r * row + i)));
      __builtin_memcpy(room + (r * row + i) / 2, &halves, sizeof halves);
    }
  }
  return room;
}

inline const Pair* across_rows(const float* rows, int64_t count, int64_t row, int64_t columns,
                               Pair* room) {
  typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));
  const auto rounded = [](const float* from) {
    return __builtin_convertvector(Halves(_mm512_cvtneps_pbh(__m512(vector_at(from)))), Bits);
  };
  for (int64_t r = 0; r < count; r += 2) {
    const float *first = rows + r * row, *second = first + row;
    for (int64_t i = 0; i < columns; i += LANES) {
      const Bits high = r + 1 < count ? rounded(second + i) << 16 : Bits{};
      *reinterpret_cast<Bits*>(room + r / 2 * row + i) = rounded(first + i) | high;
    }
  }
  return room;
}
#endif

// Layout of scratch. Rooms are for pairs, and empty if factors are floats.
template <class F>
struct Scratch {
  int64_t width, columns, floats = 0;
  float *keys, *values, *grad_keys, *grad_values;  // [t, e]
  float *queries, *outs, *grad_queries;            // [BLOCK_ROWS, e]
  float *weights, *grad_weights;                   // [BLOCK_ROWS, t]
  F *keys_across, *values_across;                  // panels [e, t]
  F *key_room, *value_room;                        // [t, e]
  F *query_room, *query_across_room, *out_room, *out_across_room;      // [BLOCK_ROWS, e]
  F *weight_room, *grad_weight_room, *grad_weight_across_room;  // [BLOCK_ROWS, t]

  Scratch(float* from, int64_t t, int64_t e) : width(padded(e, LANES)), columns(padded(t, PANEL)) {
    const auto take = [&](int64_t elements) {
      float* part = from ? from + floats : nullptr;
      floats += elements;
      return part;
    };
    const auto take_factors = [&](int64_t elements) {
      return reinterpret_cast<F*>(take(elements / FOLD<F>));
    };
    const int64_t all = columns * width, of_block = BLOCK_ROWS * width,
                  of_weights = BLOCK_ROWS * columns;
    keys = take(all);
    values = take(all);
    grad_keys = take(all);
    grad_values = take(all);
    queries = take(of_block);
    outs = take(of_block);
    grad_queries = take(of_block);
    weights = take(of_weights);
    grad_weights = take(of_weights);
    keys_across = take_factors(all);
    values_across = take_factors(all);
    const int64_t folded = FOLD<F> > 1 ? 1 : 0;
    key_room = take_factors(folded * all);
    value_room = take_factors(folded * all);
    query_room = take_factors(folded * of_block);
    query_across_room = take_factors(folded * of_block);
    out_room = take_factors(folded * of_block);
    out_across_room = take_factors(folded * of_block);
    weight_room = take_factors(folded * of_weights);
    grad_weight_room = take_factors(folded * of_weights);
    grad_weight_across_room = take_factors(folded * of_weights);
  }
};

template <class T>
int64_t attention_scratch(int64_t t, int64_t e) {
  return Scratch<typename FactorOf<T>::Factor>(nullptr, t, e).floats;
}

// Turns scores of the queries from `first` on into weights that sum to 1, with 0 for keys hidden
// from a query, in `columns` columns.
void softmax_rows(float* scores, int64_t row, int64_t first, int64_t rows, int64_t columns,
                  float* log_sum) {
  for (int64_t r = 0; r < rows; ++r) {
    float* s = scores + r * row;
    const int64_t seen = first + r + 1;
    float largest = s[0];
#pragma omp simd reduction(max : largest)
    for (int64_t j = 0; j < seen; ++j) {
      largest = s[j] > largest ? s[j] : largest;
    }
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < seen; ++j) {
      s[j] = exponential(s[j] - largest);
      sum += s[j];
    }
    const float share = 1.0f / sum;
#pragma omp simd
    for (int64_t j = 0; j < seen; ++j) {
      s[j] *= share;
    }
    for (int64_t j = seen; j < columns; ++j) {
      s[j] = 0;
    }
    log_sum[r] = largest + __builtin_logf(sum);
  }
}

template <class T>
void attention(const AttentionHeads<T>& heads, T* out, int64_t out_row, float* log_sum,
               float* scratch) {
  using F = typename FactorOf<T>::Factor;
  constexpr int64_t fold = FOLD<F>;
  const int64_t t = heads.positions, e = heads.width;
  const float scale = 1.0f / __builtin_sqrtf(float(e));
  const Scratch<F> at(scratch, t, e);
  const int64_t width = at.width;
  load_rows(heads.k, heads.row, heads.cos, heads.sin, 1.0f, t, e, at.keys, width);
  transpose(along_rows(at.keys, t, width, width, at.key_room), t, width / fold, at.keys_across);
  load_rows(heads.v, heads.row, static_cast<const T*>(nullptr), heads.sin, 1.0f, t, e, at.values,
            width);
  const F* values = across_rows(at.values, t, width, width, at.value_room);
  for (int64_t head = 0; head < heads.query_heads; ++head) {
    for (int64_t first = 0; first < t; first += BLOCK_ROWS) {
      const int64_t rows = t - first < BLOCK_ROWS ? t - first : BLOCK_ROWS;
      const int64_t seen = first + rows, columns = padded(seen, LANES);
      const T *cos = heads.cos + first * (e / 2), *sin = heads.sin + first * (e / 2);
      load_rows(heads.q + head * e + first * heads.row, heads.row, cos, sin, scale, rows, e,
                at.queries, width);
      const F* queries = along_rows(at.queries, rows, width, width, at.query_room);
      multiply_panels<F>(rows, columns, padded(e, fold) / fold, {queries, width / fold, 1},
                         at.keys_across, width / fold, at.weights, at.columns);
      softmax_rows(at.weights, at.columns, first, rows, columns, log_sum + head * t + first);
      const F* weights = along_rows(at.weights, rows, at.columns, columns, at.weight_room);
      multiply<F>(rows, width, padded(seen, fold) / fold, {weights, at.columns / fold, 1}, values,
                  width, at.outs, width, false);
      store_rows(at.outs, width, static_cast<const T*>(nullptr), sin, 1.0f, rows, e,
                 out + head * e + first * out_row, out_row);
    }
  }
}

// Recomputes weights from scores and the logarithms of their sums; grad_weights become the gradient
// of the scores.
void softmax_rows_grad(float* weights, float* grad_weights, int64_t row, int64_t first,
                       int64_t rows, int64_t columns, const float* log_sum, const float* dots) {
  for (int64_t r = 0; r < rows; ++r) {
    float *w = weights + r * row, *g = grad_weights + r * row;
    const int64_t seen = first + r + 1;
    const float shift = log_sum[r], dot = dots[r];
#pragma omp simd
    for (int64_t j = 0; j < seen; ++j) {
      w[j] = exponential(w[j] - shift);
      g[j] = w[j] * (g[j] - dot);
    }
    for (int64_t j = seen; j < columns; ++j) {
      w[j] = 0;
      g[j] = 0;
    }
  }
}

// The gradients of one block of queries; those of keys and values are accumulated.
template <class T, class F>
void block_grad(const AttentionHeads<T>& heads, const Scratch<F>& at, const F* keys, int64_t first,
                int64_t rows, const float* log_sum, const float* dots) {
  constexpr int64_t fold = FOLD<F>;
  const int64_t width = at.width, seen = first + rows, columns = padded(seen, LANES);
  const int64_t e_factors = padded(heads.width, fold) / fold,
                row_factors = padded(rows, fold) / fold;
  const F* queries = along_rows(at.queries, rows, width, width, at.query_room);
  const F* outs = along_rows(at.outs, rows, width, width, at.out_room);
  multiply_panels<F>(rows, columns, e_factors, {queries, width / fold, 1}, at.keys_across,
                     width / fold, at.weights, at.columns);
  multiply_panels<F>(rows, columns, e_factors, {outs, width / fold, 1}, at.values_across,
                     width / fold, at.grad_weights, at.columns);
  softmax_rows_grad(at.weights, at.grad_weights, at.columns, first, rows, columns, log_sum, dots);
  const F* grads = along_rows(at.grad_weights, rows, at.columns, columns, at.grad_weight_room);
  multiply<F>(rows, width, padded(seen, fold) / fold, {grads, at.columns / fold, 1}, keys, width,
              at.grad_queries, width, false);
  const F* grads_across =
      across_rows(at.grad_weights, rows, at.columns, columns, at.grad_weight_across_room);
  multiply<F>(seen, width, row_factors, {grads_across, 1, at.columns},
              across_rows(at.queries, rows, width, width, at.query_across_room), width,
              at.grad_keys, width, true);
  const F* weights_across = across_rows(at.weights, rows, at.columns, columns, at.weight_room);
  multiply<F>(seen, width, row_factors, {weights_across, 1, at.columns},
              across_rows(at.outs, rows, width, width, at.out_across_room), width, at.grad_values,
              width, true);
}

template <class T>
void attention_grad(const AttentionHeads<T>& heads, const T* out, const T* grad_out,
                    int64_t out_row, const float* log_sum, T* grad_q, T* grad_k, T* grad_v,
                    float* scratch) {
  using F = typename FactorOf<T>::Factor;
  constexpr int64_t fold = FOLD<F>;
  const int64_t t = heads.positions, e = heads.width;
  const float scale = 1.0f / __builtin_sqrtf(float(e));
  const auto* as_it_is = static_cast<const T*>(nullptr);
  const Scratch<F> at(scratch, t, e);
  const int64_t width = at.width;
  load_rows(heads.k, heads.row, heads.cos, heads.sin, 1.0f, t, e, at.keys, width);
  transpose(along_rows(at.keys, t, width, width, at.key_room), t, width / fold, at.keys_across);
  const F* keys = across_rows(at.keys, t, width, width, at.key_room);
  load_rows(heads.v, heads.row, as_it_is, as_it_is, 1.0f, t, e, at.values, width);
  transpose(along_rows(at.values, t, width, width, at.value_room), t, width / fold,
            at.values_across);
  for (int64_t i = 0; i < at.columns * width; ++i) {
    at.grad_keys[i] = 0;
    at.grad_values[i] = 0;
  }
  for (int64_t head = 0; head < heads.query_heads; ++head) {
    for (int64_t first = 0; first < t; first += BLOCK_ROWS) {
      const int64_t rows = t - first < BLOCK_ROWS ? t - first : BLOCK_ROWS;
      const T *cos = heads.cos + first * (e / 2), *sin = heads.sin + first * (e / 2);
      const int64_t in = head * e + first * heads.row, from = head * e + first * out_row;
      load_rows(heads.q + in, heads.row, cos, sin, scale, rows, e, at.queries, width);
      load_rows(grad_out + from, out_row, as_it_is, as_it_is, 1.0f, rows, e, at.outs, width);
      float dots[BLOCK_ROWS];
      for (int64_t r = 0; r < rows; ++r) {
        float dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < e; ++i) {
          dot += at.outs[r * width + i] * load(out[from + r * out_row + i]);
        }
        dots[r] = dot;
      }
      block_grad(heads, at, keys, first, rows, log_sum + head * t + first, dots);
      store_rows(at.grad_queries, width, cos, sin, scale, rows, e, grad_q + in, heads.row);
    }
  }
  store_rows(at.grad_keys, width, heads.cos, heads.sin, 1.0f, t, e, grad_k, heads.row);
  store_rows(at.grad_values, width, as_it_is, as_it_is, 1.0f, t, e, grad_v, heads.row);
}
