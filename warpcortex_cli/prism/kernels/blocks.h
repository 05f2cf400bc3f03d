// Packs ggml's blocks into panels directly: a GGUF file is read once and written once.
//
// Layouts: ggml-common.h. The result equals that of `gguf/blocks.py`: levels, and a scale and minimum for each 32.
// Q5_0 gets minima of -16 times its scales.

#pragma once

#include "panels.h"

#include <cerrno>
#include <unistd.h>

namespace {

enum Blocks { Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, PLAIN_F16, PLAIN_BF16 };

// Bytes of a block, groups of 32 in it, and the panel format that holds it.
struct BlockForm {
    int64_t bytes, groups;
    int format;
};

constexpr BlockForm form_of(Blocks kind) {
    switch (kind) {
        case Q4_0: return {18, 1, 4};
        case Q4_1: return {20, 1, 4 + MINIMA};
        case Q5_0: return {22, 1, 5 + MINIMA};
        case Q5_1: return {24, 1, 5 + MINIMA};
        case Q8_0: return {34, 1, 8};
        case Q4_K: return {144, 8, 4 + MINIMA};
        case Q5_K: return {176, 8, 5 + MINIMA};
        case Q6_K: return {210, 8, SIX};
        case PLAIN_F16: return {2 * GROUP, 1, F16};
        default: return {2 * GROUP, 1, BF16};
    }
}

inline float half_at(const uint8_t* at) { return from_half(load<uint16_t>(at)); }

// The levels of a group, in two halves of 16.
typedef uint8_t Bytes __attribute__((vector_size(16)));
struct Levels {
    Bytes low, high;
};

// The low nibbles of 16 bytes, then the high ones.
inline Levels halves(const uint8_t* packed) {
    const Bytes both = load<Bytes>(packed);
    return {both & 15, both >> 4};
}

// The fifth bits of 16 levels, lowest first, as 16 or 0.
inline Bytes fifths(const uint8_t* bits) {
    typedef uint64_t Eights __attribute__((vector_size(16)));
    constexpr uint64_t EACH = 0x0101010101010101, ONE = 0x8040201008040201;
    const Bytes spread = (Bytes)Eights{bits[0] * EACH, bits[1] * EACH};
    return (Bytes)((spread & (Bytes)Eights{ONE, ONE}) != 0) & 16;
}

// Scale and minimum of a group of Q4_K and Q5_K: 6 bits each in 12 bytes, times the block's own scale and minimum.
inline void k_scale(const uint8_t* block, int64_t g, float* scale, float* minimum) {
    const uint8_t* six = block + 4;
    const int low = g < 4 ? six[g] & 63 : (six[g + 4] & 15) | six[g - 4] >> 6 << 4;
    const int least = g < 4 ? six[g + 4] & 63 : six[g + 4] >> 4 | six[g] >> 6 << 4;
    *scale = half_at(block) * float(low);
    *minimum = -(half_at(block + 2) * float(least));
}

// fp16 numbers that panels store unchanged. For subnormals `settle` finds other scales.
inline bool normal(uint16_t half) { return (half & 0x7c00) != 0 || (half & 0x7fff) == 0; }
inline bool finite(uint16_t half) { return (half & 0x7c00) != 0x7c00; }

// The 32 levels of a group of a block.
template <Blocks KIND>
inline Levels levels_of(const uint8_t* block, int64_t g) {
    if constexpr (KIND == Q4_K || KIND == Q5_K) {
        const uint8_t *high = block + 16, *packed = block + (KIND == Q4_K ? 16 : 48) + g / 2 * GROUP;
        const auto some = [&](int64_t at) {
            const Bytes low = load<Bytes>(packed + at) >> g % 2 * 4 & 15;
            return KIND == Q4_K ? low : low | (load<Bytes>(high + at) >> g & 1) << 4;
        };
        return {some(0), some(16)};
    } else if constexpr (KIND == Q8_0) {
        return {load<Bytes>(block + 2) + 128, load<Bytes>(block + 18) + 128};
    } else if constexpr (KIND == Q5_0 || KIND == Q5_1) {
        const uint8_t* bits = block + (KIND == Q5_0 ? 2 : 4);
        const Levels found = halves(bits + 4);
        return {found.low | fifths(bits), found.high | fifths(bits + 2)};
    } else if constexpr (KIND == Q6_K) {
        const uint8_t *packed = block + g / 4 * 64 + g % 2 * GROUP, *high = block + 128 + g / 4 * GROUP;
        const auto some = [&](int64_t at) {
            return (load<Bytes>(packed + at) >> g % 4 / 2 * 4 & 15) | (load<Bytes>(high + at) >> g % 4 * 2 & 3) << 4;
        };
        return {some(0), some(16)};
    } else {
        return halves(block + (KIND == Q4_0 ? 2 : 4));
    }
}

// Scales of scales, whose products fp16 may not hold.
constexpr bool of_products(Blocks kind) { return kind == Q4_K || kind == Q5_K || kind == Q6_K; }
// Whether blocks hold a scale and a minimum.
constexpr bool holds_minima(Blocks kind) { return has_minima(form_of(kind).format) && kind != Q5_0; }

// Writes the scales and minima of an output that fp16 cannot represent exactly; returns the output's factor.
template <Blocks KIND>
float settled(const uint8_t* row, int64_t groups, int64_t lane, uint8_t* panel) {
    constexpr BlockForm FORM = form_of(KIND);
    Fitted fit;
    for (int64_t g = 0; g < groups; g++) {
        const uint8_t* block = row + g / FORM.groups * FORM.bytes;
        if constexpr (KIND == Q6_K) {
            for (int64_t run = 0; run < 2; run++)
                fit.scales.push_back(half_at(block + 208) * float(int8_t(block[192 + g % FORM.groups * 2 + run])));
            continue;
        }
        float scale = half_at(block), minimum = holds_minima(KIND) ? half_at(block + 2) : -16 * scale;
        if (of_products(KIND)) k_scale(block, g % FORM.groups, &scale, &minimum);
        fit.scales.push_back(scale);
        if (has_minima(FORM.format)) fit.minima.push_back(minimum);
    }
    settle(fit);
    for (int64_t g = 0; g < groups; g++) {
        if constexpr (KIND == Q6_K)
            put_scale<FORM.format>(to_half(fit.scales[2 * g]), to_half(fit.scales[2 * g + 1]), g, lane, panel);
        else
            put_scale<FORM.format>(to_half(fit.scales[g]), has_minima(FORM.format) ? to_half(fit.minima[g]) : 0, g, lane, panel);
    }
    return fit.times;
}

// Packs rows of blocks into a panel. Returns whether all scales and minima are finite.
template <Blocks KIND>
bool packed_panel(const uint8_t* const* rows, int64_t lanes, int64_t groups, uint8_t* panel) {
    constexpr BlockForm FORM = form_of(KIND);
    constexpr int FORMAT = FORM.format;
    constexpr int64_t SCALE = KIND == Q6_K ? 208 : 0;  // where a block holds it
    constexpr int64_t WORDS = GROUP * bits_of(FORMAT) / 32;  // of a group
    std::memset(panel, 0, times_at<FORMAT>(groups));
    bool all = true, exact[LANES];
    std::fill(exact, exact + LANES, !of_products(KIND));
    for (int64_t g = 0; g < groups; g++) {
        uint32_t words[LANES][WORDS] = {};
        for (int64_t lane = 0; lane < lanes; lane++) {
            const uint8_t* block = rows[lane] + g / FORM.groups * FORM.bytes;
            const Levels levels = levels_of<KIND>(block, g % FORM.groups);
            words_of<FORMAT>((const uint8_t*)&levels, words[lane]);
            const uint16_t scale = load<uint16_t>(block + SCALE);
            uint16_t minimum = 0;
            if (holds_minima(KIND)) minimum = load<uint16_t>(block + 2);
            else if (KIND == Q5_0) minimum = to_half(-16 * from_half(scale));
            all = all && finite(scale) && (!holds_minima(KIND) || finite(minimum));
            exact[lane] = exact[lane] && normal(scale) && normal(minimum) && finite(minimum);
            if (exact[lane]) put_scale<FORMAT>(scale, minimum, g, lane, panel);
        }
        put_words<WORDS>(words, panel + group_at<FORMAT>(g));
    }
    for (int64_t lane = 0; lane < LANES; lane++) {
        const float times = lane >= lanes ? 0 : exact[lane] ? 1 : settled<KIND>(rows[lane], groups, lane, panel);
        std::memcpy(panel + times_at<FORMAT>(groups) + lane * sizeof(float), &times, sizeof(float));
    }
    return all;
}

// The same for rows of fp16 or bfloat16.
template <int FORMAT>
bool plain_panel(const uint8_t* const* rows, int64_t lanes, int64_t groups, uint8_t* panel) {
    constexpr uint16_t ENDLESS = FORMAT == F16 ? 0x7c00 : 0x7f80;  // the exponent of what is not finite
    bool all = true;
    for (int64_t g = 0; g < groups; g++) {
        uint32_t words[LANES][PAIRS] = {};
        for (int64_t lane = 0; lane < lanes; lane++) {
            uint16_t numbers[GROUP];
            std::memcpy(numbers, rows[lane] + g * sizeof(numbers), sizeof(numbers));
            for (uint16_t number : numbers) all &= (number & ENDLESS) != ENDLESS;
            std::memcpy(words[lane], numbers, sizeof(numbers));
        }
        put_words<PAIRS>(words, panel + group_at<FORMAT>(g));
    }
    for (int64_t lane = 0; lane < LANES; lane++) {
        const float times = lane < lanes ? 1 : 0;
        std::memcpy(panel + times_at<FORMAT>(groups) + lane * sizeof(float), &times, sizeof(float));
    }
    return all;
}

// -- rows in files ---------------------------------------------------------------------------------------------

// Consecutive rows of blocks in a file, from `offset` on. `heads`: the number of heads whose two halves are interleaved
// row by row in the file and consecutive in panels; 0 for none.
struct FileRows {
    int64_t file, offset, count, heads;

