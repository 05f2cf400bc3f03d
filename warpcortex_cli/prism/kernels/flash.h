// Attention of many queries to the same bfloat16 keys and values, by AMX tiles.
//
// As in FlashAttention (arXiv 2205.14135), keys are read a batch at a time: scores are one product, the softmax is
// online, and the weighted values are another product.

#pragma once

#include "amx.h"
#include "softmax.h"

namespace {

#if defined(WITH_TILES)

constexpr int64_t WORD = 2;            // numbers that tiles multiply as a pair, and bytes of a number
constexpr int64_t DEEP = TALL * WORD;  // numbers in a row of a tile
constexpr int64_t TILE_NUMBERS = TALL * DEEP;

// Transposes 16 rows of 16 pairs: row i of the result holds pair i of every row.
inline void turned(const uint16_t* const* rows, uint16_t* to) {
    __m512i t[16], r[16];
    for (int i = 0; i < 16; i++) t[i] = _mm512_loadu_si512(rows[i]);
    for (int i = 0; i < 16; i += 2) {
        r[i] = _mm512_unpacklo_epi32(t[i], t[i + 1]);
        r[i + 1] = _mm512_unpackhi_epi32(t[i], t[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            t[i + 2 * j] = _mm512_unpacklo_epi64(r[i + j], r[i + j + 2]);
            t[i + 2 * j + 1] = _mm512_unpackhi_epi64(r[i + j], r[i + j + 2]);
        }
    for (int j = 0; j < 4; j++)
        for (int half = 0; half < 2; half++) {
            r[8 * half + j] = _mm512_shuffle_i32x4(t[8 * half + j], t[8 * half + 4 + j], 0x88);
            r[8 * half + 4 + j] = _mm512_shuffle_i32x4(t[8 * half + j], t[8 * half + 4 + j], 0xdd);
        }
    for (int j = 0; j < 8; j++) {
        _mm512_storeu_si512(to + j * DEEP, _mm512_shuffle_i32x4(r[j], r[8 + j], 0x88));
        _mm512_storeu_si512(to + (8 + j) * DEEP, _mm512_shuffle_i32x4(r[j], r[8 + j], 0xdd));
    }
}

// Interleaves two rows of 32 numbers into pairs with one number of each row.
inline void paired(const uint16_t* first, const uint16_t* second, uint16_t* low, uint16_t* high) {
    static const struct Orders {
        uint16_t low[DEEP], high[DEEP];
        Orders() {
            for (int i = 0; i < DEEP; i++) low[i] = uint16_t(i / 2 + i % 2 * DEEP), high[i] = uint16_t(low[i] + TALL);
        }
    } orders;
    const __m512i a = _mm512_loadu_si512(first), b = _mm512_loadu_si512(second);
    _mm512_storeu_si512(low, _mm512_permutex2var_epi16(a, _mm512_loadu_si512(orders.low), b));
    _mm512_storeu_si512(high, _mm512_permutex2var_epi16(a, _mm512_loadu_si512(orders.high), b));
}

inline Floats higher(const Floats& a, const Floats& b) { return choose(a > b, a, b); }

constexpr int64_t MANY = 128;  // keys of a batch

// A matrix in tiles: `next` numbers from one tile of a row to the next, `stride` bytes from one row of a tile to the next.
template <typename T>
struct Tiled {
    T* at[2];  // the beginnings of two rows of tiles
    int64_t next, stride;
};

// Multiplies A rows of `count` tiles with two columns of tiles and adds the products to the sums, or begins these.
template <int A>
inline void multiply_pairs(bool begins, Tiled<const uint16_t> rows, Tiled<const uint16_t> columns, int64_t count,
                           Tiled<float> sums) {
    compiler_barrier();
    if (begins) {
        _tile_zero(0);
        _tile_zero(2);
        if constexpr (A > 1) _tile_zero(1);
        if constexpr (A > 1) _tile_zero(3);
    } else {
        _tile_loadd(0, sums.at[0], sums.stride);
        _tile_loadd(2, sums.at[0] + sums.next, sums.stride);
        if constexpr (A > 1) _tile_loadd(1, sums.at[1], sums.stride);
        if constexpr (A > 1) _tile_loadd(3, sums.at[1] + sums.next, sums.stride);
    }
    for (int64_t i = 0; i < count; i++) {
        _tile_loadd(6, columns.at[0] + i * columns.next, columns.stride);
        _tile_loadd(4, rows.at[0] + i * rows.next, rows.stride);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (A > 1) _tile_loadd(5, rows.at[1] + i * rows.next, rows.stride);
        if constexpr (A > 1) _tile_dpbf16ps(1, 5, 6);
        _tile_loadd(7, columns.at[1] + i * columns.next, columns.stride);
        _tile_dpbf16ps(2, 4, 7);
        if constexpr (A > 1) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums.at[0], sums.stride);
    _tile_stored(2, sums.at[0] + sums.next, sums.stride);
    if constexpr (A > 1) _tile_stored(1, sums.at[1], sums.stride);
    if constexpr (A > 1) _tile_stored(3, sums.at[1] + sums.next, sums.stride);
}

// The online softmax of a task's queries. Scores are scaled by log2(e), so that exp becomes a power of 2.
class Flash {
  public:
    // Begins with `count` queries of `d` numbers; `place` is the number of the first key.
    void begin(int64_t count, int64_t d, float scaling, int64_t place) {
        this->d = d, this->place = place, factor = scaling * LOG2E;
        tiles = (count + TALL - 1) / TALL, tall = (count + tiles - 1) / tiles;
        query.resize(tiles * tall * d), sights.assign(tiles * tall, 0);
        gathered.assign(tiles * tall * d, 0);
        highest.assign(tiles, splat(std::numeric_limits<float>::lowest()));
        sum.assign(tiles, Floats{});
        turned_keys.resize(MANY * d), paired_values.resize(MANY * d);
        scores.resize(2 * TALL * MANY), weights.resize(2 * TALL * MANY);
    }

    // Sets query q, which sees the keys before number `sight`.
    void set_query(int64_t q, const uint16_t* numbers, int64_t sight) {
        std::copy_n(numbers, d, &query[q * d]);
        sights[q] = sight;
    }

    int64_t height() const { return tall; }

    // Queues the next keys and values and prefetches them; they are read after the next batch was queued.
    void take(Span<uint16_t> span) {
        for (int64_t first = 0, here; first < span.tokens; first += here) {
            Batch& batch = batches[newest];
            here = std::min(span.tokens - first, MANY - batch.count);
            const uint16_t *keys = span.keys + first * d, *values = span.values + first * d;
            for (int64_t i = 0; i < here; i++)
                batch.keys[batch.count + i] = keys + i * d, batch.values[batch.count + i] = values + i * d;
            for (int64_t at = 0; at < here * d; at += DEEP)
                __builtin_prefetch(keys + at), __builtin_prefetch(values + at);
            batch.count += here;
            if (batch.count == MANY) newest = 1 - newest, read(batches[newest]);
        }
    }

    // Reads what is left.
    void finish() {
        read(batches[1 - newest]);
        read(batches[newest]);
    }

    // The state of query q: the maximum score, the sum of weights, the weighted sum of values.
    void result(int64_t q, float* state) const {
        state[0] = ((const float*)highest.data())[q / tall * LANES + q % tall] / LOG2E;
        state[1] = ((const float*)sum.data())[q / tall * LANES + q % tall];
        std::copy_n(&gathered[q * d], d, state + 2);
    }

  private:
    struct Batch {
        int64_t count = 0;
        const uint16_t *keys[MANY], *values[MANY];
    };

    int64_t d, tiles, tall, place, newest = 0;
    float factor;
    std::vector<int64_t> sights;
    Batch batches[2];
    AlignedVector<uint16_t> query, turned_keys, paired_values, weights;
    AlignedVector<float> scores, gathered;
    std::vector<Floats> highest, sum;

    void read(Batch& batch) {
        if (batch.count == 0) return;
        const int64_t parts = (batch.count + DEEP - 1) / DEEP;
        arrange(batch, parts * DEEP);
        for (int64_t tile = 0; tile < tiles; tile += 2) {
            const bool two = tile + 1 < tiles;
            (two ? &Flash::score<2> : &Flash::score<1>)(*this, tile, parts);
            for (int64_t t = 0; t <= int64_t(two); t++) update_softmax(tile + t, t * TALL * MANY, batch.count, parts);
            (two ? &Flash::gather<2> : &Flash::gather<1>)(*this, tile, parts);
        }
        place += batch.count, batch.count = 0;
    }

    // Lays keys and values out as right factors. The last one pads the batch, with weight 0.
    void arrange(Batch& batch, int64_t filled) {
        const uint16_t *rows[TALL], **keys = batch.keys, **values = batch.values;
        std::fill(keys + batch.count, keys + filled, keys[batch.count - 1]);
        std::fill(values + batch.count, values + filled, values[batch.count - 1]);
        for (int64_t first = 0; first < filled; first += TALL)
            for (int64_t at = 0; at < d; at += DEEP) {
                for (int64_t i = 0; i < TALL; i++) rows[i] = keys[first + i] + at;
                turned(rows, &turned_keys[(first / TALL * (d / DEEP) + at / DEEP) * TILE_NUMBERS]);
            }
        for (int64_t first = 0; first < filled; first += DEEP)
            for (int64_t at = 0; at < d; at += DEEP) {
                uint16_t* to = &paired_values[(first / DEEP * (d / TALL) + at / TALL) * TILE_NUMBERS];
                for (int64_t i = 0; i < TALL; i++)
                    paired(values[first + WORD * i] + at, values[first + WORD * i + 1] + at, to + i * DEEP,
                           to + TILE_NUMBERS + i * DEEP);
            }
    }

    template <int A>
    static void score(Flash& f, int64_t tile, int64_t parts) {
        const int64_t size = f.tall * f.d, next = f.d / DEEP * TILE_NUMBERS;
        const uint16_t* query = &f.query[tile * size];
        for (int64_t part = 0; part < parts; part++) {
            const uint16_t* keys = &f.turned_keys[2 * part * next];
            float* to = &f.scores[part * DEEP];
            multiply_pairs<A>(true, {{query, query + size}, DEEP, f.d * WORD}, {{keys, keys + next}, TILE_NUMBERS, 64},
                              f.d / DEEP, {{to, to + TALL * MANY}, TALL, MANY * sizeof(float)});
        }
    }

    // Turns a tile's scores, from `at` on, into weights, and rescales the earlier sums to the new maximum.
    void update_softmax(int64_t tile, int64_t at, int64_t here, int64_t parts) {
        const int64_t blocks = parts * DEEP / LANES;
        mask(tile, at, here, parts * DEEP);
        const float* found = &scores[at];
        Floats each[TALL] = {};
        for (int64_t i = 0; i < tall; i++, found += MANY) {
            each[i] = load<Floats>(found);
            for (int64_t b = 1; b < blocks; b++) each[i] = higher(load<Floats>(found + b * LANES), each[i]);
        }
        const Floats now = higher(folded(each, higher) * factor, highest[tile]);
        const Floats before = power(highest[tile] - now);
        found = &scores[at];
        uint16_t* to = &weights[at];
        for (int64_t i = 0; i < tall; i++, found += MANY, to += MANY) {
            const float most = ((const float*)&now)[i], less = ((const float*)&before)[i];
            each[i] = Floats{};
            for (int64_t b = 0; b < blocks; b += 2) {
                const Floats a = power(load<Floats>(found + b * LANES) * factor - most);
                const Floats c = power(load<Floats>(found + (b + 1) * LANES) * factor - most);
                each[i] += a + c;
                const __m512bh halves = _mm512_cvtne2ps_pbh((__m512)c, (__m512)a);
                std::memcpy(to + b * LANES, &halves, sizeof(halves));
            }
            if (less != 1)
                for (float *sums = &gathered[(tile * tall + i) * d], *end = sums + d; sums < end; sums += LANES)
                    put(sums, load<Floats>(sums) * less);
        }
        highest[tile] = now;
        sum[tile] = sum[tile] * before + totals(each);
    }

    // Masks keys that a query does not see, and the padding.
    void mask(int64_t tile, int64_t at, int64_t here, int64_t filled) {
        for (int64_t i = 0; i < tall; i++) {
            const int64_t seen = std::max<int64_t>(0, std::min(sights[tile * tall + i] - place, here));
            float* row = scores.data() + at + i * MANY;
            std::fill(row + seen, row + filled, -std::numeric_limits<float>::infinity());
        }
    }

    template <int A>
    static void gather(Flash& f, int64_t tile, int64_t parts) {
        const int64_t size = f.tall * f.d, next = f.d / TALL * TILE_NUMBERS;
        const uint16_t* weights = f.weights.data();
        for (int64_t at = 0; at < f.d; at += DEEP) {
            float* to = &f.gathered[tile * size + at];
            const uint16_t* values = &f.paired_values[at / TALL * TILE_NUMBERS];
            multiply_pairs<A>(false, {{weights, weights + TALL * MANY}, DEEP, MANY * WORD},
                              {{values, values + TILE_NUMBERS}, next, 64}, parts,
                              {{to, to + size}, TALL, f.d * int64_t(sizeof(float))});
        }
    }
};

inline bool flash_serves(int64_t d) { return d % DEEP == 0 && tiles_work(); }

#else

inline bool flash_serves(int64_t) { return false; }

#endif

}  // namespace
