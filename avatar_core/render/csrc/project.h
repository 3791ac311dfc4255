// Projection of the splats of one frame (EWA splatting, Zwicker et al. 2001; conventions and clamps of gsplat).
// Splats are handled in lots of 16 with plain loops that the compiler turns into vector code.
#pragma once
#include <cmath>

#include "simd.h"
#include "splat.h"

namespace {

using namespace splat;

#define INLINE inline __attribute__((always_inline))

constexpr int LOT = 16;
constexpr float LOG2_E = 1.44269504f, LN_2 = 0.69314718f;
constexpr float TINY_LOG2 = -120.f;  // alphas under 2^-120 are zero whatever alpha_min says

inline float smaller(float a, float b) { return a < b ? a : b; }
inline float larger(float a, float b) { return a > b ? a : b; }
inline float clamped(float x, float lo, float hi) { return smaller(larger(x, lo), hi); }

// log2 of a positive normal number: exponent plus a series in (m-1)/(m+1), relative error under 1e-6.
inline float log2_fast(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  int exponent = (int)(bits - 0x3f3504f3u) >> 23;  // so that m lies in [sqrt(1/2), sqrt(2))
  bits -= (uint32_t)exponent << 23;
  float m;
  __builtin_memcpy(&m, &bits, 4);
  float t = (m - 1.f) / (m + 1.f), t2 = t * t;
  return (float)exponent + t * (2.88539008f + t2 * (0.961796694f + t2 * (0.577078016f + t2 * 0.412198583f)));
}

// The pinhole camera of a frame. limit_*: gsplat clamps x/z and y/z inside the Jacobian to 1.3 half fields of view around
// the image, so that splats far outside it do not blow up.
struct Camera {
  float view[16], fx, fy, cx, cy, limit_x0, limit_x1, limit_y0, limit_y1;
};

inline Camera camera_of(const Call &call, int frame) {
  Camera cam;
  const float *view = call.in[VIEWMATS] + (size_t)call.index[VIEWMATS][frame] * 16;
  const float *K = call.in[KS] + (size_t)call.index[KS][frame] * 9;
  for (int i = 0; i < 16; i++) cam.view[i] = view[i];
  cam.fx = K[0], cam.fy = K[4], cam.cx = K[2], cam.cy = K[5];
  float margin_x = 0.15f * call.width / cam.fx, margin_y = 0.15f * call.height / cam.fy;
  cam.limit_x0 = -(cam.cx / cam.fx + margin_x), cam.limit_x1 = (call.width - cam.cx) / cam.fx + margin_x;
  cam.limit_y0 = -(cam.cy / cam.fy + margin_y), cam.limit_y1 = (call.height - cam.cy) / cam.fy + margin_y;
  return cam;
}

// Everything about one splat on its way to the image, recomputed rather than stored by the adjoint.
struct Projected {
  float x, y, z, rz;               // camera space
  float xz, yz;                    // x/z, y/z
  float xc, yc;                    // the same, clamped
  float qa, qb, qc, qd, inverse_norm;
  float R[9];                      // rotation of the splat
  float j[6];                      // J W: 2x3, Jacobian of the projection times the rotation of the camera
  float p[6];                      // J W R
  float ca, cb, cc;                // 2D covariance plus eps2d
  float A, B, C;                   // its inverse, the conic
};

INLINE Projected project_one(const Camera &cam, float eps2d, float mx, float my, float mz, float qw, float qx, float qy,
                             float qz, float s0, float s1, float s2) {
  Projected o;
  const float *V = cam.view;
  o.x = V[0] * mx + V[1] * my + V[2] * mz + V[3];
  o.y = V[4] * mx + V[5] * my + V[6] * mz + V[7];
  o.z = V[8] * mx + V[9] * my + V[10] * mz + V[11];
  o.rz = 1.f / o.z;
  o.xz = o.x * o.rz, o.yz = o.y * o.rz;
  o.xc = clamped(o.xz, cam.limit_x0, cam.limit_x1), o.yc = clamped(o.yz, cam.limit_y0, cam.limit_y1);

  // A zero quaternion means no rotation (and gets no gradient). Dividing by the largest entry first avoids overflow.
  float biggest = larger(larger(std::fabs(qw), std::fabs(qx)), larger(std::fabs(qy), std::fabs(qz)));
  float rescale = biggest > 1e-30f ? 1.f / biggest : 0.f;
  qw *= rescale, qx *= rescale, qy *= rescale, qz *= rescale;
  float n2 = qw * qw + qx * qx + qy * qy + qz * qz;
  float inverse = biggest > 1e-30f ? 1.f / std::sqrt(larger(n2, 1.f)) : 0.f;
  float a = qw * inverse, b = qx * inverse, c = qy * inverse, d = qz * inverse;
  o.qa = a, o.qb = b, o.qc = c, o.qd = d, o.inverse_norm = inverse * rescale;
  o.R[0] = 1 - 2 * (c * c + d * d), o.R[1] = 2 * (b * c - a * d), o.R[2] = 2 * (b * d + a * c);
  o.R[3] = 2 * (b * c + a * d), o.R[4] = 1 - 2 * (b * b + d * d), o.R[5] = 2 * (c * d - a * b);
  o.R[6] = 2 * (b * d - a * c), o.R[7] = 2 * (c * d + a * b), o.R[8] = 1 - 2 * (b * b + c * c);

  float fz = cam.fx * o.rz, gz = cam.fy * o.rz;
  for (int k = 0; k < 3; k++) {
    o.j[k] = fz * (V[k] - o.xc * V[8 + k]);
    o.j[3 + k] = gz * (V[4 + k] - o.yc * V[8 + k]);
  }
  for (int k = 0; k < 3; k++) {
    o.p[k] = o.j[0] * o.R[k] + o.j[1] * o.R[3 + k] + o.j[2] * o.R[6 + k];
    o.p[3 + k] = o.j[3] * o.R[k] + o.j[4] * o.R[3 + k] + o.j[5] * o.R[6 + k];
  }
  float u0 = o.p[0] * s0, u1 = o.p[1] * s1, u2 = o.p[2] * s2, v0 = o.p[3] * s0, v1 = o.p[4] * s1, v2 = o.p[5] * s2;
  o.ca = u0 * u0 + u1 * u1 + u2 * u2 + eps2d;
  o.cb = u0 * v0 + u1 * v1 + u2 * v2;
  o.cc = v0 * v0 + v1 * v1 + v2 * v2 + eps2d;
  // det(U U^T + eps I) = sum of squared minors + eps (|u|^2 + |v|^2) + eps^2: a sum of positive terms, so long thin splats
  // lose no digits; everything over the trace, so huge ones do not overflow.
  float trace = o.ca + o.cc, r = 1.f / std::sqrt(trace), r2 = r * r;
  float m0 = (u0 * v1 - u1 * v0) * r, m1 = (u0 * v2 - u2 * v0) * r, m2 = (u1 * v2 - u2 * v1) * r;
  float det = m0 * m0 + m1 * m1 + m2 * m2 + eps2d * (1.f - eps2d * r2);  // determinant / trace
  float inverse_det = r2 / det;
  o.A = o.cc * inverse_det, o.B = -o.cb * inverse_det, o.C = o.ca * inverse_det;
  return o;
}

// x-range, relative to the centre, of {log2 drop <= reach} inside the band of rows [ya, yb] (also relative).
INLINE void span_in_band(const Record &r, float ya, float yb, float &left, float &right) {
  float y1 = clamped(r.y_at_ex, ya, yb), y0 = clamped(-r.y_at_ex, ya, yb), slope = -r.b * r.inverse_a;
  right = slope * y1 + std::sqrt(larger(0.f, r.reach - r.c * r.c * y1 * y1)) * r.inverse_a;
  left = slope * y0 - std::sqrt(larger(0.f, r.reach - r.c * r.c * y0 * y0)) * r.inverse_a;
}

// The tiles of a splat whose bounding box covers tiles [tx0, tx1] x [ty0, ty1].
INLINE TileSet tiles_of(const Call &call, const Record &r, int tx0, int tx1, int ty0, int ty1) {
  TileSet t = {(uint16_t)tx0, (uint16_t)ty0, (uint16_t)(tx1 - tx0 + 1), (uint16_t)(ty1 - ty0 + 1), 0};
  if (t.columns > 8 || t.rows > 8) return t;
  uint64_t row = (1ull << t.columns) - 1;
  if (t.columns == 1 || t.rows == 1) {  // the rectangle is tight
    for (int k = 0; k < t.rows; k++) t.bits |= row << (8 * k);
    return t;
  }
  for (int k = 0; k < t.rows; k++) {
    float top = (float)((ty0 + k) * TILE), left, right;
    span_in_band(r, larger(top + 0.5f - r.v, -r.ey), smaller(top + TILE - 0.5f - r.v, r.ey), left, right);
    int x0 = (int)std::ceil(clamped(r.u + left - 0.5f, 0.f, (float)call.width));
    int x1 = (int)std::floor(clamped(r.u + right - 0.5f, -1.f, (float)(call.width - 1)));
    if (x0 > x1) continue;
    int c0 = x0 / TILE - tx0, c1 = x1 / TILE - tx0;
    c0 = c0 < 0 ? 0 : c0, c1 = c1 > t.columns - 1 ? t.columns - 1 : c1;
    t.bits |= (((2ull << c1) - 1) & ~((1ull << c0) - 1)) << (8 * k);
  }
  if (!t.bits) t.columns = t.rows = 0;
  return t;
}

inline uint32_t tile_count(const TileSet &t) {
  return t.columns > 8 || t.rows > 8 ? (uint32_t)t.columns * t.rows : (uint32_t)__builtin_popcountll(t.bits);
}

struct Inputs {
  const float *means, *quats, *scales, *opacities, *colors;
};
inline Inputs inputs_of(const Call &call, int frame) {
  size_t n = call.count;
  return {call.in[MEANS] + call.index[MEANS][frame] * n * 3, call.in[QUATS] + call.index[QUATS][frame] * n * 4,
          call.in[SCALES] + call.index[SCALES][frame] * n * 3, call.in[OPACITIES] + call.index[OPACITIES][frame] * n,
          call.in[COLORS] + call.index[COLORS][frame] * n * 3};
}

// One lot of inputs, component by component.
struct Lot {
  float mean[3][LOT], quat[4][LOT], scale[3][LOT], opacity[LOT], color[3][LOT];

