// The threads of one call. They live as long as the Crew object: no pool outlives a call, so nothing is shared between
// callers, and fork() is harmless. A phase ends when all its items are done, not when all threads have arrived: a helper
// that the operating system has not scheduled yet delays nobody.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace splat {

class Crew {
 public:
  explicit Crew(int threads);
  ~Crew();
  Crew(const Crew &) = delete;
  Crew &operator=(const Crew &) = delete;
  int size() const { return (int)helpers_.size() + 1; }

  // Calls f(item, worker) for every item in [0, n), items in ascending order of start; worker < size().
  template <class F> void each(int n, F &&f) {
    if (helpers_.empty() || n <= 1) {
      for (int i = 0; i < n; i++) f(i, 0);
      return;
    }
    run(n, [](void *context, int item, int worker) { (*(F *)context)(item, worker); }, (void *)&f);
  }

 private:
  typedef void (*Function)(void *context, int item, int worker);
  void run(int n, Function function, void *context);
  void work(uint32_t generation, int n, Function function, void *context, int worker);
  void help(int worker);

  std::vector<std::thread> helpers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> next_{0};  // generation << 32 | next item
  std::atomic<int> done_{0};
  std::atomic<uint32_t> generation_{0};
  bool stop_ = false;
  int n_ = 0;
  Function function_ = nullptr;
  void *context_ = nullptr;
};

}  // namespace splat
