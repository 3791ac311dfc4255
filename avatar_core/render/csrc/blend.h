// Alpha blending of one 32x32 tile, front to back, and its adjoint (Kerbl et al. 2023, stopping rule and clamps of gsplat).
// A vector holds (part of) a 4x4 patch of pixels; per pair of tile and splat a 64-bit mask says which patches to visit.
//
//   alpha = min(opacity exp(-sigma), alpha_max), skipped under alpha_min;  w = T alpha;  T <- T - w, unless T would fall to
//   transmittance_min: then the pixel is finished and the splat is not drawn on it.
#pragma once
#include "project.h"
#include "simd.h"
#include "splat.h"

namespace {

using namespace splat;

constexpr int SIDE = TILE / PATCH;  // patches per tile side

// Patches of the tile whose pixel centres may lie inside the splat's ellipse; (u, v) = its centre relative to the centre of
// the tile's first pixel. For each of the eight rows of patches: the ellipse's x-range in that band (span_in_band) as bits.
#if SPLAT_LANES >= 8
inline uint64_t patch_mask(const Record &r, float u, float v) {
  const __m256 zero = _mm256_setzero_ps(), inverse_a = _mm256_set1_ps(r.inverse_a), reach = _mm256_set1_ps(r.reach);
  const __m256 top = _mm256_setr_ps(0, 4, 8, 12, 16, 20, 24, 28) - _mm256_set1_ps(v), bottom = top + _mm256_set1_ps(3.f);
  const __m256 c2 = _mm256_set1_ps(r.c * r.c), slope = _mm256_set1_ps(-r.b * r.inverse_a), turn = _mm256_set1_ps(r.y_at_ex);
  auto in_band = [&](__m256 y) { return _mm256_min_ps(_mm256_max_ps(y, top), bottom); };
  const __m256 y1 = in_band(turn), y0 = in_band(zero - turn), nearest = in_band(zero), centre = _mm256_set1_ps(u);
  __m256 right = centre + slope * y1 + sqrt_rough(reach - c2 * y1 * y1) * inverse_a;
  __m256 left = centre + slope * y0 - sqrt_rough(reach - c2 * y0 * y0) * inverse_a;
  left = _mm256_min_ps(_mm256_max_ps(left, zero), _mm256_set1_ps((float)TILE));
  right = _mm256_min_ps(_mm256_max_ps(right, _mm256_set1_ps(-1.f)), _mm256_set1_ps((float)(TILE - 1)));
  const __m256i first = _mm256_cvttps_epi32(_mm256_ceil_ps(left)), last = _mm256_cvttps_epi32(_mm256_floor_ps(right));
  const __m256i full = _mm256_set1_epi32(0xff), one = _mm256_set1_epi32(1);
  const __m256i from = _mm256_sllv_epi32(full, _mm256_srai_epi32(first, 2));
  const __m256i beyond = _mm256_sllv_epi32(full, _mm256_add_epi32(_mm256_srai_epi32(last, 2), one));
  __m256i bits = _mm256_andnot_si256(beyond, _mm256_and_si256(from, full));
  bits = _mm256_andnot_si256(_mm256_cmpgt_epi32(first, last), bits);
  const __m256 reaches = _mm256_cmp_ps(c2 * nearest * nearest, reach, _CMP_LE_OQ);
  return pack_bytes(_mm256_and_si256(bits, _mm256_castps_si256(reaches)));
}
#else
inline uint64_t patch_mask(const Record &r, float u, float v) {
  uint64_t mask = 0;
  for (int row = 0; row < SIDE; row++) {
    float top = (float)(row * PATCH) - v, bottom = top + (PATCH - 1), left, right;
    if (std::fabs(clamped(0.f, top, bottom)) > r.ey) continue;
    span_in_band(r, top, bottom, left, right);
    int first = (int)std::ceil(clamped(u + left, 0.f, (float)TILE)), last = (int)std::floor(clamped(u + right, -1.f, (float)(TILE - 1)));
    if (first > last) continue;
    mask |= (uint64_t)((0xff << (first / PATCH)) & ~(0xff << (last / PATCH + 1)) & 0xff) << (8 * row);
  }
  return mask;
}
#endif

// First pixel of each patch within its tile, as floats.
struct PatchCorners {
  float x[PATCHES], y[PATCHES];
  constexpr PatchCorners() : x(), y() {
    for (int q = 0; q < PATCHES; q++) x[q] = (float)(q % SIDE * PATCH), y[q] = (float)(q / SIDE * PATCH);
  }
};
constexpr PatchCorners corner;

struct PixelOffsets {  // of the lanes of each slice from the patch's first pixel
  vf x[SLICES], y[SLICES];
  PixelOffsets() {
    alignas(64) float px[16], py[16];
    for (int k = 0; k < 16; k++) px[k] = (float)(k % PATCH), py[k] = (float)(k / PATCH);
    for (int s = 0; s < SLICES; s++) x[s] = load(px + s * LANES), y[s] = load(py + s * LANES);
  }
};

// The 4x4 patch at (x, y) of a row-major (H, W) image, zero outside the image.
inline void load_patch(const float *image, int x, int y, int width, int height, float *patch) {
  if (x + PATCH <= width && y + PATCH <= height) {
    for (int row = 0; row < PATCH; row++) __builtin_memcpy(patch + PATCH * row, image + (size_t)(y + row) * width + x, PATCH * 4);
    return;
  }
  for (int k = 0; k < 16; k++) {
    int px = x + k % PATCH, py = y + k / PATCH;
    patch[k] = px < width && py < height ? image[(size_t)py * width + px] : 0.f;
  }
}
inline void store_patch(float *image, int x, int y, int width, int height, const float *patch) {
  if (x + PATCH <= width && y + PATCH <= height) {
    for (int row = 0; row < PATCH; row++) __builtin_memcpy(image + (size_t)(y + row) * width + x, patch + PATCH * row, PATCH * 4);
    return;
  }
  for (int k = 0; k < 16; k++) {
    int px = x + k % PATCH, py = y + k / PATCH;
    if (px < width && py < height) image[(size_t)py * width + px] = patch[k];
  }
}

// Bits of the patch's 16 pixels that lie inside the image.
inline unsigned inside_bits(int x, int y, int width, int height) {
  unsigned bits = 0;
  for (int k = 0; k < 16; k++) bits |= (unsigned)(x + k % PATCH < width && y + k / PATCH < height) << k;
  return bits;
}

struct Tile {
  int x, y;  // first pixel
  float left, top;  // its centre
  Tile(int tile, int width) {
    int tiles_x = (width + TILE - 1) / TILE;
    x = tile % tiles_x * TILE, y = tile / tiles_x * TILE;
    left = (float)x + 0.5f, top = (float)y + 0.5f;
  }
};

struct Thresholds {
  vf log2_min, alpha_max, transmittance_min;
  explicit Thresholds(const Call &call)
      : log2_min(broadcast(larger(std::log2(call.alpha_min), TINY_LOG2))), alpha_max(broadcast(call.alpha_max)),
        transmittance_min(broadcast(call.transmittance_min)) {}
};

template <bool DEPTH> inline void blend(const Call &call, int frame, Frame &f, int tile_index) {
  struct alignas(64) Slice {
    vf T, red, green, blue, depth;
  } pixels[PATCHES][SLICES];
  vmask live[PATCHES][SLICES];
  uint64_t alive = 0;  // patches with a pixel not finished
  const Tile tile(tile_index, call.width);
  const PixelOffsets at;
  const Thresholds limit(call);
  for (int q = 0; q < PATCHES; q++) {
    unsigned bits = inside_bits(tile.x + q % SIDE * PATCH, tile.y + q / SIDE * PATCH, call.width, call.height);
    alive |= (uint64_t)(bits != 0) << q;
    for (int s = 0; s < SLICES; s++) {
      pixels[q][s] = {broadcast(1.f), broadcast(0.f), broadcast(0.f), broadcast(0.f), broadcast(0.f)};
      live[q][s] = mask_from_bits(bits >> (s * LANES));
    }
  }
  constexpr uint32_t AHEAD = 32;
  uint64_t masks[AHEAD];
  const uint32_t begin = f.tile_start[tile_index], end = f.tile_start[tile_index + 1];
  uint32_t i = begin;
  for (; i < end && alive; i++) {
    if ((i - begin) % AHEAD == 0) {
      uint32_t n = end - i < AHEAD ? end - i : AHEAD;
      for (uint32_t k = 0; k < n; k++) {
        if (i + k + AHEAD < end) __builtin_prefetch(&f.records[f.pairs[i + k + AHEAD].splat]);
        const Record &r = f.records[f.pairs[i + k].splat];
        masks[k] = patch_mask(r, r.u - tile.left, r.v - tile.top);
      }
    }
    uint64_t todo = masks[(i - begin) % AHEAD] & alive, touched = 0;
    const Record &r = f.records[f.pairs[i].splat];
    const float u = r.u - tile.left, v = r.v - tile.top;
    const vf a = broadcast(r.a), b = broadcast(r.b), c = broadcast(r.c), log2_opacity = broadcast(r.log2_opacity);
    vf x[SLICES], y[SLICES];
    for (int s = 0; s < SLICES; s++) x[s] = at.x[s] - broadcast(u), y[s] = at.y[s] - broadcast(v);
    for (; todo; todo &= todo - 1) {
      const int q = __builtin_ctzll(todo);
      bool hit = false, unfinished = false;
      for (int s = 0; s < SLICES; s++) {
        vf dx = x[s] + broadcast(corner.x[q]), dy = y[s] + broadcast(corner.y[q]);
        vf t1 = a * dx + b * dy, t2 = c * dy;
        vf log2_alpha = log2_opacity - t1 * t1 - t2 * t2;
        vmask drawn = greater_equal(log2_alpha, limit.log2_min, live[q][s]);
        if (any(drawn)) {
          Slice &p = pixels[q][s];
          vf alpha = keep(drawn, minimum(exp2_fast(log2_alpha), limit.alpha_max));
          vf w = p.T * alpha;
          vmask going = greater(p.T - w, limit.transmittance_min);
          w = keep(going, w);
          p.T = p.T - w;
          p.red += w * broadcast(r.red), p.green += w * broadcast(r.green), p.blue += w * broadcast(r.blue);
          if (DEPTH) p.depth += w * broadcast(r.depth);
          live[q][s] = both(live[q][s], going);
          hit = true;
        }
        unfinished |= any(live[q][s]);
      }
      touched |= (uint64_t)hit << q;
      if (!unfinished) alive &= ~(1ull << q);
    }
    f.patch_masks[i] = touched;
  }
  f.tile_end[tile_index] = i;

  const size_t area = (size_t)call.width * call.height;
  float *colors = call.colors + frame * 3 * area, *alphas = call.alphas + frame * area;
  const float *background = call.in[BACKGROUND] ? call.in[BACKGROUND] + 3 * call.index[BACKGROUND][frame] : nullptr;
  for (int q = 0; q < PATCHES; q++) {
    int x = tile.x + q % SIDE * PATCH, y = tile.y + q / SIDE * PATCH;
    if (x >= call.width || y >= call.height) continue;
    alignas(64) float out[6][16];
    for (int s = 0; s < SLICES; s++) {
      const Slice &p = pixels[q][s];
      vf rgb[3] = {p.red, p.green, p.blue};
      for (int k = 0; k < 3; k++) store(out[k] + s * LANES, background ? rgb[k] + p.T * broadcast(background[k]) : rgb[k]);
      store(out[3] + s * LANES, broadcast(1.f) - p.T);
      store(out[4] + s * LANES, p.T);
      if (DEPTH) store(out[5] + s * LANES, p.depth);
    }
    for (int k = 0; k < 3; k++) store_patch(colors + k * area, x, y, call.width, call.height, out[k]);
    store_patch(alphas, x, y, call.width, call.height, out[3]);
    if (call.keep_state) store_patch(f.transmittance.data, x, y, call.width, call.height, out[4]);
    if (DEPTH) store_patch(call.depths + frame * area, x, y, call.width, call.height, out[5]);
  }
}

// Again front to back, as in the forward pass, with S = dL/dC . (what still lies behind the current splat):
//   dL/dalpha_i = T_i (c_i . g) - S_i / (1 - alpha_i),  S_0 = g . C_final - g_alpha T_final,  S_i = S_{i-1} - w_i (c_i . g).
// Each pair of tile and splat writes one row: dL/dcolour and the moments of v = alpha dL/dalpha (see project_backward.h).
// background_sum (3): gradient of the background colour over this tile, or null.
template <bool DEPTH> inline void blend_backward(const Call &call, int frame, Frame &f, int tile_index, GradientRow *rows, float *background_sum) {
  const uint32_t begin = f.tile_start[tile_index], last = f.tile_end[tile_index], end = f.tile_start[tile_index + 1];
  const size_t area = (size_t)call.width * call.height;
  const float *grad_colors = call.grad_colors + frame * 3 * area;
  const float *colors = call.colors + frame * 3 * area;
  const float *grad_alphas = call.grad_alphas ? call.grad_alphas + frame * area : nullptr;
  const float *grad_depths = DEPTH && call.grad_depths ? call.grad_depths + frame * area : nullptr;
  const float *depths = DEPTH ? call.depths + frame * area : nullptr;
  const Tile tile(tile_index, call.width);

  for (uint32_t i = last; i < end; i++)  // pairs that no pixel was left to see
    __builtin_memset(&rows[f.pairs[i].row], 0, sizeof(GradientRow));
  if (begin == last && !background_sum) return;

  struct alignas(64) Slice {
    vf T, S, red, green, blue, depth;  // colours and depth: incoming gradients
  } pixels[PATCHES][SLICES];
  vmask live[PATCHES][SLICES];
  vf background_total[3] = {broadcast(0.f), broadcast(0.f), broadcast(0.f)};
  for (int q = 0; q < PATCHES; q++) {
    int x = tile.x + q % SIDE * PATCH, y = tile.y + q / SIDE * PATCH;
    unsigned bits = inside_bits(x, y, call.width, call.height);
    alignas(64) float g[4][16] = {}, c[4][16] = {}, gA[16] = {}, T[16] = {};
    if (bits) {
      for (int k = 0; k < 3; k++) {
        load_patch(grad_colors + k * area, x, y, call.width, call.height, g[k]);
        load_patch(colors + k * area, x, y, call.width, call.height, c[k]);
      }
      load_patch(f.transmittance.data, x, y, call.width, call.height, T);
      if (grad_alphas) load_patch(grad_alphas, x, y, call.width, call.height, gA);
      if (grad_depths) {
        load_patch(grad_depths, x, y, call.width, call.height, g[3]);
        load_patch(depths, x, y, call.width, call.height, c[3]);
      }
    }
    for (int s = 0; s < SLICES; s++) {
      Slice &p = pixels[q][s];
      const int o = s * LANES;
      live[q][s] = mask_from_bits(bits >> o);
      p.T = broadcast(1.f);
      p.red = load(g[0] + o), p.green = load(g[1] + o), p.blue = load(g[2] + o), p.depth = load(g[3] + o);
      vf final_T = load(T + o);
      p.S = p.red * load(c[0] + o) + p.green * load(c[1] + o) + p.blue * load(c[2] + o) - load(gA + o) * final_T;
      if (DEPTH) p.S += p.depth * load(c[3] + o);
      if (background_sum)
        background_total[0] += final_T * p.red, background_total[1] += final_T * p.green, background_total[2] += final_T * p.blue;
    }
  }
  if (background_sum)
    for (int k = 0; k < 3; k++) background_sum[k] = sum(background_total[k]);

  const PixelOffsets at;
  const Thresholds limit(call);
  for (uint32_t i = begin; i < last; i++) {
    if (i + 6 < last) {  // both are scattered over more memory than the cache holds
      __builtin_prefetch(&f.records[f.pairs[i + 6].splat]);
      __builtin_prefetch(&rows[f.pairs[i + 6].row], 1);
    }
    const Record &r = f.records[f.pairs[i].splat];
    const float u = r.u - tile.left, v = r.v - tile.top;
    const vf a = broadcast(r.a), b = broadcast(r.b), c = broadcast(r.c), log2_opacity = broadcast(r.log2_opacity);
    vf x[SLICES], y[SLICES], total[12];
    for (int s = 0; s < SLICES; s++) x[s] = at.x[s] - broadcast(u), y[s] = at.y[s] - broadcast(v);
    for (int k = 0; k < 12; k++) total[k] = broadcast(0.f);
    for (uint64_t todo = f.patch_masks[i]; todo; todo &= todo - 1) {
      const int q = __builtin_ctzll(todo);
      for (int s = 0; s < SLICES; s++) {
        Slice &p = pixels[q][s];
        vf dx = x[s] + broadcast(corner.x[q]), dy = y[s] + broadcast(corner.y[q]);
        vf t1 = a * dx + b * dy, t2 = c * dy;
        vf log2_alpha = log2_opacity - t1 * t1 - t2 * t2;
        vmask drawn = greater_equal(log2_alpha, limit.log2_min, live[q][s]);
        vf raw = exp2_fast(log2_alpha), alpha = keep(drawn, minimum(raw, limit.alpha_max));
        vf w = p.T * alpha;
        vmask going = greater(p.T - w, limit.transmittance_min);
        w = keep(going, w), alpha = keep(going, alpha);
        p.T = p.T - w;
        live[q][s] = both(live[q][s], going);
        vf dot = broadcast(r.red) * p.red + broadcast(r.green) * p.green + broadcast(r.blue) * p.blue;
        if (DEPTH) dot += broadcast(r.depth) * p.depth;
        vf wc = w * dot;
        p.S = p.S - wc;
        total[0] += w * p.red, total[1] += w * p.green, total[2] += w * p.blue;
        if (DEPTH) total[9] += w * p.depth;
        vf moment = keep(less_equal(raw, limit.alpha_max), wc - p.S * (alpha * reciprocal(broadcast(1.f) - alpha)));
        vf mx = moment * dx, my = moment * dy;
        total[3] += moment, total[4] += mx, total[5] += my;
        total[6] += mx * dx, total[7] += mx * dy, total[8] += my * dy;
      }
    }
    sum_each(total, rows[f.pairs[i].row].x);
  }
}

}  // namespace
