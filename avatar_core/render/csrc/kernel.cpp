// One frame, forward and backward. This file is compiled three times (SPLAT_LANES = 16, 8, 4); driver.cpp picks one at run
// time. Everything but the exported table is in an anonymous namespace, so that the linker cannot merge builds.
#include "bin.h"
#include "blend.h"
#include "project.h"
#include "project_backward.h"

namespace {

struct Timer {
  double *slot, start;
  explicit Timer(double *slot) : slot(slot), start(now()) {}
  ~Timer() { *slot += now() - start; }
};

inline int tiles_of_image(const Call &call) { return ((call.width + TILE - 1) / TILE) * ((call.height + TILE - 1) / TILE); }

bool forward(const Call &call, int frame, Frame &f, Scratch &scratch, Crew &crew, std::atomic<uint32_t> &bad_arguments) {
  const int n = call.count, blocks = (n + BLOCK - 1) / BLOCK, tiles = tiles_of_image(call);
  f.records.need(n), f.tiles.need(n), scratch.keys.need(n), f.tile_end.need(tiles);
  for (int p = 0; p <= BLEND; p++) f.seconds[p] = 0;
  {
    Timer timer(&f.seconds[PROJECT]);
    crew.each(blocks, [&](int block, int) {
      int begin = block * BLOCK, end = begin + BLOCK < n ? begin + BLOCK : n;
      uint32_t bad = project(call, frame, begin, end, f.records.data, f.tiles.data, scratch.keys.data);
      if (bad) bad_arguments.fetch_or(bad);
    });
  }
  if (bad_arguments.load()) return true;
  {
    Timer timer(&f.seconds[SORT]);
    f.visible = sort_by_depth(n, scratch);
  }
  {
    Timer timer(&f.seconds[BIN]);
    if (!bin(call, f, scratch, f.visible)) return false;
    order_tiles(f, tiles);
  }
  Timer timer(&f.seconds[BLEND]);
  if (call.keep_state) f.transmittance.need((size_t)call.width * call.height);
  crew.each(tiles, [&](int k, int) {
    int tile = f.tile_order[k];
    call.with_depth ? blend<true>(call, frame, f, tile) : blend<false>(call, frame, f, tile);
  });
  return true;
}

void backward(const Call &call, int frame, Frame &f, Scratch &scratch, Crew &crew, Turns &turns) {
  const int n = call.count, blocks = (n + BLOCK - 1) / BLOCK, tiles = tiles_of_image(call);
  float *grad_background = call.grad[BACKGROUND], *grad_view = call.grad[VIEWMATS];
  const size_t pairs = n ? f.first_row[n] : 0;
  GradientRow *rows = scratch.rows.need(pairs);
  float *tile_sums = scratch.block_sums.need((size_t)tiles * 3 + (size_t)blocks * 12), *view_sums = tile_sums + (size_t)tiles * 3;
  f.seconds[BLEND_BACKWARD] = f.seconds[PROJECT_BACKWARD] = 0;
  {
    Timer timer(&f.seconds[BLEND_BACKWARD]);
    crew.each(tiles, [&](int k, int) {
      int tile = f.tile_order[k];
      float *sums = grad_background ? tile_sums + (size_t)tile * 3 : nullptr;
      call.with_depth ? blend_backward<true>(call, frame, f, tile, rows, sums) : blend_backward<false>(call, frame, f, tile, rows, sums);
    });
  }
  Timer timer(&f.seconds[PROJECT_BACKWARD]);
  crew.each(blocks, [&](int block, int) {
    int begin = block * BLOCK, end = begin + BLOCK < n ? begin + BLOCK : n;
    if (turns.turn) wait_for_turn(turns.turn[block], frame);
    project_backward(call, frame, begin, end, f.tiles.data, f.first_row.data, rows, grad_view ? view_sums + 12 * (size_t)block : nullptr);
    if (turns.turn) turns.turn[block].store(frame + 1, std::memory_order_release);
  });
  // The small sums, in a fixed order and in double.
  if (turns.turn) wait_for_turn(turns.turn[blocks], frame);
  if (grad_view)
    for (int c = 0; c < 16; c++) {
      double total = 0;
      for (int block = 0; block < blocks && c < 12; block++) total += view_sums[12 * (size_t)block + c];
      float &to = grad_view[(size_t)call.index[VIEWMATS][frame] * 16 + c];
      to = call.first[VIEWMATS][frame] ? (float)total : to + (float)total;
    }
  if (grad_background)
    for (int c = 0; c < 3; c++) {
      double total = 0;
      for (int tile = 0; tile < tiles; tile++) total += tile_sums[3 * (size_t)tile + c];
      float &to = grad_background[(size_t)call.index[BACKGROUND][frame] * 3 + c];
      to = call.first[BACKGROUND][frame] ? (float)total : to + (float)total;
    }
  if (turns.turn) turns.turn[blocks].store(frame + 1, std::memory_order_release);
}

// Peak of this build's float arithmetic on one core: twelve independent multiply-add chains.
double peak_gflops(double milliseconds) {
  vf chain[12];
  for (int k = 0; k < 12; k++) chain[k] = broadcast(1.f + 1e-3f * k);
  const vf m = broadcast(0.999f), c = broadcast(1e-3f);
  double start = now(), elapsed;
  long long rounds = 0;
  do {
    for (int i = 0; i < 20000; i++)
      for (int k = 0; k < 12; k++) chain[k] = chain[k] * m + c;
    rounds += 20000;
    elapsed = now() - start;
  } while (elapsed * 1e3 < milliseconds);
  float total = 0;
  for (int k = 0; k < 12; k++) total += sum(chain[k]);
  return total > -1.f ? 24.0 * LANES * rounds / elapsed * 1e-9 : 0.0;
}

}  // namespace

#if SPLAT_LANES == 16
const Kernel splat::kernel_avx512 = {"avx512", LANES, forward, backward, peak_gflops};
#elif SPLAT_LANES == 8
const Kernel splat::kernel_avx2 = {"avx2", LANES, forward, backward, peak_gflops};
#else
const Kernel splat::kernel_portable = {"portable", LANES, forward, backward, peak_gflops};
#endif