  // splats first .. first + n - 1; a short lot repeats its last splat
  INLINE void load(const Inputs &in, int first, int n) {
    if (n == LOT) {
      load_rows<3>(mean, in.means + 3 * (size_t)first);
      load_rows<4>(quat, in.quats + 4 * (size_t)first);
      load_rows<3>(scale, in.scales + 3 * (size_t)first);
      load_rows<1>(&opacity, in.opacities + first);
      load_rows<3>(color, in.colors + 3 * (size_t)first);
      return;
    }
    int splats[LOT];
    for (int k = 0; k < LOT; k++) splats[k] = first + (k < n ? k : n - 1);
    gather(in, splats);
  }
  INLINE void gather(const Inputs &in, const int *splats) {
    for (int k = 0; k < LOT; k++) {
      size_t j = splats[k];
      for (int c = 0; c < 3; c++) mean[c][k] = in.means[3 * j + c], scale[c][k] = in.scales[3 * j + c], color[c][k] = in.colors[3 * j + c];
      for (int c = 0; c < 4; c++) quat[c][k] = in.quats[4 * j + c];
      opacity[k] = in.opacities[j];
    }
  }

  // Adds x * 0 for every input x: the sums of an argument become NaN once it holds NaN or infinity.
  INLINE void mark_not_finite(float (*sums)[LOT]) const {
#pragma omp simd
    for (int k = 0; k < LOT; k++) {
      sums[0][k] += mean[0][k] * 0.f + mean[1][k] * 0.f + mean[2][k] * 0.f;
      sums[1][k] += quat[0][k] * 0.f + quat[1][k] * 0.f + quat[2][k] * 0.f + quat[3][k] * 0.f;
      sums[2][k] += scale[0][k] * 0.f + scale[1][k] * 0.f + scale[2][k] * 0.f;
      sums[3][k] += opacity[k] * 0.f;
      sums[4][k] += color[0][k] * 0.f + color[1][k] * 0.f + color[2][k] * 0.f;
    }
  }

