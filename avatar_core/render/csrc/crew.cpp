#include "crew.h"

namespace splat {

Crew::Crew(int threads) {
  for (int worker = 1; worker < threads; worker++) {
    try {
      helpers_.emplace_back([this, worker] { help(worker); });
    } catch (...) {
      break;  // the system grants no more threads: go on with those we have
    }
  }
}

Crew::~Crew() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    generation_++;
  }
  wake_.notify_all();
  for (auto &helper : helpers_) helper.join();
}

void Crew::run(int n, Function function, void *context) {
  uint32_t generation;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    generation = ++generation_;
    n_ = n;
    function_ = function;
    context_ = context;
    done_.store(0);
    next_.store((uint64_t)generation << 32);
  }
  wake_.notify_all();
  work(generation, n, function, context, 0);
  for (int spins = 0; done_.load(std::memory_order_acquire) < n; spins++)
    if (spins > 200) std::this_thread::yield();
}

// Takes items until none is left. The generation in next_ keeps a late helper from taking an item of a later phase.
void Crew::work(uint32_t generation, int n, Function function, void *context, int worker) {
  uint64_t seen = next_.load();
  for (;;) {
    if ((uint32_t)(seen >> 32) != generation || (int)(uint32_t)seen >= n) return;
    if (!next_.compare_exchange_weak(seen, seen + 1)) continue;
    function(context, (int)(uint32_t)seen, worker);
    done_.fetch_add(1, std::memory_order_release);
    seen = next_.load();
  }
}

void Crew::help(int worker) {
  uint32_t known = 0;
  for (;;) {
    for (int spins = 0; spins < 4000 && generation_.load(std::memory_order_acquire) == known; spins++)
      std::atomic_signal_fence(std::memory_order_seq_cst);
    int n;
    Function function;
    void *context;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return stop_ || generation_.load() != known; });
      if (stop_) return;
      known = generation_.load();
      n = n_;
      function = function_;
      context = context_;
    }
    work(known, n, function, context, worker);
  }
}

}  // namespace splat
