// Scalar arithmetic for the loops of kernels.cpp. Included within the anonymous namespace of a
// level of the instruction set, so no copy is linked into code for other processors.

inline float load(float value) { return value; }
inline float load(Bf16 value) { return __builtin_bit_cast(float, uint32_t(value.bits) << 16); }
inline void store(float& to, float value) { to = value; }
// Rounds to nearest, ties to even. NaN stays NaN, for any other bits.
inline void store(Bf16& to, float value) {
  const auto bits = __builtin_bit_cast(uint32_t, value);
  to.bits = value != value ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// e^x within 2 ulp: 2^n e^r with |r| <= ln(2) / 2. Below -87.3 it is 2^-126 or less; NaN stays NaN.
inline float exponential(float x) {
  x = x < -87.3f ? -87.3f : x;
  x = x > 88.3f ? 88.3f : x;
  // The nearest integer, in the low bits of the mantissa.
  const float shifted = x * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const auto power = (__builtin_bit_cast(uint32_t, shifted) - 0x4b400000u + 127u) << 23;
  return p * __builtin_bit_cast(float, power);
}
