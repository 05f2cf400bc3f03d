// Vectors of 16 lanes, so that one source serves every CPU: one AVX-512 register, or several smaller ones.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <type_traits>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace {

constexpr int64_t LANES = 16;
constexpr int64_t LINE = 64;  // bytes

#if defined(__AVX512F__)
constexpr int64_t NATIVE = 64;  // bytes of a register
#elif defined(__AVX2__)
constexpr int64_t NATIVE = 32;
#else
constexpr int64_t NATIVE = 16;
#endif
constexpr int PARTS = LINE / NATIVE;  // registers per 16 lanes

// Before loops over arrays of registers, which are spilled to memory unless the loop is unrolled.
#if defined(__clang__)
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif

// One register of int32, uint32, uint16 or fp32.
typedef int32_t Whole __attribute__((vector_size(NATIVE)));
typedef uint32_t Word __attribute__((vector_size(NATIVE)));
typedef uint16_t Short __attribute__((vector_size(NATIVE)));
typedef float Real __attribute__((vector_size(NATIVE)));
typedef uint16_t Half __attribute__((vector_size(NATIVE / 2)));  // as many 16-bit numbers as Real has lanes

// Keeps the compiler from reordering: one that computes all products before adding runs out of registers for the sums.
template <typename T>
inline T pinned(T x) {
#if defined(__AVX512F__)
    asm volatile("" : "+v"(x));
#elif defined(__x86_64__)
    asm volatile("" : "+x"(x));
#elif defined(__aarch64__)
    asm volatile("" : "+w"(x));
#endif
    return x;
}

// A compiler barrier: earlier writes are in memory.
inline void compiler_barrier() { asm volatile("" ::: "memory"); }

// Two vectors as one. Compilers also split vectors wider than a register, but spill them to memory.
template <typename T>
struct Pair {
    typedef std::decay_t<decltype(T{}[0])> Lane;
    static constexpr int64_t SOME = sizeof(T) / sizeof(Lane);
    T low, high;

    Lane operator[](int64_t i) const { return i < SOME ? low[i] : high[i - SOME]; }
    void set(int64_t i, Lane x) {
        if (i < SOME) assign(low, i, x);
        else assign(high, i - SOME, x);
    }
    Pair operator-() const { return {-low, -high}; }
    Pair& operator+=(const Pair& b) { return low = low + b.low, high = high + b.high, *this; }
};
template <typename T, typename Lane>
inline void assign(T& to, int64_t i, Lane x) { to[i] = x; }
template <typename T, typename Lane>
inline void assign(Pair<T>& to, int64_t i, Lane x) { to.set(i, x); }

#define FOR_PAIRS(OPERATOR)                                                                                      \
    template <typename T>                                                                                        \
    inline auto operator OPERATOR(const Pair<T>& a, const Pair<T>& b)->Pair<decltype(a.low OPERATOR b.low)> {    \
        return {a.low OPERATOR b.low, a.high OPERATOR b.high};                                                   \
    }                                                                                                            \
    template <typename T>                                                                                        \
    inline auto operator OPERATOR(const Pair<T>& a, typename Pair<T>::Lane b)->Pair<decltype(a.low OPERATOR b)> { \
        return {a.low OPERATOR b, a.high OPERATOR b};                                                            \
    }                                                                                                            \
    template <typename T>                                                                                        \
    inline auto operator OPERATOR(typename Pair<T>::Lane a, const Pair<T>& b)->Pair<decltype(a OPERATOR b.low)> { \
        return {a OPERATOR b.low, a OPERATOR b.high};                                                            \
    }
FOR_PAIRS(+)
FOR_PAIRS(-)
FOR_PAIRS(*)
FOR_PAIRS(/)
FOR_PAIRS(&)
FOR_PAIRS(|)
FOR_PAIRS(<<)
FOR_PAIRS(>>)
FOR_PAIRS(<)
FOR_PAIRS(>)
FOR_PAIRS(==)
FOR_PAIRS(!=)
#undef FOR_PAIRS

