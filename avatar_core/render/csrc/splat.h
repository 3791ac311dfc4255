// Types shared by the driver (plain C++) and the three SIMD builds of the kernel. The maths is in project.h, bin.h, blend.h.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "crew.h"

namespace splat {

constexpr int TILE = 32;                        // pixels; a tile is 8x8 patches of 4x4 pixels, so a 64-bit mask covers it
constexpr int PATCH = 4;
constexpr int PATCHES = (TILE / PATCH) * (TILE / PATCH);
constexpr int BLOCK = 512;                      // splats per unit of projection work; fixed, so results do not depend on threads

// Inputs and outputs of one call, mirrored by ctypes (native.py). All arrays are contiguous float32.
// Inputs hold `slices` of one frame each; index[a][f] names the slice of argument a that frame f uses.
enum Argument { MEANS, QUATS, SCALES, OPACITIES, COLORS, VIEWMATS, KS, BACKGROUND, ARGUMENTS };
struct Call {
  int32_t frames, count, width, height, threads, with_depth, keep_state, isa;
  float eps2d, alpha_max, alpha_min, transmittance_min, near_plane;
  int32_t reserved;
  const float *in[ARGUMENTS];         // background may be null (black)
  const int32_t *index[ARGUMENTS];    // (frames,) each
  const uint8_t *first[ARGUMENTS];    // (frames,) 1 if the frame is the first to use its slice: it writes the gradient, later
                                      // frames add theirs, in frame order
  float *colors;                      // (frames, 3, H, W)
  float *alphas;                      // (frames, H, W)
  float *depths;                      // (frames, H, W) or null
  const float *grad_colors;           // (frames, 3, H, W)
  const float *grad_alphas;           // (frames, H, W) or null
  const float *grad_depths;           // (frames, H, W) or null
  float *grad[ARGUMENTS];             // like in[]; null where not wanted
};

// One projected splat, one cache line. log2(alpha) at offset d = (dx,dy) from the centre is
//   log2_opacity - (a dx + b dy)^2 - (c dy)^2,   the Cholesky factor of the conic scaled by sqrt(log2(e)/2).
struct alignas(64) Record {
  float u, v, a, b, c, log2_opacity, red, green, blue, depth;
  float reach;       // largest log2 drop that still passes alpha_min, a little enlarged: used for culling only
  float ex, ey;      // half extents of the ellipse of that drop, pixels
  float inverse_a;   // 1 / a
  float y_at_ex;     // dy of the ellipse's rightmost point
  float opacity;
};

// The tiles a splat touches: a rectangle, and for rectangles up to 8x8 the exact set as bits (row-major, 8 per row).
struct TileSet {
  uint16_t x0, y0, columns, rows;  // columns == 0: not visible
  uint64_t bits;                   // ignored for larger rectangles
};

struct Pair {
  uint32_t splat;  // index of the splat
  uint32_t row;    // its gradient row (ordered by splat, then tile)
};

struct alignas(64) GradientRow {
  // colours r g b, then sums over the tile of v, v dx, v dy, v dx^2, v dx dy, v dy^2 with v = alpha dL/dalpha, then depth
  float x[16];
};

// Grow-only uninitialised array. The member functions that allocate live in driver.cpp, in baseline code.
void *allocate_aligned(size_t bytes);
void release_aligned(void *p);
template <class T> struct Buffer {
  T *data = nullptr;
  size_t capacity = 0;
  Buffer() = default;
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;
  ~Buffer() { release_aligned(data); }
  __attribute__((always_inline)) T *need(size_t n) {
    if (n > capacity) {
      size_t larger = n + n / 4 + 64;
      release_aligned(data);
      data = nullptr;
      capacity = 0;
      data = (T *)allocate_aligned(larger * sizeof(T));
      capacity = larger;
    }
    return data;
  }
  __attribute__((always_inline)) T &operator[](size_t i) { return data[i]; }
  __attribute__((always_inline)) const T &operator[](size_t i) const { return data[i]; }
  size_t bytes() const { return capacity * sizeof(T); }
};

enum Phase { PROJECT, SORT, BIN, BLEND, BLEND_BACKWARD, PROJECT_BACKWARD, PHASES };

// What forward leaves for backward, one per frame.
struct Frame {
  Buffer<Record> records;        // (N)
  Buffer<TileSet> tiles;         // (N)
  Buffer<uint32_t> first_row;    // (N + 1)
  Buffer<Pair> pairs;            // (P) sorted by tile, then depth
  Buffer<uint32_t> tile_start;   // (tiles + 1)
  Buffer<uint32_t> tile_end;     // (tiles) one past the last pair a tile used
  Buffer<uint64_t> patch_masks;  // (P) patches of the tile that a pair changed
  Buffer<float> transmittance;   // (H, W)
  Buffer<uint32_t> tile_order;   // (tiles) longest first, for load balance
  double seconds[PHASES] = {};
  uint32_t visible = 0;
  size_t bytes() const {
    return records.bytes() + tiles.bytes() + first_row.bytes() + pairs.bytes() + tile_start.bytes() + tile_end.bytes() +
           patch_masks.bytes() + transmittance.bytes() + tile_order.bytes();
  }
};

// Temporary memory of one frame in flight.
struct Scratch {
  Buffer<uint32_t> keys, sorted_keys, order, sorted_order, cursor, histogram, tile_counts;
  Buffer<GradientRow> rows;
  Buffer<float> block_sums;
  size_t bytes() const {
    return keys.bytes() + sorted_keys.bytes() + order.bytes() + sorted_order.bytes() + cursor.bytes() + histogram.bytes() +
           tile_counts.bytes() + rows.bytes() + block_sums.bytes();
  }
};

// Lets frames add to a shared gradient in frame order: turn[block] is the frame whose turn it is.
struct Turns {
  std::atomic<int> *turn = nullptr;  // null when nothing is shared
};
void wait_for_turn(std::atomic<int> &turn, int frame);

// The entry points of one SIMD build. They return false when a frame would need more than 2^31 (tile, splat) pairs.
struct Kernel {
  const char *name;
  int lanes;
  bool (*forward)(const Call &, int frame, Frame &, Scratch &, Crew &, std::atomic<uint32_t> &bad_arguments);
  void (*backward)(const Call &, int frame, Frame &, Scratch &, Crew &, Turns &);
  double (*peak_gflops)(double milliseconds);
};
extern const Kernel kernel_avx512, kernel_avx2, kernel_portable;

double now();

}  // namespace splat
