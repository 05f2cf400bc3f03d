// Tiles of AMX in plain C++, for tests on a CPU without: `-include` it. What tiles hold is the thread's own, as there.

#include <immintrin.h>
#include <cstdint>
#include <cstring>
#include <sys/syscall.h>
#include <unistd.h>

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_dpbsud
#undef _tile_dpbuud
#define __AMX_INT8__ 1
#define __AMX_BF16__ 1
#define syscall(...) 0

namespace emulated {

struct Tile {
    alignas(64) uint8_t at[16][64];
};
inline thread_local Tile tiles[8];
inline thread_local uint16_t bytes[8];
inline thread_local uint8_t rows[8];

inline void configure(const void* from) {
    std::memcpy(bytes, (const char*)from + 16, sizeof(bytes));
    std::memcpy(rows, (const char*)from + 48, sizeof(rows));
}

inline void load(int tile, const void* from, int64_t stride) {
    for (int i = 0; i < rows[tile]; i++) std::memcpy(tiles[tile].at[i], (const char*)from + i * stride, bytes[tile]);
}

inline void keep(int tile, void* to, int64_t stride) {
    for (int i = 0; i < rows[tile]; i++) std::memcpy((char*)to + i * stride, tiles[tile].at[i], bytes[tile]);
}

inline float wide(const uint8_t* half) {
    uint16_t x;
    std::memcpy(&x, half, 2);
    const uint32_t bits = uint32_t(x) << 16;
    float found;
    std::memcpy(&found, &bits, 4);
    return found;
}

inline void multiply(int to, int a, int b) {
    for (int m = 0; m < rows[to]; m++)
        for (int n = 0; n < bytes[to] / 4; n++) {
            float sum;
            std::memcpy(&sum, tiles[to].at[m] + 4 * n, 4);
            for (int k = 0; k < bytes[a] / 4; k++)
                for (int i = 0; i < 4; i += 2)
                    sum += wide(tiles[a].at[m] + 4 * k + i) * wide(tiles[b].at[k] + 4 * n + i);
            std::memcpy(tiles[to].at[m] + 4 * n, &sum, 4);
        }
}

template <typename Left>
inline void multiply_bytes(int to, int a, int b) {
    for (int m = 0; m < rows[to]; m++)
        for (int n = 0; n < bytes[to] / 4; n++) {
            uint32_t sum;
            std::memcpy(&sum, tiles[to].at[m] + 4 * n, 4);
            for (int k = 0; k < bytes[a]; k++)
                sum += uint32_t(int32_t(Left(tiles[a].at[m][k])) * int32_t(tiles[b].at[k / 4][4 * n + k % 4]));
            std::memcpy(tiles[to].at[m] + 4 * n, &sum, 4);
        }
}

}  // namespace emulated

#define _tile_loadconfig(from) emulated::configure(from)
#define _tile_release() ((void)0)
#define _tile_zero(tile) std::memset(&emulated::tiles[tile], 0, sizeof(emulated::Tile))
#define _tile_loadd(tile, from, stride) emulated::load(tile, from, stride)
#define _tile_stored(tile, to, stride) emulated::keep(tile, to, stride)
#define _tile_dpbf16ps(to, a, b) emulated::multiply(to, a, b)
#define _tile_dpbsud(to, a, b) emulated::multiply_bytes<int8_t>(to, a, b)
#define _tile_dpbuud(to, a, b) emulated::multiply_bytes<uint8_t>(to, a, b)