// Sixteen lanes of a register type.
template <typename T, int64_t MANY = PARTS>
struct Sixteen {
    typedef Pair<typename Sixteen<T, MANY / 2>::type> type;
};
template <typename T>
struct Sixteen<T, 1> {
    typedef T type;
};
typedef Sixteen<Real>::type Floats;
typedef Sixteen<Whole>::type Ints;
typedef Sixteen<Word>::type Words;
typedef uint16_t Halves __attribute__((vector_size(32)));

// Aligns to cache lines: unaligned 64-byte accesses would touch two lines and take twice as long.
template <typename T>
struct AlignedAllocator {
    typedef T value_type;
    static constexpr std::align_val_t LINE = std::align_val_t(sizeof(Floats));

    AlignedAllocator() = default;
    template <typename U>
    AlignedAllocator(const AlignedAllocator<U>&) {}
    T* allocate(size_t count) { return (T*)::operator new(count * sizeof(T), LINE); }
    void deallocate(T* at, size_t) { ::operator delete(at, LINE); }
    bool operator==(const AlignedAllocator&) const { return true; }
    bool operator!=(const AlignedAllocator&) const { return false; }
};
template <typename T>
using AlignedVector = std::vector<T, AlignedAllocator<T>>;

template <typename T>
struct Loaded {
    static T from(const void* at) {
        T found;
        std::memcpy(&found, at, sizeof(T));
        return found;
    }
    static void to(void* at, const T& x) { std::memcpy(at, &x, sizeof(T)); }
};
template <typename T>
struct Loaded<Pair<T>> {  // register by register
    static Pair<T> from(const void* at) {
        return {Loaded<T>::from(at), Loaded<T>::from((const char*)at + sizeof(T))};
    }
    static void to(void* at, const Pair<T>& x) {
        Loaded<T>::to(at, x.low), Loaded<T>::to((char*)at + sizeof(T), x.high);
    }
};

template <typename T>
inline T load(const void* from) { return Loaded<T>::from(from); }
template <typename T>
inline void store(void* to, const T& x) { Loaded<T>::to(to, x); }

// A bit cast.
template <typename To, typename From>
inline To same_bits(const From& x) {
    static_assert(sizeof(To) == sizeof(From), "of one size");
    return (To)x;
}
template <>
inline float same_bits(const int32_t& x) { return load<float>(&x); }
template <>
inline int32_t same_bits(const float& x) { return load<int32_t>(&x); }
template <typename To, typename From>
inline To same_bits(const Pair<From>& x) {
    typedef decltype(To::low) Part;
    return {same_bits<Part>(x.low), same_bits<Part>(x.high)};
}

// Lanes of `a` where `where` is set, else of `b`.
template <typename M, typename T>
inline T choose(const M& where, const T& a, const T& b) { return where ? a : b; }
template <typename M, typename T>
inline Pair<T> choose(const Pair<M>& where, const Pair<T>& a, const Pair<T>& b) {
    return {choose(where.low, a.low, b.low), choose(where.high, a.high, b.high)};
}

inline Floats splat(float x) { return x - Floats{}; }  // x + 0 would take an instruction, since it turns -0 into 0
inline Ints splat(int32_t x) { return Ints{} + x; }

