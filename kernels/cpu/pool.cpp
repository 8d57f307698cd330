// The pool: helpers spin briefly, then sleep; nobody waits for one that is still waking up.
#include "pool.h"

#include <pthread.h>

#include <atomic>
#include <mutex>
#include <system_error>
#include <thread>

namespace {

// How often a helper looks for the next job before it sleeps: tens of microseconds, as long as the pauses between the
// matrices of one token. A sleeper takes as long to wake.
constexpr int kSpins = 1000;
constexpr int kMostThreads = 256;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

thread_local bool inside = false;  // this thread is running a body

class Pool {
 public:
  void run(int64_t count, int64_t grain, int threads, Body body, void* context) {
    body_ = body;
    context_ = context;
    count_ = count;
    grain_ = grain;
    helpers_ = hire(threads - 1);
    next_.store(0, std::memory_order_relaxed);
    open_.store(true);
    epoch_.fetch_add(1);
    epoch_.notify_all();
    work();
    // Whoever comes from here on finds the door closed; whoever is in is waited for.
    open_.store(false);
    while (active_.load() != 0) relax();
  }

  std::mutex busy;

 private:
  // How many of the wanted helpers there are, starting those that are missing; fewer where the system refuses.
  int hire(int wanted) {
    try {
      for (; hired_ < wanted; ++hired_) std::thread(&Pool::loop, this, hired_, epoch_.load()).detach();
    } catch (const std::system_error&) {
    }
    return wanted < hired_ ? wanted : hired_;
  }

  void loop(int index, int seen) {
    inside = true;
    for (;;) {
      for (int i = 0; i < kSpins && epoch_.load() == seen; ++i) relax();
      epoch_.wait(seen);
      seen = epoch_.load();
      // Announced first, asked second: either the caller sees this helper, or this helper sees the closed door.
      active_.fetch_add(1);
      if (open_.load() && index < helpers_) work();
      active_.fetch_sub(1);
    }
  }

  void work() {
    for (;;) {
      const int64_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
      if (begin >= count_) return;
      body_(context_, begin, begin + grain_ < count_ ? begin + grain_ : count_);
    }
  }

  // The job; written while the door is closed and nobody is in.
  Body body_ = nullptr;
  void* context_ = nullptr;
  int64_t count_ = 0, grain_ = 1;
  int helpers_ = 0, hired_ = 0;

  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<int> epoch_{0};
  alignas(64) std::atomic<int> active_{0};
  std::atomic<bool> open_{false};
};

// Never destroyed: helpers may still sleep in it when the program ends. A forked child has none of its parent's
// helpers, and its locks are in an unknown state: it gets a pool of its own.
std::atomic<Pool*> current{nullptr};

Pool& pool() {
  static const bool prepared = [] {
    current.store(new Pool);
    pthread_atfork(nullptr, nullptr, [] {
      inside = false;
      current.store(new Pool);
    });
    return true;
  }();
  (void)prepared;
  return *current.load();
}

}  // namespace

void parallel_for(int64_t count, int64_t grain, int threads, Body body, void* context) {
  if (count <= 0) return;
  if (grain < 1) grain = 1;
  const int64_t chunks = (count + grain - 1) / grain;
  if (threads > kMostThreads) threads = kMostThreads;
  if (threads > chunks) threads = static_cast<int>(chunks);
  if (threads > 1 && !inside) {
    Pool& shared = pool();
    if (shared.busy.try_lock()) {
      inside = true;
      shared.run(count, grain, threads, body, context);
      inside = false;
      shared.busy.unlock();
      return;
    }
  }
  body(context, 0, count);
}
