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

// Whether the kernel lets this process have tiles, which it is asked for once.
inline bool tiles_work() {
    constexpr int REQUEST = 0x1023, TILES = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    static const bool granted = syscall(SYS_arch_prctl, REQUEST, TILES) == 0;
    return granted;
}

// While it lives, this thread's tiles have these forms: 0 to 3 hold sums of so many rows and 4, 5 the rows, 6, 7 the
// columns that they are multiplied with.
class Forms {
    struct alignas(64) Config {
        uint8_t palette = 1, start = 0, none[14] = {};
        uint16_t bytes[16] = {};
        uint8_t rows[16] = {};
    };

  public:
    explicit Forms(int64_t rows) {  // or of none, where no tiles are used
        if (rows == 0) return;
        Config config;
        for (int i = 0; i < 8; i++) config.bytes[i] = 64, config.rows[i] = uint8_t(i < 6 ? rows : TALL);
        written();  // not every compiler knows that tiles are read from memory
        _tile_loadconfig(&config);
        used = true;
    }
    ~Forms() {
        if (used) _tile_release();
    }

  private:
    bool used = false;
};

#else

inline bool tiles_work() { return false; }

struct Forms {
    explicit Forms(int64_t) {}
};

#endif

}  // namespace