// The lanes' indices: 0, 1, 2, ...
inline Ints order() {
    static const int32_t places[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return load<Ints>(places);
}

// Widens 16 bits to 32, in one instruction, which not every compiler finds.
inline Word words_of(Half x) {
#if defined(__AVX512F__)
    return (Word)_mm512_cvtepu16_epi32((__m256i)x);
#elif defined(__AVX2__)
    return (Word)_mm256_cvtepu16_epi32((__m128i)x);
#else
    return __builtin_convertvector(x, Word);
#endif
}

// bfloat16 to fp32 and back, by registers and by 16 lanes.
inline Real real(Half x) { return (Real)(words_of(x) << 16); }
inline Real real(Whole x) { return __builtin_convertvector(x, Real); }
inline Word narrowed_word(Real x) {  // in the lower 16 bits
    const Word bits = (Word)x;
    return x == x ? (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16 : Word{} + 0x7fc0u;
}

template <typename T>
inline T lanes(const uint16_t* from, T*) { return real(load<Half>(from)); }
template <typename T>
inline Pair<T> lanes(const uint16_t* from, Pair<T>*) {
    return {lanes(from, (T*)nullptr), lanes(from + sizeof(T) / sizeof(float), (T*)nullptr)};
}
inline Floats widened(const uint16_t* from) { return lanes(from, (Floats*)nullptr); }

inline void put_halves(uint16_t* to, Word x) { store(to, __builtin_convertvector(x, Half)); }
#if defined(__AVX2__) && !defined(__AVX512F__)
inline void put_halves(uint16_t* to, const Pair<Word>& x) {  // with upper halves 0
    const __m256i packed = _mm256_packus_epi32((__m256i)x.low, (__m256i)x.high);
    store(to, _mm256_permute4x64_epi64(packed, 0xd8));
}
#endif
template <typename T>
inline void put_halves(uint16_t* to, const Pair<T>& x) {
    put_halves(to, x.low), put_halves(to + sizeof(T) / sizeof(int32_t), x.high);
}
inline Word narrowed_words(Real x) { return narrowed_word(x); }
template <typename T>
inline auto narrowed_words(const Pair<T>& x) -> Pair<decltype(narrowed_words(x.low))> {
    return {narrowed_words(x.low), narrowed_words(x.high)};
}

inline Halves narrowed(const Floats& x) {
    Halves found;
    put_halves((uint16_t*)&found, narrowed_words(x));
    return found;
}

// Truncates integers to 16 bits.
inline Halves shortened(const Ints& x) {
    Halves found;
    put_halves((uint16_t*)&found, same_bits<Words>(x) & 0xffffu);
    return found;
}

// 2^x for lanes up to 127, with an error of at most 2 ulp; 0 for minus infinity, NaN for NaN.
inline Floats power(Floats x) {
#if defined(__AVX512DQ__)
    const Floats rest = (Floats)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT), whole = x - rest;
#else
    const Floats near = choose(x < -126.0f, splat(-126.0f), x) + 12582912.0f;  // adding 1.5 * 2^23 leaves no fraction bits
    const Floats rest = x - (near - 12582912.0f);
#endif
    const Floats found =  // a minimax polynomial with value 1 at 0
        1 + rest * (0.693146978f +
                    rest * (0.240222421f + rest * (0.0555073374f + rest * (0.00967151264f + rest * 0.00132647271f))));
#if defined(__AVX512DQ__)
    return (Floats)_mm512_scalef_ps((__m512)found, (__m512)whole);
#else
    const Ints size = (same_bits<Ints>(near) - 0x4b400000 + 127) << 23;
    return choose(x < -126.0f, Floats{}, choose(x != x, x, found * same_bits<Floats>(size)));
#endif
}

constexpr float LOWEST = -std::numeric_limits<float>::infinity();
constexpr float LOG2E = 1.44269504f;

inline Floats exponential(Floats x) { return power(x * LOG2E); }

// 1 / x for x in [1, 2^126].
inline Floats inverse(Floats x) {
#if defined(__AVX512F__)
    const Floats near = (Floats)_mm512_rcp14_ps((__m512)x);
    return near * (2 - x * near);
#else
    return 1 / x;
#endif
}

inline Floats lanes(const float* from) { return load<Floats>(from); }
inline Floats lanes(const uint16_t* from) { return widened(from); }

inline void put(float* to, const Floats& x) { store(to, x); }
inline void put(uint16_t* to, const Floats& x) { put_halves(to, narrowed_words(x)); }

typedef float Eight __attribute__((vector_size(32)));
typedef float Four __attribute__((vector_size(16)));

// Reduces all lanes by `by`.
template <typename By>
inline float reduced(const Four& x, By by) { return by(by(x[0], x[2]), by(x[1], x[3])); }
template <typename By>
inline float reduced(const Eight& x, By by) {
    const char* at = (const char*)&x;
    return reduced(by(load<Four>(at), load<Four>(at + 16)), by);
}
#if defined(__AVX512F__)
template <typename By>
inline float reduced(const Floats& x, By by) {
    const char* at = (const char*)&x;
    return reduced(by(load<Eight>(at), load<Eight>(at + 32)), by);
}
#endif
template <typename T, typename By>
inline float reduced(const Pair<T>& x, By by) { return reduced(by(x.low, x.high), by); }

struct Sum {
    template <typename T>
    T operator()(const T& a, const T& b) const { return a + b; }
};
struct Highest {
    float operator()(float a, float b) const { return std::max(a, b); }
    int32_t operator()(int32_t a, int32_t b) const { return std::max(a, b); }
    template <typename T>
    T operator()(const T& a, const T& b) const { return choose(a > b, a, b); }
};

template <typename T>
inline float total(const T& x) { return reduced(x, Sum()); }
inline float highest_of(const Floats& x) { return reduced(x, Highest()); }

// Whether any lane is set.
inline bool any_of(const Whole& where) {
#if defined(__AVX2__) && !defined(__AVX512F__)
    return _mm256_movemask_ps((__m256)where) != 0;
#elif defined(__x86_64__) && !defined(__AVX512F__)
    return _mm_movemask_ps((__m128)where) != 0;
#else
    int32_t found = 0;
    for (size_t i = 0; i < sizeof(where) / sizeof(int32_t); i++) found |= where[i];
    return found != 0;
#endif
}
template <typename T>
inline bool any_of(const Pair<T>& where) { return any_of(where.low | where.high); }

inline bool any_above(const Floats& a, const Floats& b) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ) != 0;
#else
    return any_of(a > b);
