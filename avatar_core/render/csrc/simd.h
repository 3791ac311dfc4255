// A thin layer over three vector widths, so that every kernel is written once.
//
//   SPLAT_LANES 16  AVX-512   one vector = a 4x4 pixel patch
//   SPLAT_LANES  8  AVX2+FMA  two vectors = a 4x4 patch (4x2 each)
//   SPLAT_LANES  4  portable  four vectors = a 4x4 patch (one row each); GCC/Clang vector extensions, any CPU
//
// vf is a vector of floats, vmask the result of a comparison. Arithmetic uses the built-in operators.
#pragma once
#include <cstdint>

#if SPLAT_LANES == 16 || SPLAT_LANES == 8
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = SPLAT_LANES;
constexpr int SLICES = 16 / LANES;  // vectors per 4x4 patch

#if SPLAT_LANES == 16

typedef __m512 vf;
typedef __mmask16 vmask;
inline vf broadcast(float x) { return _mm512_set1_ps(x); }
inline vf load(const float *p) { return _mm512_loadu_ps(p); }
inline void store(float *p, vf v) { _mm512_storeu_ps(p, v); }
inline vmask greater_equal(vf a, vf b, vmask where) { return _mm512_mask_cmp_ps_mask(where, a, b, _CMP_GE_OQ); }
inline vmask greater(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline vmask less_equal(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
inline vmask both(vmask a, vmask b) { return a & b; }
inline bool any(vmask m) { return m != 0; }
inline vmask mask_from_bits(unsigned bits) { return (__mmask16)bits; }
inline vf keep(vmask m, vf v) { return _mm512_maskz_mov_ps(m, v); }  // v where m, else 0
inline vf minimum(vf a, vf b) { return _mm512_min_ps(a, b); }
inline float sum(vf v) { return _mm512_reduce_add_ps(v); }
// row[k] = sum of v[k], k < 12, row[12..15] = 0: a transposing tree, 3 operations per halving instead of 4 per vector and step.
inline void sum_each(const vf *v, float *row) {
  auto halves = [](vf a, vf b) {  // 256-bit halves: [a, b]
    return _mm512_shuffle_f32x4(a, b, 0x44) + _mm512_shuffle_f32x4(a, b, 0xee);
  };
  auto quarters = [](vf a, vf b) {  // of [a0 a0 a1 a1], [b0 b0 b1 b1] -> [a0 a1 b0 b1]
    return _mm512_shuffle_f32x4(a, b, 0x88) + _mm512_shuffle_f32x4(a, b, 0xdd);
  };
  auto pairs = [](vf a, vf b) { return _mm512_shuffle_ps(a, b, 0x44) + _mm512_shuffle_ps(a, b, 0xee); };
  auto singles = [](vf a, vf b) { return _mm512_shuffle_ps(a, b, 0x88) + _mm512_shuffle_ps(a, b, 0xdd); };
  vf q0 = quarters(halves(v[0], v[4]), halves(v[8], _mm512_setzero_ps()));
  vf q1 = quarters(halves(v[1], v[5]), halves(v[9], _mm512_setzero_ps()));
  vf q2 = quarters(halves(v[2], v[6]), halves(v[10], _mm512_setzero_ps()));
  vf q3 = quarters(halves(v[3], v[7]), halves(v[11], _mm512_setzero_ps()));
  _mm512_store_ps(row, singles(pairs(q0, q1), pairs(q2, q3)));
}
inline vf reciprocal(vf d) {  // 14 bits refined by one Newton step: 1 ulp-ish
  vf r = _mm512_rcp14_ps(d);
  return r * (_mm512_set1_ps(2.f) - d * r);
}
inline vf round_nearest(vf x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline vf times_exp2_integer(vf p, vf n) { return _mm512_scalef_ps(p, n); }

#elif SPLAT_LANES == 8

typedef __m256 vf;
typedef __m256 vmask;
inline vf broadcast(float x) { return _mm256_set1_ps(x); }
inline vf load(const float *p) { return _mm256_loadu_ps(p); }
inline void store(float *p, vf v) { _mm256_storeu_ps(p, v); }
inline vmask both(vmask a, vmask b) { return _mm256_and_ps(a, b); }
inline vmask greater_equal(vf a, vf b, vmask where) { return _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ), where); }
inline vmask greater(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
inline vmask less_equal(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
inline bool any(vmask m) { return _mm256_movemask_ps(m) != 0; }
inline vmask mask_from_bits(unsigned bits) {
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), lane), lane));
}
inline vf keep(vmask m, vf v) { return _mm256_and_ps(m, v); }
inline vf minimum(vf a, vf b) { return _mm256_min_ps(a, b); }
inline float sum(vf v) {
  __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  a = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}