 private:
  template <int WIDTH> static INLINE void load_rows(float (*to)[LOT], const float *from) {
    for (int c = 0; c < WIDTH; c++)
      for (int k = 0; k < LOT; k++) to[c][k] = from[WIDTH * k + c];
  }
};

// Splats [begin, end): records, tile sets, depth keys (the bits of a positive float sort like the float; ~0 = not visible).
// Returns a bit per argument that holds NaN or infinity.
inline uint32_t project(const Call &call, int frame, int begin, int end, Record *records, TileSet *tiles, uint32_t *keys) {
  const Camera cam = camera_of(call, frame);
  const Inputs in = inputs_of(call, frame);
  const float log2_min = larger(std::log2(call.alpha_min), TINY_LOG2);  // over log2(1e-37)
  const float near_plane = call.near_plane, eps2d = call.eps2d;
  const float width = (float)call.width, height = (float)call.height;
  float not_finite[5][LOT] = {};
  for (int i = begin; i < end; i += LOT) {
    int n = end - i < LOT ? end - i : LOT;
    Lot lot;
    lot.load(in, i, n);
    lot.mark_not_finite(not_finite);
    float field[16][LOT];  // a Record's floats in order
#pragma omp simd
    for (int k = 0; k < LOT; k++) field[5][k] = log2_fast(larger(lot.opacity[k], 1e-37f));  // apart, or GCC 12 gives up on both
    int32_t visible[LOT], tx0[LOT], tx1[LOT], ty0[LOT], ty1[LOT];
#pragma omp simd
    for (int k = 0; k < LOT; k++) {
      float mx = lot.mean[0][k], my = lot.mean[1][k], mz = lot.mean[2][k];
      float qw = lot.quat[0][k], qx = lot.quat[1][k], qy = lot.quat[2][k], qz = lot.quat[3][k];
      float s0 = lot.scale[0][k], s1 = lot.scale[1][k], s2 = lot.scale[2][k], opacity = lot.opacity[k];
      Projected o = project_one(cam, eps2d, mx, my, mz, qw, qx, qy, qz, s0, s1, s2);
      const float scale = 0.84932180f;  // sqrt(log2(e) / 2)
      float u = cam.fx * o.xz + cam.cx, v = cam.fy * o.yz + cam.cy, root = std::sqrt(o.A);
      float a = scale * root, b = scale * o.B / root, c = scale / std::sqrt(o.cc);
      float log2_opacity = field[5][k];
      float reach = (log2_opacity - log2_min) * 1.001f + 0.002f, spread = 2.f * LN_2 * larger(reach, 0.f);
      float ex = std::sqrt(spread * o.ca), ey = std::sqrt(spread * o.cc), y_at_ex = o.cb / o.ca * ex, inverse_a = 1.f / a;
      field[0][k] = u, field[1][k] = v, field[2][k] = a, field[3][k] = b, field[4][k] = c;
      field[6][k] = lot.color[0][k], field[7][k] = lot.color[1][k], field[8][k] = lot.color[2][k], field[9][k] = o.z;
      field[10][k] = reach, field[11][k] = ex, field[12][k] = ey, field[13][k] = inverse_a, field[14][k] = y_at_ex;
      field[15][k] = opacity;
      // The pixels whose centres lie in the ellipse's bounding box, and their tiles.
      float x0 = std::ceil(clamped(u - ex - 0.5f, 0.f, width)), x1 = std::floor(clamped(u + ex - 0.5f, -1.f, width - 1.f));
      float y0 = std::ceil(clamped(v - ey - 0.5f, 0.f, height)), y1 = std::floor(clamped(v + ey - 0.5f, -1.f, height - 1.f));
      float sane = (u + v + o.z + a + b + c + ex + ey + inverse_a + y_at_ex) * 0.f;  // 0 if all are finite
      int drawn = o.z > near_plane ? 1 : 0;  // one by one: no branches, so the loop stays vector code
      drawn = log2_opacity >= log2_min ? drawn : 0;
      drawn = sane == 0.f ? drawn : 0;
      drawn = x0 <= x1 ? drawn : 0;
      visible[k] = y0 <= y1 ? drawn : 0;
      tx0[k] = (int)x0 / TILE, tx1[k] = (int)x1 / TILE, ty0[k] = (int)y0 / TILE, ty1[k] = (int)y1 / TILE;
    }
    if (n == LOT) {
      float *to = &records[i].u;
      for (int f = 0; f < 16; f += 4)
        for (int k = 0; k < LOT; k += 4) transpose4(&field[f][k], LOT, to + 16 * k + f, 16);
    } else {
      for (int k = 0; k < n; k++)
        for (int f = 0; f < 16; f++) (&records[i + k].u)[f] = field[f][k];
    }
    for (int k = 0; k < n; k++) {
      uint32_t key;
      __builtin_memcpy(&key, &field[9][k], 4);
      tiles[i + k] = visible[k] ? tiles_of(call, records[i + k], tx0[k], tx1[k], ty0[k], ty1[k]) : TileSet{0, 0, 0, 0, 0};
      keys[i + k] = tiles[i + k].columns ? key : ~0u;
    }
  }
  uint32_t bad = 0;
  for (int argument = 0; argument < 5; argument++)
    for (int k = 0; k < LOT; k++) bad |= (not_finite[argument][k] != 0.f ? 1u : 0u) << argument;
  return bad;
}

}  // namespace