    // The row in the file that becomes output `i`.
    int64_t place(int64_t i) const {
        if (heads == 0) return i;
        const int64_t each = count / heads, half = each / 2, own = i % each;
        return i - own + own % half * 2 + own / half;
    }
};

enum Packing { PACKED, ENDED, STRANGE };  // done; a file ends too early or cannot be read; not all numbers are finite

inline bool read_all(int64_t file, uint8_t* to, int64_t count, int64_t offset) {
    while (count > 0) {
        const ssize_t some = pread(int(file), to, count, offset);
        if (some < 0 && errno == EINTR) continue;
        if (some <= 0) return false;
        to += some, offset += some, count -= some;
    }
    return true;
}

constexpr int64_t READ = 1 << 17;  // bytes that are read at once, so that they are still in a core's cache when packed

// Matrices to be packed as one, their outputs in order. `outcome`: the last `Packing` that was not PACKED.
struct Blocky {
    int64_t kind;
    const FileRows* parts;
    int64_t count;
    uint8_t* out;
    int64_t outputs, inputs, outcome;
};

// A thread's read buffer, and where each row starts in it.
struct Reading {
    std::vector<uint8_t> held;
    std::vector<const uint8_t*> rows;

    // Reads outputs [begin, end): of each part, the smallest piece of its file that holds them.
    bool read(const Blocky& of, int64_t row, int64_t begin, int64_t end) {
        int64_t room = 0;
        each_piece(of, begin, end, [&](const FileRows&, int64_t, int64_t, int64_t low, int64_t high) {
            room += (high - low) * row;
            return true;
        });
        if (int64_t(held.size()) < room) held.resize(room);
        rows.clear(), room = 0;
        return each_piece(of, begin, end, [&](const FileRows& part, int64_t from, int64_t to, int64_t low, int64_t high) {
            uint8_t* const at = held.data() + room;
            for (int64_t i = from; i < to; i++) rows.push_back(at + (part.place(i) - low) * row);
            room += (high - low) * row;
            return read_all(part.file, at, (high - low) * row, part.offset + low * row);
        });
    }

