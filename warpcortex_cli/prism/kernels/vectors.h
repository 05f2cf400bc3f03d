// Vectors of 16 lanes, which are the compiler's own, so that one text serves every CPU.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t LANES = 16;

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint8_t Bytes __attribute__((vector_size(64)));
typedef uint16_t Shorts __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

// Numbers that begin a line of the cache: else what is taken 64 bytes at a time would lie in two, and take twice as
// long.
template <typename T>
struct Lined {
    typedef T value_type;
    static constexpr std::align_val_t LINE = std::align_val_t(sizeof(Floats));

    Lined() = default;
    template <typename U>
    Lined(const Lined<U>&) {}
    T* allocate(size_t count) { return (T*)::operator new(count * sizeof(T), LINE); }
    void deallocate(T* at, size_t) { ::operator delete(at, LINE); }
    bool operator==(const Lined&) const { return true; }
    bool operator!=(const Lined&) const { return false; }
};
template <typename T>
using Lines = std::vector<T, Lined<T>>;

constexpr Ints ORDER = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

template <typename T>
inline T load(const void* from) {
    T found;
    std::memcpy(&found, from, sizeof(T));
    return found;
}

inline Floats splat(float x) { return Floats{} + x; }
inline Ints splat(int32_t x) { return Ints{} + x; }

inline Floats widened(Halves x) {
    const Words wide = __builtin_convertvector(x, Words) << 16;
    return load<Floats>(&wide);
}

inline Halves narrowed(Floats x) {
    const Words bits = load<Words>(&x);
    return __builtin_convertvector(x == x ? (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 : Words{} + 0x7fc0, Halves);
}

// 2 to the power of each lane, which is not above 127, within 2 units of the last place of 1; of minus infinity 0, and
// NaN stays what it is.
inline Floats power(Floats x) {
#if defined(__AVX512DQ__)
    const Floats rest = (Floats)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT), whole = x - rest;
#else
    const Floats near = (x < -126.0f ? splat(-126.0f) : x) + 12582912.0f;  // which leaves no room behind the point
    const Floats rest = x - (near - 12582912.0f);
#endif
    const Floats found =  // 1 at 0, and elsewhere with the least largest error
        1 + rest * (0.693146978f +
                    rest * (0.240222421f + rest * (0.0555073374f + rest * (0.00967151264f + rest * 0.00132647271f))));
#if defined(__AVX512DQ__)
    return (Floats)_mm512_scalef_ps((__m512)found, (__m512)whole);
#else
    const Ints size = (load<Ints>(&near) - 0x4b400000 + 127) << 23;
    return x < -126.0f ? Floats{} : (x != x ? x : found * load<Floats>(&size));
#endif
}

constexpr float LOG2E = 1.44269504f;

inline Floats exponential(Floats x) { return power(x * LOG2E); }

// 1 / x, of numbers from 1 to 2 to the power of 126.
inline Floats inverse(Floats x) {
#if defined(__AVX512F__)
    const Floats near = (Floats)_mm512_rcp14_ps((__m512)x);
    return near * (2 - x * near);
#else
    return 1 / x;
#endif
}

template <typename T>
inline Floats lanes(const T* from);
template <>
inline Floats lanes(const float* from) { return load<Floats>(from); }
template <>
inline Floats lanes(const uint16_t* from) { return widened(load<Halves>(from)); }

inline void put(float* to, Floats x) { std::memcpy(to, &x, sizeof(x)); }
inline void put(uint16_t* to, Floats x) {
    const Halves found = narrowed(x);
    std::memcpy(to, &found, sizeof(found));
}

// Whole numbers of at most 16 bits.
inline Halves shortened(Ints x) { return __builtin_convertvector((Words)x, Halves); }

typedef float Eight __attribute__((vector_size(32)));
typedef float Four __attribute__((vector_size(16)));

inline float total(Floats x) {
    const char* at = (const char*)&x;
    const Eight eight = load<Eight>(at) + load<Eight>(at + 32);
    const Four four = load<Four>(&eight) + load<Four>((const char*)&eight + 16);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

inline float highest_of(Floats x) {
    const char* at = (const char*)&x;
    const Eight a = load<Eight>(at), b = load<Eight>(at + 32), eight = a > b ? a : b;
    const Four c = load<Four>(&eight), d = load<Four>((const char*)&eight + 16), four = c > d ? c : d;
    return std::max(std::max(four[0], four[1]), std::max(four[2], four[3]));
}

// Whether a lane of `a` is larger than the same of `b`.
inline bool any_above(Floats a, Floats b) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ) != 0;
#else
    const Ints above = a > b;
    int32_t found = 0;
    for (int64_t i = 0; i < LANES; i++) found |= above[i];
    return found != 0;
#endif
}

#if defined(__AVX512F__)
// 16 vectors become one: lane i is what `by` makes of all lanes of vector i.
template <typename By>
inline Floats folded(const Floats* x, By by) {
    // Two become one whose lanes come from either: first of 8 lanes each, at last of one.
    const auto two = [&](const Floats& a, const Floats& b, Ints low, int step) {
        const auto from = [&](Ints lanes) { return (Floats)_mm512_permutex2var_ps((__m512)a, (__m512i)lanes, (__m512)b); };
        return by(from(low), from(low + step));
    };
    const Ints eights = {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23};
    const Ints fours = {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27};
    const Ints twos = {0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29};
    const Ints ones = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
    Floats part[8];
    for (int i = 0; i < 8; i++) part[i] = two(x[2 * i], x[2 * i + 1], eights, 8);
    for (int i = 0; i < 4; i++) part[i] = two(part[2 * i], part[2 * i + 1], fours, 4);
    for (int i = 0; i < 2; i++) part[i] = two(part[2 * i], part[2 * i + 1], twos, 2);
    return two(part[0], part[1], ones, 1);
}
#endif

// The totals of 16 vectors, in their order.
inline Floats totals(const Floats* x) {
#if defined(__AVX512F__)
    return folded(x, [](const Floats& a, const Floats& b) { return a + b; });
#else
    Floats found;
    for (int i = 0; i < LANES; i++) found[i] = total(x[i]);
    return found;
#endif
}

}  // namespace
