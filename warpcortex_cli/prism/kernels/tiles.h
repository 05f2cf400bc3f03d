// The same products by tiles of AMX, where a CPU has it: 16 tokens, 16 outputs and 64 inputs in one instruction.

#pragma once

#include "products.h"

#if defined(__AMX_INT8__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int64_t TALL = 16;  // tokens of a tile

#if defined(__AMX_INT8__) && defined(__linux__)

// Whether the kernel lets this process have tiles, which it is asked for once.
inline bool tiles_work() {
    constexpr int REQUEST = 0x1023, TILES = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    static const bool granted = syscall(SYS_arch_prctl, REQUEST, TILES) == 0;
    return granted;
}

// While it lives, this thread's tiles have these forms: 0 to 3 are sums and 4, 5 tokens, 6, 7 are weights.
struct Forms {
    struct alignas(64) Config {
        uint8_t palette = 1, start = 0, none[14] = {};
        uint16_t bytes[16] = {};
        uint8_t rows[16] = {};
    };

    explicit Forms(int64_t tokens) {
        Config config;
        for (int i = 0; i < 8; i++) config.bytes[i] = LINE, config.rows[i] = uint8_t(i < 6 ? tokens : CHUNK / FOUR);
        _tile_loadconfig(&config);
    }
    ~Forms() { _tile_release(); }
};

// Adds what `chunks` chunks of P panels give to the sums of A tiles of tokens, or begins these.
template <int A, int P>
inline void multiply_tiles(bool begins, const uint8_t* weights, int64_t panel, int64_t chunks,
                           const int8_t* const* tokens, const int64_t* wide, Ints* const* sums) {
    if (begins) {
        _tile_zero(0);
        if constexpr (A > 1) _tile_zero(1);
        if constexpr (P > 1) _tile_zero(2);
        if constexpr (A > 1 && P > 1) _tile_zero(3);
    } else {
        _tile_loadd(0, sums[0], LINE);
        if constexpr (A > 1) _tile_loadd(1, sums[1], LINE);
        if constexpr (P > 1) _tile_loadd(2, sums[2], LINE);
        if constexpr (A > 1 && P > 1) _tile_loadd(3, sums[3], LINE);
    }
    for (int64_t c = 0; c < chunks; c++) {
        const uint8_t* at = weights + c * CHUNK * LANES;
        for (int p = 0; p < P; p++)
            for (int64_t i = 0; i < CHUNK * LANES; i += LINE) __builtin_prefetch(at + p * panel + i + AHEAD);
        _tile_loadd(4, tokens[0] + c * CHUNK * wide[0], CHUNK);
        if constexpr (A > 1) _tile_loadd(5, tokens[1] + c * CHUNK * wide[1], CHUNK);
        _tile_loadd(6, at, LINE);
        _tile_dpbsud(0, 4, 6);
        if constexpr (A > 1) _tile_dpbsud(1, 5, 6);
        if constexpr (P > 1) {
            _tile_loadd(7, at + panel, LINE);
            _tile_dpbsud(2, 4, 7);
            if constexpr (A > 1) _tile_dpbsud(3, 5, 7);
        }
    }
    _tile_stored(0, sums[0], LINE);
    if constexpr (A > 1) _tile_stored(1, sums[1], LINE);
    if constexpr (P > 1) _tile_stored(2, sums[2], LINE);
    if constexpr (A > 1 && P > 1) _tile_stored(3, sums[3], LINE);
}

// All tokens with P panels. Numbers of 4 bits become bytes first, a few chunks at once, which stay in the first cache.
template <int BITS, int P>
void tile_sums(const Tokens& x, const uint8_t* panels, int64_t panel, Ints* sums) {
    alignas(LINE) uint8_t bytes[BITS == 4 ? P : 1][BITS == 4 ? NEAR * CHUNK * LANES : 1];
    for (int64_t first = 0; first < x.chunks; first += NEAR) {
        const int64_t chunks = std::min(NEAR, x.chunks - first);
        const uint8_t* weights = panels + first * CHUNK * LANES;
        int64_t between = panel;
        if constexpr (BITS == 4) {
            for (int p = 0; p < P; p++)
                for (int64_t g = 0; g < chunks * (CHUNK / GROUP); g++) {
                    const Group<BITS> group(panels + p * panel, x.chunks, first * (CHUNK / GROUP) + g);
                    for (int pair = 0; pair < GROUP / FOUR / 2; pair++) {
                        Bytes two[2];
                        group.read(pair, two);
                        std::memcpy(bytes[p] + (g * (GROUP / FOUR) + 2 * pair) * LINE, two, sizeof(two));
                    }
                }
            weights = bytes[0], between = sizeof(bytes[0]);
        }
        for (int64_t tile = 0; tile < x.tiles(); tile += 2) {
            const int8_t* tokens[2];
            int64_t wide[2];
            Ints* to[2 * P];
            const int a = tile + 1 < x.tiles() ? 2 : 1;
            for (int i = 0; i < a; i++) {
                wide[i] = x.start(tile + i + 1) - x.start(tile + i);
                tokens[i] = x.tile(tile + i) + first * CHUNK * wide[i];
                for (int p = 0; p < P; p++) to[2 * p + i] = sums + p * x.places() + (tile + i) * x.tall();
            }
            (a == 2 ? multiply_tiles<2, P> : multiply_tiles<1, P>)(first == 0, weights, between, chunks, tokens, wide, to);
        }
    }
}

#else

inline bool tiles_work() { return false; }

struct Forms {
    explicit Forms(int64_t) {}
};

template <int BITS, int P>
void tile_sums(const Tokens&, const uint8_t*, int64_t, Ints*) {}

#endif

}  // namespace
