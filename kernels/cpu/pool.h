// One pool of threads for every kernel.
#pragma once
#include <cstdint>

using Body = void (*)(void* context, int64_t begin, int64_t end);

// body(context, begin, end) over chunks of `grain` that cover [0, count), on at most `threads` threads: the caller and
// helpers who take the next chunk as they come free. Returns when all is done. Called from inside a body, or while
// another thread of the program uses the pool, it runs on the caller alone. `body` must not throw.
void parallel_for(int64_t count, int64_t grain, int threads, Body body, void* context);

// The same for a callable.
template <class F>
void parallel(int64_t count, int64_t grain, int threads, const F& f) {
  parallel_for(
      count, grain, threads,
      [](void* context, int64_t begin, int64_t end) { (*static_cast<const F*>(context))(begin, end); },
      const_cast<F*>(&f));
}