#endif
}

#if defined(__AVX512F__)
// Reduces each of 16 vectors by `by`: lane i of the result is that of vector i.
template <typename By>
inline Floats folded(const Floats* x, By by) {
    Floats fours[4];  // each holds four vectors reduced to four lanes
    UNROLLED for (int i = 0; i < 4; i++) {
        const auto two = [&](const Floats& a, const Floats& b) {
            return (__m512d)by((Floats)_mm512_unpacklo_ps((__m512)a, (__m512)b),
                               (Floats)_mm512_unpackhi_ps((__m512)a, (__m512)b));
        };
        const __m512d low = two(x[4 * i], x[4 * i + 1]), high = two(x[4 * i + 2], x[4 * i + 3]);
        fours[i] = by((Floats)_mm512_unpacklo_pd(low, high), (Floats)_mm512_unpackhi_pd(low, high));
    }
    const auto parts = [&](const Floats& a, const Floats& b) {  // reduces neighbouring quarters
        return by((Floats)_mm512_shuffle_f32x4((__m512)a, (__m512)b, 0x88),
                  (Floats)_mm512_shuffle_f32x4((__m512)a, (__m512)b, 0xdd));
    };
    return parts(parts(fours[0], fours[1]), parts(fours[2], fours[3]));
}
#endif

// The sums of 16 vectors, in order.
inline Floats totals(const Floats* x) {
#if defined(__AVX512F__)
    return folded(x, Sum());
#else
    float found[LANES];
    for (int i = 0; i < LANES; i++) found[i] = total(x[i]);
    return load<Floats>(found);
#endif
}

// The sums of 16 registers, in order.
inline Floats totals_of(const Real* x) {
#if defined(__AVX512F__)
    return folded(x, Sum());
#elif defined(__AVX2__)
    const auto eight = [](const Real* x) {
        const auto two = [](Real a, Real b) { return _mm256_hadd_ps((__m256)a, (__m256)b); };
        const __m256 low = _mm256_hadd_ps(two(x[0], x[1]), two(x[2], x[3]));
        const __m256 high = _mm256_hadd_ps(two(x[4], x[5]), two(x[6], x[7]));
        return (Real)_mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
    };
    return {eight(x), eight(x + 8)};
#else
    float found[LANES];
    for (int i = 0; i < LANES; i++) found[i] = total(x[i]);
    return load<Floats>(found);
#endif
}

}  // namespace