  private:
    // Calls `use` with each part, its first and last wanted output, and the piece [low, high) of its rows.
    template <typename Use>
    static bool each_piece(const Blocky& of, int64_t begin, int64_t end, Use use) {
        int64_t before = 0;
        for (const FileRows* part = of.parts; part < of.parts + of.count; before += part++->count) {
            const int64_t from = std::max(begin - before, int64_t(0)), to = std::min(end - before, part->count);
            if (from >= to) continue;
            int64_t low = part->count, high = 0;
            for (int64_t i = from; i < to; i++)
                low = std::min(low, part->place(i)), high = std::max(high, part->place(i) + 1);
            if (!use(*part, from, to, low, high)) return false;
        }
        return true;
    }
};

// Calls `use` with the type of blocks as a compile-time constant.
template <typename Use>
inline auto with_blocks(int64_t kind, Use use) {
    switch (kind) {
        case Q4_0: return use(std::integral_constant<Blocks, Q4_0>());
        case Q4_1: return use(std::integral_constant<Blocks, Q4_1>());
        case Q5_0: return use(std::integral_constant<Blocks, Q5_0>());
        case Q5_1: return use(std::integral_constant<Blocks, Q5_1>());
        case Q8_0: return use(std::integral_constant<Blocks, Q8_0>());
        case Q4_K: return use(std::integral_constant<Blocks, Q4_K>());
        case Q5_K: return use(std::integral_constant<Blocks, Q5_K>());
        case Q6_K: return use(std::integral_constant<Blocks, Q6_K>());
        case PLAIN_F16: return use(std::integral_constant<Blocks, PLAIN_F16>());
        default: return use(std::integral_constant<Blocks, PLAIN_BF16>());
    }
}

// Packs panels [first, last).
template <Blocks KIND>
Packing packed_piece(const Blocky& of, int64_t first, int64_t last, Reading& reading) {
    constexpr BlockForm FORM = form_of(KIND);
    const int64_t groups = groups_of(of.inputs), size = panel_bytes<FORM.format>(of.inputs);
    const int64_t row = groups / FORM.groups * FORM.bytes;
    if (!reading.read(of, row, first * LANES, std::min(last * LANES, of.outputs))) return ENDED;
    bool all = true;
    for (int64_t i = 0; i < int64_t(reading.rows.size()); i += LANES) {
        const int64_t lanes = std::min(LANES, int64_t(reading.rows.size()) - i);
        uint8_t* panel = of.out + (first + i / LANES) * size;
        if constexpr (unquantized(FORM.format)) all = plain_panel<FORM.format>(&reading.rows[i], lanes, groups, panel) && all;
        else all = packed_panel<KIND>(&reading.rows[i], lanes, groups, panel) && all;
    }
    return all ? PACKED : STRANGE;
}

inline void packed_blocks(Blocky* all, int64_t count, int threads) {
    struct Piece {
        Blocky* of;
        int64_t first, last;
    };
    std::vector<Piece> pieces;
    for (Blocky* of = all; of < all + count; of++) {
        const BlockForm form = with_blocks(of->kind, [](auto kind) { return form_of(decltype(kind)::value); });
        const int64_t panel = groups_of(of->inputs) / form.groups * form.bytes * LANES, panels = panels_of(of->outputs);
        const int64_t some = std::max<int64_t>(1, READ / panel);
        for (int64_t first = 0; first < panels; first += some) pieces.push_back({of, first, std::min(first + some, panels)});
    }
#pragma omp parallel num_threads(threads)
    {
        Reading reading;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < int64_t(pieces.size()); i++) {
            const Piece& piece = pieces[i];
            const Packing found = with_blocks(piece.of->kind, [&](auto kind) {
                return packed_piece<decltype(kind)::value>(*piece.of, piece.first, piece.last, reading);
            });
            if (found != PACKED)
#pragma omp critical
                piece.of->outcome = found;
        }
    }
}

}  // namespace
