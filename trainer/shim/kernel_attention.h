// Causal attention of kernels.h, in fp32 whatever T is. Included within the anonymous namespace of a level of the instruction
// set, behind kernel_math.h.
//
// Queries are taken in blocks of rows: a block is multiplied with the keys that any of its rows may see, so that little more
// than half of the products is made. Shapes: t positions, e width of a head, which scratch pads with zeros to whole vectors.

constexpr int64_t LANES = 16;
typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

// A tile of a product is as large as registers hold.
#if defined(__AVX512F__)
constexpr int TILE_ROWS = 6, TILE_VECTORS = 4;
#elif defined(__AVX__)
constexpr int TILE_ROWS = 6, TILE_VECTORS = 1;
#else
constexpr int TILE_ROWS = 2, TILE_VECTORS = 1;
#endif
// Queries of a block: whole tiles.
constexpr int64_t BLOCK_ROWS = 48;
// Columns of a panel, in which what is multiplied from the right by its columns lies one after the other.
constexpr int64_t PANEL = 64;
// Rows of the right factor that are multiplied at a time: they stay in the first cache.
constexpr int64_t DEPTH = 96;

constexpr int64_t padded(int64_t length, int64_t unit) { return (length + unit - 1) / unit * unit; }

// A left factor: element (m, k) lies at m * row + k * column.
struct Left {
  const float* data;
  int64_t row, column;
};

