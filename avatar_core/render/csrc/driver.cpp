// The C interface: chooses the SIMD build, the threads and the memory of a call. No state outside what the caller holds.
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "splat.h"

namespace splat {

void *allocate_aligned(size_t bytes) {
  void *p = nullptr;
  if (posix_memalign(&p, 64, bytes ? bytes : 64)) throw std::bad_alloc();
  return p;
}
void release_aligned(void *p) { std::free(p); }

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void wait_for_turn(std::atomic<int> &turn, int frame) {
  for (int spins = 0; turn.load(std::memory_order_acquire) != frame; spins++)
    if (spins > 100) std::this_thread::yield();
}

namespace {

const Kernel *kernel_of(int isa) {
  switch (isa) {
#ifdef SPLAT_X86
    case 3: return &kernel_avx512;
    case 2: return &kernel_avx2;
#endif
    case 1: return &kernel_portable;
  }
  return nullptr;
}

bool runs_here(int isa) {
#ifdef SPLAT_X86
  __builtin_cpu_init();
  if (isa == 3)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  if (isa == 2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#endif
  return isa == 1;
}

}  // namespace

// Memory kept from call to call by one owner (the Python module): frames and scratch, handed out under a lock. Touching
// fresh pages would otherwise cost a fifth of the kernel's time. Results never depend on what it holds.
struct Pool {
  std::mutex mutex;
  std::vector<std::unique_ptr<Frame>> frames;
  std::vector<std::unique_ptr<Scratch>> scratches;
  size_t limit_bytes;

