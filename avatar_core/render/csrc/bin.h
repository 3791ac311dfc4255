// Depth order and tile lists of one frame. Splats are sorted once by depth (not once per tile), then dealt out to the tiles
// they touch in that order, so every tile's list is sorted. Ties keep the order of the input.
#pragma once
#include "project.h"
#include "splat.h"

namespace {

using namespace splat;

// Least-significant-digit radix sort of the visible splats by depth key: two passes of 12 bits cover the keys of a scene
// whose depths span less than a factor of about two, three passes cover all floats. Leaves the indices in scratch.order.
inline uint32_t sort_by_depth(int count, Scratch &s) {
  const uint32_t *keys = s.keys.data;
  uint32_t low = ~0u, high = 0, n = 0;
  uint32_t *order = s.order.need(count), *sorted_order = s.sorted_order.need(count), *sorted_keys = s.sorted_keys.need(2 * (size_t)count);
  for (int i = 0; i < count; i++) {
    uint32_t key = keys[i];
    if (key == ~0u) continue;
    low = key < low ? key : low, high = key > high ? key : high;
    order[n] = i, sorted_keys[n++] = key;
  }
  if (n == 0) return 0;
  constexpr int BITS = 12, SIZE = 1 << BITS;
  uint32_t *from_keys = sorted_keys, *to_keys = sorted_keys + count, *from = order, *to = sorted_order;
  uint32_t *histogram = s.histogram.need(SIZE);
  for (int shift = 0; shift < 32 && ((high - low) >> shift) > 0; shift += BITS) {
    for (int d = 0; d < SIZE; d++) histogram[d] = 0;
    for (uint32_t i = 0; i < n; i++) histogram[((from_keys[i] - low) >> shift) & (SIZE - 1)]++;
    uint32_t start = 0;
    for (int d = 0; d < SIZE; d++) {
      uint32_t size = histogram[d];
      histogram[d] = start, start += size;
    }
    for (uint32_t i = 0; i < n; i++) {
      uint32_t place = histogram[((from_keys[i] - low) >> shift) & (SIZE - 1)]++;
      to_keys[place] = from_keys[i], to[place] = from[i];
    }
    uint32_t *t = from_keys;
    from_keys = to_keys, to_keys = t;
    t = from, from = to, to = t;
  }
  if (from != order) {
    uint32_t *t = s.order.data;
    size_t capacity = s.order.capacity;
    s.order.data = s.sorted_order.data, s.order.capacity = s.sorted_order.capacity;
    s.sorted_order.data = t, s.sorted_order.capacity = capacity;
  }
  return n;
}

template <class F> inline __attribute__((always_inline)) void for_each_tile(const TileSet &t, int tiles_x, F &&f) {
  if (t.columns > 8 || t.rows > 8) {
    for (int y = 0; y < t.rows; y++)
      for (int x = 0; x < t.columns; x++) f((t.y0 + y) * tiles_x + t.x0 + x);
    return;
  }
  for (uint64_t bits = t.bits; bits; bits &= bits - 1) {
    int bit = __builtin_ctzll(bits);
    f((t.y0 + (bit >> 3)) * tiles_x + t.x0 + (bit & 7));
  }
}

// Counting sort of (tile, splat) pairs by tile, stable in depth order. Returns false if there are more than 2^31 pairs.
inline bool bin(const Call &call, Frame &f, Scratch &s, uint32_t visible) {
  const int tiles_x = (call.width + TILE - 1) / TILE, tiles_y = (call.height + TILE - 1) / TILE, tiles = tiles_x * tiles_y;
  uint32_t *start = f.tile_start.need(tiles + 1), *cursor = s.cursor.need(tiles), *first_row = f.first_row.need(call.count + 1);
  for (int t = 0; t < tiles; t++) cursor[t] = 0;
  uint64_t total = 0;
  for (int i = 0; i < call.count; i++) {
    first_row[i] = (uint32_t)total;
    if (!f.tiles[i].columns) continue;
    total += tile_count(f.tiles[i]);
    if (total > 1u << 31) return false;
    for_each_tile(f.tiles[i], tiles_x, [&](int t) { cursor[t]++; });
  }
  first_row[call.count] = (uint32_t)total;
  uint32_t sum = 0;
  for (int t = 0; t < tiles; t++) {
    uint32_t size = cursor[t];
    start[t] = cursor[t] = sum, sum += size;
  }
  start[tiles] = sum;
  Pair *pairs = f.pairs.need(total);
  f.patch_masks.need(total);
  const uint32_t *order = s.order.data;
  for (uint32_t i = 0; i < visible; i++) {
    uint32_t j = order[i], row = first_row[j];
    if (i + 16 < visible) __builtin_prefetch(&f.tiles[order[i + 16]]);
    for_each_tile(f.tiles[j], tiles_x, [&](int t) { pairs[cursor[t]++] = {j, row++}; });
  }
  return true;
}

// Longest tile lists first, so that the last tile to finish is a short one (counting sort by the length's leading bits).
inline void order_tiles(Frame &f, int tiles) {
  uint32_t *order = f.tile_order.need(tiles), bucket[33] = {};
  auto size_class = [&](int t) {
    uint32_t n = f.tile_start[t + 1] - f.tile_start[t];
    return n ? __builtin_clz(n) : 32;
  };
  for (int t = 0; t < tiles; t++) bucket[size_class(t)]++;
  uint32_t sum = 0;
  for (int c = 0; c < 33; c++) {
    uint32_t n = bucket[c];
    bucket[c] = sum, sum += n;
  }
  for (int t = 0; t < tiles; t++) order[bucket[size_class(t)]++] = t;
}

}  // namespace
