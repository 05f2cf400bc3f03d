// Tiles of AMX, where a CPU has them: 16 rows of 64 bytes.

#pragma once

#include "vectors.h"

#if defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define WITH_TILES
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int64_t TALL = 16;  // rows of a tile

#if defined(WITH_TILES)

// Whether the operating system permits AMX tiles. Asks once.
inline bool tiles_work() {
    constexpr int REQUEST = 0x1023, TILES = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    static const bool granted = syscall(SYS_arch_prctl, REQUEST, TILES) == 0;
    return granted;
}

// Configures this thread's tiles for its lifetime: 0 to 3 hold sums, 4 and 5 the left factors, both with `rows` rows; 6
// and 7 the right factors, with `deep` rows.
class TileConfig {
    struct alignas(64) Config {
        uint8_t palette = 1, start = 0, none[14] = {};
        uint16_t bytes[16] = {};
        uint8_t rows[16] = {};
    };

  public:
    explicit TileConfig(int64_t rows, int64_t deep = TALL) {  // of 0 rows: no tiles are used
        if (rows == 0) return;
        Config config;
        for (int i = 0; i < 8; i++) {
            config.bytes[i] = uint16_t(i == 4 || i == 5 ? 4 * deep : 64);
            config.rows[i] = uint8_t(i < 6 ? rows : deep);
        }
        compiler_barrier();  // not every compiler knows that tile instructions read memory
        _tile_loadconfig(&config);
        used = true;
    }
    ~TileConfig() {
        if (used) _tile_release();
    }

  private:
    bool used = false;
};

#else

inline bool tiles_work() { return false; }

struct TileConfig {
    explicit TileConfig(int64_t, int64_t = TALL) {}
};

#endif

}  // namespace