  template <class T> std::unique_ptr<T> take(std::vector<std::unique_ptr<T>> &from) {
    std::lock_guard<std::mutex> lock(mutex);
    if (from.empty()) return std::unique_ptr<T>(new T());
    std::unique_ptr<T> item = std::move(from.back());
    from.pop_back();
    return item;
  }
  size_t held() const {
    size_t total = 0;
    for (auto &f : frames) total += f->bytes();
    for (auto &s : scratches) total += s->bytes();
    return total;
  }
  template <class T> void give(std::vector<std::unique_ptr<T>> &to, std::unique_ptr<T> item) {
    std::lock_guard<std::mutex> lock(mutex);
    if (held() + item->bytes() <= limit_bytes) to.push_back(std::move(item));
  }
};

// What a forward call leaves for backward.
struct State {
  Pool *pool;
  std::vector<std::unique_ptr<Frame>> frames;
};

enum Result { OK = 0, TOO_MANY_PAIRS = -1, OUT_OF_MEMORY = -2 };  // positive: bits of arguments that are not finite

// Bits of the per-frame arguments (camera, background) that hold NaN, infinity or a focal length that is not positive.
uint32_t bad_cameras(const Call &call) {
  uint32_t bad = 0;
  auto check = [&](Argument argument, int width) {
    if (!call.in[argument]) return;
    for (int frame = 0; frame < call.frames; frame++) {
      const float *values = call.in[argument] + (size_t)call.index[argument][frame] * width;
      for (int k = 0; k < width; k++) bad |= (uint32_t)!std::isfinite(values[k]) << argument;
      if (argument == KS && !(values[0] > 0 && values[4] > 0)) bad |= 1u << argument;
    }
  };
  check(VIEWMATS, 16), check(KS, 9), check(BACKGROUND, 3);
  return bad;
}

// Runs f(frame, scratch, crew) for all frames: whole frames on each thread when there are several, else all threads inside
// each frame.
template <class F> void over_frames(const Call &call, Pool &pool, F &&f) {
  bool frame_parallel = call.frames > 1;
  // A helper costs about 50 us to start: too much for the smallest calls.
  bool tiny = ((size_t)call.count + (size_t)call.width * call.height / 8) * call.frames < 2000;
  Crew crew(tiny ? 1 : frame_parallel && call.threads > call.frames ? call.frames : call.threads);
  if (!frame_parallel) {
    std::unique_ptr<Scratch> scratch = pool.take(pool.scratches);
    for (int frame = 0; frame < call.frames; frame++) f(frame, *scratch, crew);
    pool.give(pool.scratches, std::move(scratch));
    return;
  }
  std::vector<std::unique_ptr<Scratch>> scratch(crew.size());
  for (auto &s : scratch) s = pool.take(pool.scratches);
  crew.each(call.frames, [&](int frame, int worker) {
    Crew alone(1);
    f(frame, *scratch[worker], alone);
  });
  for (auto &s : scratch) pool.give(pool.scratches, std::move(s));
}

}  // namespace splat

using namespace splat;

extern "C" {

// Best SIMD build that this machine runs: 3 AVX-512, 2 AVX2, 1 portable.
int splat_best_isa() { return runs_here(3) ? 3 : runs_here(2) ? 2 : 1; }
int splat_isa_runs(int isa) { return kernel_of(isa) && runs_here(isa); }
int splat_call_bytes() { return (int)sizeof(Call); }

void *splat_pool_create(size_t limit_bytes) {
  Pool *pool = new (std::nothrow) Pool();
  if (pool) pool->limit_bytes = limit_bytes;
  return pool;
}
void splat_pool_destroy(void *pool) { delete (Pool *)pool; }
size_t splat_pool_bytes(void *p) {
  Pool *pool = (Pool *)p;
  std::lock_guard<std::mutex> lock(pool->mutex);
  return pool->held();
}

// On success *state is null unless call->keep_state.
int splat_forward(void *p, const Call *call, void **state_out) {
  *state_out = nullptr;
  Pool &pool = *(Pool *)p;
  try {
    const Kernel *kernel = kernel_of(call->isa);
    if (uint32_t bad = bad_cameras(*call)) return (int)bad;
    std::atomic<uint32_t> bad{0};
    std::atomic<int> failed{OK};
    std::unique_ptr<State> state(new State{&pool, {}});
    state->frames.resize(call->keep_state ? call->frames : 0);
    over_frames(*call, pool, [&](int frame, Scratch &scratch, Crew &crew) {
      if (bad.load() || failed.load()) return;
      try {
        std::unique_ptr<Frame> f = pool.take(pool.frames);
        if (!kernel->forward(*call, frame, *f, scratch, crew, bad)) failed.store(TOO_MANY_PAIRS);
        if (call->keep_state)
          state->frames[frame] = std::move(f);
        else
          pool.give(pool.frames, std::move(f));
      } catch (const std::bad_alloc &) {
        failed.store(OUT_OF_MEMORY);
      }
    });
    if (bad.load()) return (int)bad.load();
    if (failed.load()) return failed.load();
    if (call->keep_state) *state_out = state.release();
    return OK;
  } catch (const std::bad_alloc &) {
    return OUT_OF_MEMORY;
  }
}

int splat_backward(void *state_pointer, const Call *call) {
  State &state = *(State *)state_pointer;
  try {
    const Kernel *kernel = kernel_of(call->isa);
    std::atomic<int> failed{OK};
    Turns turns;
    std::vector<std::atomic<int>> turn;
    bool shared = false;
    for (int a = 0; a < ARGUMENTS; a++)
      for (int frame = 0; frame < call->frames && call->grad[a]; frame++) shared |= !call->first[a][frame];
    if (shared && call->frames > 1) {
      turn = std::vector<std::atomic<int>>((call->count + BLOCK - 1) / BLOCK + 1);
      for (auto &t : turn) t.store(0);
      turns.turn = turn.data();
    }
    over_frames(*call, *state.pool, [&](int frame, Scratch &scratch, Crew &crew) {
      try {
        kernel->backward(*call, frame, *state.frames[frame], scratch, crew, turns);
      } catch (const std::bad_alloc &) {
        failed.store(OUT_OF_MEMORY);
        for (size_t b = 0; b < turn.size(); b++) {
          wait_for_turn(turn[b], frame);
          turn[b].store(frame + 1);
        }
      }
    });
    return failed.load();
  } catch (const std::bad_alloc &) {
    return OUT_OF_MEMORY;
  }
}

void splat_state_free(void *state_pointer) {
  std::unique_ptr<State> state((State *)state_pointer);
  if (!state) return;
  for (auto &f : state->frames)
    if (f) state->pool->give(state->pool->frames, std::move(f));
}

// seconds (6): project, sort, bin, blend, blend_backward, project_backward summed over frames; counts (4): visible splats,
// (tile, splat) pairs, 4x4 patches that some splat changed, bytes held.
void splat_state_profile(void *state_pointer, int count, int tiles, double *seconds, int64_t *counts) {
  State &state = *(State *)state_pointer;
  std::memset(seconds, 0, PHASES * sizeof(double));
  std::memset(counts, 0, 4 * sizeof(int64_t));
  for (auto &f : state.frames) {
    for (int p = 0; p < PHASES; p++) seconds[p] += f->seconds[p];
    counts[0] += f->visible;
    counts[1] += f->first_row[count];
    for (int t = 0; t < tiles; t++)
      for (uint32_t i = f->tile_start[t]; i < f->tile_end[t]; i++) counts[2] += __builtin_popcountll(f->patch_masks[i]);
    counts[3] += (int64_t)f->bytes();
  }
}

double splat_peak_gflops(int isa, double milliseconds, int threads) {
  const Kernel *kernel = kernel_of(isa);
  std::vector<double> rates(threads);
  Crew crew(threads);
  std::atomic<int> arrived{0};
  crew.each(threads, [&](int item, int) {
    arrived++;
    while (arrived.load() < crew.size()) std::this_thread::yield();
    rates[item] = kernel->peak_gflops(milliseconds);
  });
  double total = 0;
  for (double rate : rates) total += rate;
  return total;
}

}  // extern "C"