// c [ROWS, VECTORS * LANES] = a b, or += where `add`.
template <int ROWS, int VECTORS>
inline void tile(int64_t depth, Left a, const float* b, int64_t b_row, float* c, int64_t c_row, bool add) {
  Vector sum[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) {
      sum[r][v] = add ? *reinterpret_cast<const Vector*>(c + r * c_row + v * LANES) : Vector{};
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vector right[VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) {
      right[v] = *reinterpret_cast<const Vector*>(b + k * b_row + v * LANES);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const float left = a.data[r * a.row + k * a.column];
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) {
        sum[r][v] += left * right[v];
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

template <int ROWS>
void tile_row(int64_t columns, int64_t depth, Left a, const float* b, int64_t b_row, float* c, int64_t c_row, bool add) {
  constexpr int64_t WIDTH = TILE_VECTORS * LANES;
  int64_t j = 0;
  for (; j + WIDTH <= columns; j += WIDTH) {
    tile<ROWS, TILE_VECTORS>(depth, a, b + j, b_row, c + j, c_row, add);
  }
  for (; j < columns; j += LANES) {
    tile<ROWS, 1>(depth, a, b + j, b_row, c + j, c_row, add);
  }
}

// c [rows, columns] = a b, or += where `add`; columns are whole vectors.
void multiply(int64_t rows, int64_t columns, int64_t depth, Left a, const float* b, int64_t b_row, float* c, int64_t c_row,
              bool add) {
  for (int64_t k = 0; k < depth; k += DEPTH) {
    const int64_t part = depth - k < DEPTH ? depth - k : DEPTH;
    const float* right = b + k * b_row;
    int64_t i = 0;
    for (; i + TILE_ROWS <= rows; i += TILE_ROWS) {
      const Left left = {a.data + i * a.row + k * a.column, a.row, a.column};
      tile_row<TILE_ROWS>(columns, part, left, right, b_row, c + i * c_row, c_row, add || k > 0);
    }
    for (; i < rows; ++i) {
      const Left left = {a.data + i * a.row + k * a.column, a.row, a.column};
      tile_row<1>(columns, part, left, right, b_row, c + i * c_row, c_row, add || k > 0);
    }
  }
}

// The same with b in panels.
void multiply_panels(int64_t rows, int64_t columns, int64_t depth, Left a, const float* panels, int64_t panel_rows, float* c,
                     int64_t c_row) {
  for (int64_t j = 0; j < columns; j += PANEL) {
    const int64_t part = columns - j < PANEL ? columns - j : PANEL;
    multiply(rows, part, depth, a, panels + j * panel_rows, PANEL, c + j, c_row, false);
  }
}

// Rows of a head, `row` apart, to rows of `width` floats: turned where cos is not null, times `scale`.
template <class T>
void load_rows(const T* from, int64_t row, const T* cos, const T* sin, float scale, int64_t rows, int64_t e, float* to,
               int64_t width) {
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

// And back: rows of `width` floats times `scale`, turned back where cos is not null.
template <class T>
void store_rows(const float* from, int64_t width, const T* cos, const T* sin, float scale, int64_t rows, int64_t e, T* to,
                int64_t row) {
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

// The transpose of rows, in panels of `width` rows; columns beyond the last row are zero.
void transpose(const float* from, int64_t rows, int64_t width, float* panels) {
  for (int64_t first = 0; first < padded(rows, PANEL); first += PANEL) {
    float* panel = panels + first * width;
    const int64_t count = rows - first < PANEL ? rows - first : PANEL;
    for (int64_t i = 0; i < width; ++i) {
      for (int64_t j = 0; j < count; ++j) {
        panel[i * PANEL + j] = from[(first + j) * width + i];
      }
      for (int64_t j = count; j < PANEL; ++j) {
        panel[i * PANEL + j] = 0;
      }
    }
  }
}

// Where each part of scratch lies.
struct Scratch {
  int64_t width, columns;
  float *keys, *keys_across, *values, *values_across, *grad_keys, *grad_values;  // [t, e] or panels [e, t]
  float *queries, *outs, *grad_queries;                                          // [BLOCK_ROWS, e]
  float *weights, *grad_weights;                                                 // [BLOCK_ROWS, t]

  Scratch(float* from, int64_t t, int64_t e) : width(padded(e, LANES)), columns(padded(t, PANEL)) {
    float** const all_positions[] = {&keys, &keys_across, &values, &values_across, &grad_keys, &grad_values};
    float** const of_a_block[] = {&queries, &outs, &grad_queries};
    for (float** part : all_positions) {
      *part = from;
      from += columns * width;
    }
    for (float** part : of_a_block) {
      *part = from;
      from += BLOCK_ROWS * width;
    }
    weights = from;
    grad_weights = weights + BLOCK_ROWS * columns;
  }
};

int64_t attention_scratch(int64_t t, int64_t e) {
  const int64_t width = padded(e, LANES), columns = padded(t, PANEL);
  return 6 * columns * width + 3 * BLOCK_ROWS * width + 2 * BLOCK_ROWS * columns;
}

// scores of the queries from `first` on become weights that add up to 1, 0 for keys that a query may not see, in `columns`
// columns.
void softmax_rows(float* scores, int64_t row, int64_t first, int64_t rows, int64_t columns, float* log_sum) {
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
void attention(const AttentionHeads<T>& heads, T* out, int64_t out_row, float* log_sum, float* scratch) {
  const int64_t t = heads.positions, e = heads.width;
  const float scale = 1.0f / __builtin_sqrtf(float(e));
  const Scratch at(scratch, t, e);
  load_rows(heads.k, heads.row, heads.cos, heads.sin, 1.0f, t, e, at.keys, at.width);
  transpose(at.keys, t, at.width, at.keys_across);
  load_rows(heads.v, heads.row, static_cast<const T*>(nullptr), heads.sin, 1.0f, t, e, at.values, at.width);
  for (int64_t head = 0; head < heads.query_heads; ++head) {
    for (int64_t first = 0; first < t; first += BLOCK_ROWS) {
      const int64_t rows = t - first < BLOCK_ROWS ? t - first : BLOCK_ROWS;
      const int64_t seen = first + rows, columns = padded(seen, LANES);
      const T *cos = heads.cos + first * (e / 2), *sin = heads.sin + first * (e / 2);
      load_rows(heads.q + head * e + first * heads.row, heads.row, cos, sin, scale, rows, e, at.queries, at.width);
      multiply_panels(rows, columns, e, {at.queries, at.width, 1}, at.keys_across, at.width, at.weights, at.columns);
      softmax_rows(at.weights, at.columns, first, rows, columns, log_sum + head * t + first);
      multiply(rows, at.width, seen, {at.weights, at.columns, 1}, at.values, at.width, at.outs, at.width, false);
      store_rows(at.outs, at.width, static_cast<const T*>(nullptr), sin, 1.0f, rows, e, out + head * e + first * out_row,
                 out_row);
    }
  }
}

// weights again, from scores and the logarithms of their sums; grad_weights become the gradient of the scores.
void softmax_rows_grad(float* weights, float* grad_weights, int64_t row, int64_t first, int64_t rows, int64_t columns,
                       const float* log_sum, const float* dots) {
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

template <class T>
void attention_grad(const AttentionHeads<T>& heads, const T* out, const T* grad_out, int64_t out_row, const float* log_sum,
                    T* grad_q, T* grad_k, T* grad_v, float* scratch) {
  const int64_t t = heads.positions, e = heads.width;
  const float scale = 1.0f / __builtin_sqrtf(float(e));
  const auto* as_it_is = static_cast<const T*>(nullptr);
  const Scratch at(scratch, t, e);
  load_rows(heads.k, heads.row, heads.cos, heads.sin, 1.0f, t, e, at.keys, at.width);
  transpose(at.keys, t, at.width, at.keys_across);
  load_rows(heads.v, heads.row, as_it_is, as_it_is, 1.0f, t, e, at.values, at.width);
  transpose(at.values, t, at.width, at.values_across);
  for (int64_t i = 0; i < at.columns * at.width; ++i) {
    at.grad_keys[i] = 0;
    at.grad_values[i] = 0;
  }
  for (int64_t head = 0; head < heads.query_heads; ++head) {
    for (int64_t first = 0; first < t; first += BLOCK_ROWS) {
      const int64_t rows = t - first < BLOCK_ROWS ? t - first : BLOCK_ROWS;
      const int64_t seen = first + rows, columns = padded(seen, LANES);
      const T *cos = heads.cos + first * (e / 2), *sin = heads.sin + first * (e / 2);
      const int64_t in = head * e + first * heads.row, from = head * e + first * out_row;
      load_rows(heads.q + in, heads.row, cos, sin, scale, rows, e, at.queries, at.width);
      load_rows(grad_out + from, out_row, as_it_is, as_it_is, 1.0f, rows, e, at.outs, at.width);
      float dots[BLOCK_ROWS];
      for (int64_t r = 0; r < rows; ++r) {
        float dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < e; ++i) {
          dot += at.outs[r * at.width + i] * load(out[from + r * out_row + i]);
        }
        dots[r] = dot;
      }
      const Left queries = {at.queries, at.width, 1}, outs = {at.outs, at.width, 1};
      multiply_panels(rows, columns, e, queries, at.keys_across, at.width, at.weights, at.columns);
      multiply_panels(rows, columns, e, outs, at.values_across, at.width, at.grad_weights, at.columns);
      softmax_rows_grad(at.weights, at.grad_weights, at.columns, first, rows, columns, log_sum + head * t + first, dots);
      const Left grads = {at.grad_weights, at.columns, 1};
      multiply(rows, at.width, seen, grads, at.keys, at.width, at.grad_queries, at.width, false);
      multiply(seen, at.width, rows, {at.grad_weights, 1, at.columns}, at.queries, at.width, at.grad_keys, at.width, true);
      multiply(seen, at.width, rows, {at.weights, 1, at.columns}, at.outs, at.width, at.grad_values, at.width, true);
      store_rows(at.grad_queries, at.width, cos, sin, scale, rows, e, grad_q + in, heads.row);
    }
  }
  store_rows(at.grad_keys, at.width, heads.cos, heads.sin, 1.0f, t, e, grad_k, heads.row);
  store_rows(at.grad_values, at.width, as_it_is, as_it_is, 1.0f, t, e, grad_v, heads.row);
}