inline void sum_each(const vf *v, float *row) {
  auto four = [](vf a, vf b, vf c, vf d) {
    vf t = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1));
  };
  for (int k = 0; k < 12; k += 4) _mm_store_ps(row + k, four(v[k], v[k + 1], v[k + 2], v[k + 3]));
  _mm_store_ps(row + 12, _mm_setzero_ps());
}
inline vf reciprocal(vf d) {
  vf r = _mm256_rcp_ps(d);
  r = r * (_mm256_set1_ps(2.f) - d * r);
  return r * (_mm256_set1_ps(2.f) - d * r);
}
inline vf round_nearest(vf x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline vf times_exp2_integer(vf p, vf n) {
  __m256i e = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), e));
}

#else

typedef float vf __attribute__((vector_size(16)));
typedef int32_t vmask __attribute__((vector_size(16)));
inline vf broadcast(float x) { return vf{x, x, x, x}; }
inline vf load(const float *p) {
  vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float *p, vf v) { __builtin_memcpy(p, &v, sizeof v); }
inline vmask both(vmask a, vmask b) { return a & b; }
inline vmask greater_equal(vf a, vf b, vmask where) { return (a >= b) & where; }
inline vmask greater(vf a, vf b) { return a > b; }
inline vmask less_equal(vf a, vf b) { return a <= b; }
inline bool any(vmask m) { return (m[0] | m[1] | m[2] | m[3]) != 0; }
inline vmask mask_from_bits(unsigned bits) {
  return vmask{-(int)(bits & 1), -(int)(bits >> 1 & 1), -(int)(bits >> 2 & 1), -(int)(bits >> 3 & 1)};
}
inline vf keep(vmask m, vf v) { return (vf)((vmask)v & m); }
inline vf minimum(vf a, vf b) {
  vmask m = a < b;
  return (vf)(((vmask)a & m) | ((vmask)b & ~m));
}
inline float sum(vf v) { return (v[0] + v[2]) + (v[1] + v[3]); }
inline void sum_each(const vf *v, float *row) {
  for (int k = 0; k < 12; k++) row[k] = sum(v[k]);
  for (int k = 12; k < 16; k++) row[k] = 0.f;
}
inline vf reciprocal(vf d) { return 1.f / d; }
// Adding 1.5 * 2^23 leaves the nearest integer in the low mantissa bits.
inline vf round_nearest(vf x) {
  const vf magic = broadcast(12582912.f);
  return (x + magic) - magic;  // built without -ffast-math, so this is not folded away
}
inline vf times_exp2_integer(vf p, vf n) { return (vf)((vmask)p + (__builtin_convertvector(n, vmask) << 23)); }

#endif

#if SPLAT_LANES >= 8
// Square root to 4e-4, enough for culling with a margin: a true vsqrtps would cost a third of patch_mask.
inline __m256 sqrt_rough(__m256 x) {
  x = _mm256_max_ps(x, _mm256_set1_ps(1e-30f));
#if SPLAT_LANES == 16
  return x * _mm256_rsqrt14_ps(x);
#else
  return x * _mm256_rsqrt_ps(x);
#endif
}
// The low bytes of eight integers.
inline uint64_t pack_bytes(__m256i v) {
#if SPLAT_LANES == 16
  return (uint64_t)_mm_cvtsi128_si64(_mm256_cvtepi32_epi8(v));
#else
  __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  return (uint64_t)_mm_cvtsi128_si64(_mm_packus_epi16(words, words));
#endif
}
#endif

// 4x4 transpose between two row-major arrays with strides in floats, on 128-bit vectors that every build has.
typedef float quad __attribute__((vector_size(16)));
#ifdef __clang__
inline quad interleave_low(quad a, quad b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
inline quad interleave_high(quad a, quad b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
#else
typedef int32_t quad_index __attribute__((vector_size(16)));
inline quad interleave_low(quad a, quad b) { return __builtin_shuffle(a, b, quad_index{0, 4, 1, 5}); }
inline quad interleave_high(quad a, quad b) { return __builtin_shuffle(a, b, quad_index{2, 6, 3, 7}); }
#endif
inline void transpose4(const float *from, int from_stride, float *to, int to_stride) {
  quad r[4];
  for (int k = 0; k < 4; k++) __builtin_memcpy(&r[k], from + k * from_stride, 16);
  quad a = interleave_low(r[0], r[2]), b = interleave_high(r[0], r[2]);
  quad c = interleave_low(r[1], r[3]), d = interleave_high(r[1], r[3]);
  r[0] = interleave_low(a, c), r[1] = interleave_high(a, c);
  r[2] = interleave_low(b, d), r[3] = interleave_high(b, d);
  for (int k = 0; k < 4; k++) __builtin_memcpy(to + k * to_stride, &r[k], 16);
}

// 2^x for x in [-126, 126]: x = n + f with |f| <= 1/2, then a degree-5 minimax polynomial of 2^f (relative error 9e-8).
inline vf exp2_fast(vf x) {
  vf n = round_nearest(x), f = x - n;
  vf p = f * broadcast(1.326472643e-3f) + broadcast(9.671512702e-3f);
  p = p * f + broadcast(5.550733746e-2f);
  p = p * f + broadcast(2.402224208e-1f);
  p = p * f + broadcast(6.931469776e-1f);
  p = p * f + broadcast(1.f);
  return times_exp2_integer(p, n);
}

}  // namespace
