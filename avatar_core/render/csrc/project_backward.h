// The adjoint of the projection (project.h): gradient rows of (tile, splat) pairs -> gradients of the inputs.
#pragma once
#include "project.h"

namespace {

using namespace splat;

// Where the gradient of one argument goes. The first frame that uses a slice writes it, later ones add.
struct Output {
  float *to;  // null = not wanted
  bool add_to;

  Output(const Call &call, int argument, int frame, size_t width) {
    to = call.grad[argument] ? call.grad[argument] + call.index[argument][frame] * call.count * width : nullptr;
    add_to = !call.first[argument][frame];
  }
  INLINE void clear(int begin, int end, size_t width) const {
    if (to && !add_to) __builtin_memset(to + begin * width, 0, (end - begin) * width * sizeof(float));
  }
  template <int WIDTH> INLINE void add(const float (*from)[LOT], const int *splats, int n) const {
    if (!to) return;
    for (int k = 0; k < n; k++)
      for (int c = 0; c < WIDTH; c++) to[(size_t)splats[k] * WIDTH + c] += from[c][k];
  }
};
struct Outputs {
  Output means, quats, scales, opacities, colors;
  Outputs(const Call &call, int frame)
      : means(call, MEANS, frame, 3), quats(call, QUATS, frame, 4), scales(call, SCALES, frame, 3),
        opacities(call, OPACITIES, frame, 1), colors(call, COLORS, frame, 3) {}
  void clear(int begin, int end) const {
    means.clear(begin, end, 3), quats.clear(begin, end, 4), scales.clear(begin, end, 3);
    opacities.clear(begin, end, 1), colors.clear(begin, end, 3);
  }
};

// The adjoint of project for splats [begin, end): adds up each splat's gradient rows in tile order, turns the moments of v
// into gradients of centre and conic,
//   dL/d(u,v) = K (Sx, Sy),   dL/dK = -1/2 [Sxx Sxy; Sxy Syy],   dL/dcov = -K (dL/dK) K,   K = conic,
// and those into gradients of the inputs. view_sums (12): gradient of the top three rows of the view matrix.
inline void project_backward(const Call &call, int frame, int begin, int end, const TileSet *tiles, const uint32_t *first_row,
                             const GradientRow *rows, float *view_sums) {
  const Camera cam = camera_of(call, frame);
  const float *V = cam.view;
  const Inputs in = inputs_of(call, frame);
  const Outputs out(call, frame);
  out.clear(begin, end);
  const float eps2d = call.eps2d;
  const bool pose = view_sums != nullptr;
  int visible[BLOCK + LOT], count = 0;
  for (int j = begin; j < end; j++)
    if (tiles[j].columns) visible[count++] = j;
  float vs[12][LOT] = {};
  for (int i = 0; i < count; i += LOT) {
    int n = count - i < LOT ? count - i : LOT;
    for (int k = n; k < LOT; k++) visible[i + k] = visible[i + n - 1];
    Lot lot;
    if (n == LOT && visible[i + LOT - 1] - visible[i] == LOT - 1)  // neighbours, the usual case
      lot.load(in, visible[i], LOT);
    else
      lot.gather(in, visible + i);
    GradientRow total[LOT] = {};  // padding lanes carry no gradient
    for (int k = 0; k < n; k++) {
      uint32_t row = first_row[visible[i + k]], last = first_row[visible[i + k] + 1];
      for (; row < last; row++)
        for (int c = 0; c < 16; c++) total[k].x[c] += rows[row].x[c];
    }
    float G[12][LOT];
    for (int c = 0; c < 12; c += 4)
      for (int k = 0; k < LOT; k += 4) transpose4(&total[k].x[c], 16, &G[c][k], LOT);
    float DM[3][LOT], DQ[4][LOT], DS[3][LOT], DO[LOT];
#pragma omp simd
    for (int k = 0; k < LOT; k++) {
      Projected o = project_one(cam, eps2d, lot.mean[0][k], lot.mean[1][k], lot.mean[2][k], lot.quat[0][k], lot.quat[1][k],
                                lot.quat[2][k], lot.quat[3][k], lot.scale[0][k], lot.scale[1][k], lot.scale[2][k]);
      float gu = o.A * G[4][k] + o.B * G[5][k], gv = o.B * G[4][k] + o.C * G[5][k];
      DO[k] = G[3][k] / lot.opacity[k];
      float gA = -0.5f * G[6][k], gB = -0.5f * G[7][k], gC = -0.5f * G[8][k];
      float t00 = o.A * gA + o.B * gB, t01 = o.A * gB + o.B * gC, t10 = o.B * gA + o.C * gB, t11 = o.B * gB + o.C * gC;
      float ha = -2 * (t00 * o.A + t01 * o.B), hb = -2 * (t00 * o.B + t01 * o.C), hc = -2 * (t10 * o.B + t11 * o.C);
      // dL/d(J W R S), then through S, R, and J W; e = gradient of J W R
      float e[6];
      float sk[3] = {lot.scale[0][k], lot.scale[1][k], lot.scale[2][k]};
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
        float gt[3] = {gx, gy, gz}, mm[4] = {lot.mean[0][k], lot.mean[1][k], lot.mean[2][k], 1.f};
        for (int row = 0; row < 3; row++)
          for (int col = 0; col < 4; col++) vs[4 * row + col][k] += gt[row] * mm[col];
        for (int col = 0; col < 3; col++) {
          vs[col][k] += fz * w[col];
          vs[4 + col][k] += fyz * w[3 + col];
          vs[8 + col][k] -= fz * o.xc * w[col] + fyz * o.yc * w[3 + col];
        }
      }
    }
    out.means.add<3>(DM, visible + i, n);
    out.quats.add<4>(DQ, visible + i, n);
    out.scales.add<3>(DS, visible + i, n);
    out.opacities.add<1>(&DO, visible + i, n);
    out.colors.add<3>(G, visible + i, n);
  }
  if (pose)
    for (int c = 0; c < 12; c++) {
      float total = 0;
      for (int k = 0; k < LOT; k++) total += vs[c][k];
      view_sums[c] = total;
    }
}

}  // namespace
