// Threads that compute a step together.
//
// All threads run the same function. Large work is split; small work is repeated by every thread, since fetching it from
// another core takes longer. A waiting thread prefetches the weights that it reads next: the weights of a small model's
// layer are read in about ten microseconds, part of which memory would otherwise need to get up to speed after each wait.

#pragma once

#include "vectors.h"

#include <atomic>
#include <thread>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace {

constexpr int64_t FEW = 12;  // tokens: up to this many, every thread repeats the cheap work

// Memory that will be read: one range, or two in parallel.
struct Later {
    const uint8_t* at[2];
    int64_t bytes;  // of each range
};

class Team {
  public:
    struct alignas(LINE) Count {
        std::atomic<int64_t> value{0};
        uint8_t apart[LINE] = {};  // some CPUs fetch lines in pairs
    };

    const int me, threads;

    // `counts`: shared by all threads, `counted(threads)` of them, all 0.
    Team(int me, int threads, Count* counts) : me(me), threads(threads), counts(counts) {}

    static int64_t counted(int threads) { return 2 + 2 * threads; }

    // Announces what this thread reads next; `wait` prefetches it.
    void later(const Later& soon) {
        ahead = soon, prefetched = 0;
        if (threads == 1) return;
        for (int64_t line = 0; line < AT_ONCE && prefetched < ahead.bytes; line++) prefetch();
    }

    // A barrier: returns when all threads have arrived.
    void wait() {
        if (threads == 1) return;
        std::atomic<int64_t>&come = counts[0].value, &gone = counts[1].value;
        const int64_t turn = gone.load(std::memory_order_relaxed);
        if (come.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
            come.store(0, std::memory_order_relaxed);
            return gone.store(turn + 1, std::memory_order_release);
        }
        for (int64_t looks = 0; gone.load(std::memory_order_acquire) == turn; looks++) {
            if (prefetched < ahead.bytes) prefetch();
            else if (looks < AWAKE) rest();
            else std::this_thread::yield();  // another program runs on the core of a thread we wait for
        }
    }

    // This thread's share of the pieces, [first, last).
    int64_t first(int64_t pieces) const { return pieces * me / threads; }
    int64_t last(int64_t pieces) const { return pieces * (me + 1) / threads; }

    // Calls `use` once for each piece. A thread takes its own share first, then steals from others, which other programs
    // may have slowed down. Threads must `wait` between two calls.
    template <typename Use>
    void share(int64_t pieces, Use use) {
        Count *now = counts + 2 + turn * threads, *next = counts + 2 + (1 - turn) * threads;
        next[me].value.store(0, std::memory_order_relaxed);
        turn = 1 - turn;
        for (int i = 0; i < threads; i++) {
            const int owner = me + i < threads ? me + i : me + i - threads;
            const int64_t from = pieces * owner / threads, size = pieces * (owner + 1) / threads - from;
            std::atomic<int64_t>& taken = now[owner].value;
            if (taken.load(std::memory_order_relaxed) >= size) continue;
            for (int64_t piece; (piece = taken.fetch_add(1, std::memory_order_relaxed)) < size;) use(from + piece);
        }
    }

    // Calls `use` for each token: few tokens in every thread, many tokens each in one.
    template <typename Use>
    void each(int64_t tokens, Use use) const {
        const bool few = tokens <= FEW;
        for (int64_t token = few ? 0 : first(tokens), end = few ? tokens : last(tokens); token < end; token++)
            use(token);
    }

  private:
    static constexpr int64_t AT_ONCE = 32;     // cache lines in flight
    static constexpr int64_t AWAKE = 100'000;  // spins before yielding: some milliseconds

    Count* counts;  // threads that have arrived; barriers passed; twice, how many of each thread's pieces are taken
    int turn = 0;
    Later ahead = {};
    int64_t prefetched = 0;  // bytes of `ahead` that were prefetched

    void prefetch() {
        for (const uint8_t* at : ahead.at)
            if (at) __builtin_prefetch(at + prefetched, 0, 2);
        prefetched += LINE;
    }

    static void rest() {
#if defined(__x86_64__)
        _mm_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
    }
};

// Calls `use` with the team in each of `threads` threads.
template <typename Use>
void together(int threads, Use use) {
    static thread_local AlignedVector<Team::Count> held;
    if (int64_t(held.size()) < Team::counted(threads)) held = AlignedVector<Team::Count>(Team::counted(threads));
    for (Team::Count& count : held) count.value = 0;
    Team::Count* counts = held.data();
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads)
    {
        Team team(omp_get_thread_num(), omp_get_num_threads(), counts);
        use(team);
    }
#else
    Team team(0, 1, counts);
    use(team);
#endif
}

}  // namespace
