// Projection of the splats of one frame (EWA splatting, Zwicker et al. 2001; conventions and clamps of gsplat) and its
// adjoint. Splats are handled in lots of 16 with plain loops that the compiler turns into vector code.
#pragma once
#include <cmath>

#include "splat.h"

namespace {

using namespace splat;

constexpr int LOT = 16;
constexpr float LOG2_E = 1.44269504f, LN_2 = 0.69314718f;
constexpr float TINY_LOG2 = -120.f;  // alphas under 2^-120 are zero whatever alpha_min says

inline float smaller(float a, float b) { return a < b ? a : b; }
inline float larger(float a, float b) { return a > b ? a : b; }
inline float clamped(float x, float lo, float hi) { return smaller(larger(x, lo), hi); }

inline bool finite(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return (bits & 0x7f800000u) != 0x7f800000u;
}

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

#define INLINE inline __attribute__((always_inline))

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

// First and last pixel whose centre lies in [centre + lo, centre + hi], cut to [0, n).
INLINE void pixels_between(float centre, float lo, float hi, int n, int &first, int &last) {
  first = (int)std::ceil(clamped(centre + lo - 0.5f, 0.f, (float)n));
  last = (int)std::floor(clamped(centre + hi - 0.5f, -1.f, (float)(n - 1)));
}

INLINE TileSet tiles_of(const Call &call, const Record &r) {
  TileSet t = {0, 0, 0, 0, 0};
  int x0, x1, y0, y1;
  pixels_between(r.u, -r.ex, r.ex, call.width, x0, x1);
  pixels_between(r.v, -r.ey, r.ey, call.height, y0, y1);
  if (x0 > x1 || y0 > y1) return t;
  int tx0 = x0 / TILE, tx1 = x1 / TILE, ty0 = y0 / TILE, ty1 = y1 / TILE;
  t.x0 = (uint16_t)tx0, t.y0 = (uint16_t)ty0;
  t.columns = (uint16_t)(tx1 - tx0 + 1), t.rows = (uint16_t)(ty1 - ty0 + 1);
  if (t.columns > 8 || t.rows > 8) return t;
  uint64_t row = (1ull << t.columns) - 1;
  if (t.columns == 1 || t.rows == 1) {  // the rectangle is tight
    for (int k = 0; k < t.rows; k++) t.bits |= row << (8 * k);
    return t;
  }
  for (int k = 0; k < t.rows; k++) {
    float top = (float)((ty0 + k) * TILE), left, right;
    span_in_band(r, larger(top, (float)y0) + 0.5f - r.v, smaller(top + TILE - 1, (float)y1) + 0.5f - r.v, left, right);
    pixels_between(r.u, left, right, call.width, x0, x1);
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

// Splats [begin, end): records, tile sets, depth keys (the bits of a positive float sort like the float; ~0 = not visible).
// Returns a bit per argument that holds NaN or infinity.
inline uint32_t project(const Call &call, int frame, int begin, int end, Record *records, TileSet *tiles, uint32_t *keys) {
  const Camera cam = camera_of(call, frame);
  const Inputs in = inputs_of(call, frame);
  const float log2_min = larger(std::log2(call.alpha_min), TINY_LOG2);
  const float near_plane = call.near_plane, eps2d = call.eps2d;
  uint32_t bad = 0;
  for (int i = begin; i < end; i += LOT) {
    int n = end - i < LOT ? end - i : LOT;
    float m[3][LOT], q[4][LOT], s[3][LOT], op[LOT], zero[5][LOT];
    for (int k = 0; k < LOT; k++) {
      int j = i + (k < n ? k : n - 1);
      for (int c = 0; c < 3; c++) m[c][k] = in.means[3 * j + c], s[c][k] = in.scales[3 * j + c];
      for (int c = 0; c < 4; c++) q[c][k] = in.quats[4 * j + c];
      op[k] = in.opacities[j];
      const float *rgb = in.colors + 3 * j;
      zero[4][k] = rgb[0] * 0.f + rgb[1] * 0.f + rgb[2] * 0.f;  // 0 when all are finite, else NaN
    }
    float u[LOT], v[LOT], z[LOT], a[LOT], b[LOT], c[LOT], lo[LOT], reach[LOT], ex[LOT], ey[LOT], yx[LOT];
#pragma omp simd
    for (int k = 0; k < LOT; k++) {
      Projected o = project_one(cam, eps2d, m[0][k], m[1][k], m[2][k], q[0][k], q[1][k], q[2][k], q[3][k], s[0][k], s[1][k], s[2][k]);
      u[k] = cam.fx * o.xz + cam.cx, v[k] = cam.fy * o.yz + cam.cy, z[k] = o.z;
      const float scale = 0.84932180f;  // sqrt(log2(e) / 2)
      a[k] = scale * std::sqrt(o.A), b[k] = scale * o.B / std::sqrt(o.A), c[k] = scale / std::sqrt(o.cc);
      lo[k] = op[k] > 1e-37f ? log2_fast(op[k]) : -200.f;
      reach[k] = (lo[k] - log2_min) * 1.001f + 0.002f;
      float spread = 2.f * LN_2 * larger(reach[k], 0.f);
      ex[k] = std::sqrt(spread * o.ca), ey[k] = std::sqrt(spread * o.cc), yx[k] = o.cb / o.ca * ex[k];
      zero[0][k] = m[0][k] * 0.f + m[1][k] * 0.f + m[2][k] * 0.f;
      zero[1][k] = q[0][k] * 0.f + q[1][k] * 0.f + q[2][k] * 0.f + q[3][k] * 0.f;
      zero[2][k] = s[0][k] * 0.f + s[1][k] * 0.f + s[2][k] * 0.f;
      zero[3][k] = op[k] * 0.f;
    }
    for (int k = 0; k < n; k++) {
      int j = i + k;
      for (int arg = 0; arg < 5; arg++) bad |= (zero[arg][k] != zero[arg][k] ? 1u : 0u) << arg;
      Record &r = records[j];
      const float *rgb = in.colors + 3 * j;
      r = {u[k], v[k], a[k], b[k], c[k], lo[k], rgb[0], rgb[1], rgb[2], z[k], reach[k], ex[k], ey[k], 1.f / a[k], yx[k], op[k]};
      bool visible = z[k] > near_plane && lo[k] >= log2_min && a[k] > 0.f && c[k] > 0.f && finite(r.inverse_a) &&
                     finite(u[k]) && finite(v[k]) && finite(z[k]) && finite(a[k]) && finite(b[k]) && finite(c[k]) &&
                     finite(ex[k]) && finite(ey[k]) && finite(yx[k]) && u[k] + ex[k] > 0 && u[k] - ex[k] < call.width &&
                     v[k] + ey[k] > 0 && v[k] - ey[k] < call.height;
      tiles[j] = visible ? tiles_of(call, r) : TileSet{0, 0, 0, 0, 0};
      uint32_t bits;
      __builtin_memcpy(&bits, &z[k], 4);
      keys[j] = tiles[j].columns ? bits : ~0u;
    }
  }
  return bad;
}

// Where the gradients of one frame go; null = not wanted.
struct Outputs {
  float *means, *quats, *scales, *opacities, *colors;
};
inline Outputs outputs_of(const Call &call, int frame) {
  size_t n = call.count;
  auto at = [&](int arg, size_t width) {
    return call.grad[arg] ? call.grad[arg] + call.index[arg][frame] * n * width : nullptr;
  };
  return {at(MEANS, 3), at(QUATS, 4), at(SCALES, 3), at(OPACITIES, 1), at(COLORS, 3)};
}

// The adjoint of project for splats [begin, end): adds up each splat's gradient rows in tile order, turns the moments of v
// into gradients of centre and conic,
//   dL/d(u,v) = K (Sx, Sy),   dL/dK = -1/2 [Sxx Sxy; Sxy Syy],   dL/dcov = -K (dL/dK) K,   K = conic,
// and those into gradients of the inputs. view_sums (12): gradient of the top three rows of the view matrix.
inline void project_backward(const Call &call, int frame, int begin, int end, const TileSet *tiles, const uint32_t *first_row,
                             const GradientRow *rows, float *view_sums) {
  const Camera cam = camera_of(call, frame);
  const float *V = cam.view;
  const Inputs in = inputs_of(call, frame);
  const Outputs out = outputs_of(call, frame);
  const float eps2d = call.eps2d;
  const bool pose = view_sums != nullptr;
  int visible[BLOCK], count = 0;
  for (int j = begin; j < end; j++)
    if (tiles[j].columns) visible[count++] = j;
  float vs[12][LOT] = {};
  for (int i = 0; i < count; i += LOT) {
    int n = count - i < LOT ? count - i : LOT;
    float m[3][LOT], q[4][LOT], s[3][LOT], op[LOT], G[10][LOT];
    for (int k = 0; k < LOT; k++) {
      int j = visible[i + (k < n ? k : n - 1)];
      for (int c = 0; c < 3; c++) m[c][k] = in.means[3 * j + c], s[c][k] = in.scales[3 * j + c];
      for (int c = 0; c < 4; c++) q[c][k] = in.quats[4 * j + c];
      op[k] = in.opacities[j];
      float sum[10] = {};
      if (k < n)  // padding lanes carry no gradient
        for (uint32_t row = first_row[j]; row < first_row[j + 1]; row++)
          for (int c = 0; c < 10; c++) sum[c] += rows[row].x[c];
      for (int c = 0; c < 10; c++) G[c][k] = sum[c];
    }
    float DM[3][LOT], DQ[4][LOT], DS[3][LOT], DO[LOT];
#pragma omp simd
    for (int k = 0; k < LOT; k++) {
      Projected o = project_one(cam, eps2d, m[0][k], m[1][k], m[2][k], q[0][k], q[1][k], q[2][k], q[3][k], s[0][k], s[1][k], s[2][k]);
      float gu = o.A * G[4][k] + o.B * G[5][k], gv = o.B * G[4][k] + o.C * G[5][k];
      DO[k] = G[3][k] / op[k];
      float gA = -0.5f * G[6][k], gB = -0.5f * G[7][k], gC = -0.5f * G[8][k];
      float t00 = o.A * gA + o.B * gB, t01 = o.A * gB + o.B * gC, t10 = o.B * gA + o.C * gB, t11 = o.B * gB + o.C * gC;
      float ha = -2 * (t00 * o.A + t01 * o.B), hb = -2 * (t00 * o.B + t01 * o.C), hc = -2 * (t10 * o.B + t11 * o.C);
      // dL/d(J W R S), then through S, R, and J W; e = gradient of J W R
      float e[6];
      float sk[3] = {s[0][k], s[1][k], s[2][k]};
      for (int c = 0; c < 3; c++) {
        float top = (ha * o.p[c] + hb * o.p[3 + c]) * sk[c], bottom = (hb * o.p[c] + hc * o.p[3 + c]) * sk[c];
        DS[c][k] = top * o.p[c] + bottom * o.p[3 + c];
        e[c] = top * sk[c], e[3 + c] = bottom * sk[c];
      }
      float r[9], w[6];  // r: gradient of R; w: gradient of J W
      for (int row = 0; row < 3; row++)
        for (int c = 0; c < 3; c++) r[3 * row + c] = o.j[row] * e[c] + o.j[3 + row] * e[3 + c];
      for (int row = 0; row < 3; row++) {
        w[row] = e[0] * o.R[3 * row] + e[1] * o.R[3 * row + 1] + e[2] * o.R[3 * row + 2];
        w[3 + row] = e[3] * o.R[3 * row] + e[4] * o.R[3 * row + 1] + e[5] * o.R[3 * row + 2];
      }
      // J = [fx/z, 0, -fx xc/z; 0, fy/z, -fy yc/z]
      float J00 = w[0] * V[0] + w[1] * V[1] + w[2] * V[2], J02 = w[0] * V[8] + w[1] * V[9] + w[2] * V[10];
      float J11 = w[3] * V[4] + w[4] * V[5] + w[5] * V[6], J12 = w[3] * V[8] + w[4] * V[9] + w[5] * V[10];
      float fz = cam.fx * o.rz, fyz = cam.fy * o.rz, rz2 = o.rz * o.rz;
      float free_x = o.xc == o.xz ? 1.f : 0.f, free_y = o.yc == o.yz ? 1.f : 0.f;  // the clamp stops the gradient
      float gx = gu * fz - free_x * J02 * cam.fx * rz2, gy = gv * fyz - free_y * J12 * cam.fy * rz2;
      float gz = -o.rz * (gu * cam.fx * o.xz + gv * cam.fy * o.yz) - rz2 * (J00 * cam.fx + J11 * cam.fy) +
                 rz2 * (J02 * cam.fx * (o.xc + free_x * o.xz) + J12 * cam.fy * (o.yc + free_y * o.yz)) + G[9][k];
      for (int c = 0; c < 3; c++) DM[c][k] = V[c] * gx + V[4 + c] * gy + V[8 + c] * gz;
      float a = o.qa, b = o.qb, c = o.qc, d = o.qd;
      float ga = 2 * (b * (r[7] - r[5]) + c * (r[2] - r[6]) + d * (r[3] - r[1]));
      float gb = 2 * (c * (r[1] + r[3]) + d * (r[2] + r[6]) - 2 * b * (r[4] + r[8]) + a * (r[7] - r[5]));
      float gc = 2 * (b * (r[1] + r[3]) + d * (r[5] + r[7]) - 2 * c * (r[0] + r[8]) + a * (r[2] - r[6]));
      float gd = 2 * (b * (r[2] + r[6]) + c * (r[5] + r[7]) - 2 * d * (r[0] + r[4]) + a * (r[3] - r[1]));
      float dot = a * ga + b * gb + c * gc + d * gd;
      DQ[0][k] = (ga - a * dot) * o.inverse_norm, DQ[1][k] = (gb - b * dot) * o.inverse_norm;
      DQ[2][k] = (gc - c * dot) * o.inverse_norm, DQ[3][k] = (gd - d * dot) * o.inverse_norm;
      if (pose) {
        // camera point t = W m + translation;  J W: rows of W enter with J
        float gt[3] = {gx, gy, gz}, mm[4] = {m[0][k], m[1][k], m[2][k], 1.f};
        for (int row = 0; row < 3; row++)
          for (int col = 0; col < 4; col++) vs[4 * row + col][k] += gt[row] * mm[col];
        for (int col = 0; col < 3; col++) {
          vs[col][k] += fz * w[col];
          vs[4 + col][k] += fyz * w[3 + col];
          vs[8 + col][k] -= fz * o.xc * w[col] + fyz * o.yc * w[3 + col];
        }
      }
    }
    for (int k = 0; k < n; k++) {
      int j = visible[i + k];
      for (int c = 0; c < 3; c++) {
        if (out.means) out.means[3 * j + c] += DM[c][k];
        if (out.scales) out.scales[3 * j + c] += DS[c][k];
        if (out.colors) out.colors[3 * j + c] += G[c][k];
      }
      if (out.quats)
        for (int c = 0; c < 4; c++) out.quats[4 * j + c] += DQ[c][k];
      if (out.opacities) out.opacities[j] += DO[k];
    }
  }
  if (pose)
    for (int c = 0; c < 12; c++) {
      float total = 0;
      for (int k = 0; k < LOT; k++) total += vs[c][k];
      view_sums[c] = total;
    }
}

}  // namespace
