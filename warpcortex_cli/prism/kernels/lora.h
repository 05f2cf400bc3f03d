// What LoRA adapters add to linear layers: B (A x), of each token by its own adapter (Hu et al., 2021; many of them in
// one step: Punica, Chen et al., 2023).
//
// A and B are bfloat16 and have the same layout: 16 outputs side by side, one input after the other. The order of a
// token's sums does not depend on the other tokens.

#pragma once

#include "panels.h"
#include "team.h"

namespace {

// B of one module, such as q of the joint q, k and v: [panels, rank, 16], at its outputs' place among the joint ones.
// Outputs of other modules in its first or last panel are zero.
struct LoraModule {
    const uint16_t* up;
    int64_t first, panels;  // of outputs
    int64_t from, rank;     // among the joint ranks; multiples of RANKS
};

// What an adapter adds to a linear layer.
struct Lora {
    const uint16_t* down;  // A of all modules: [ranks / 16, inputs rounded up to 16, 16]; null if it adds nothing
    int64_t ranks, count;  // its joint rank, a multiple of 16; its modules
    LoraModule modules[3];
};

struct LoraLayer {
    Lora qkv, output, gate_up, down;
};

// The tokens of a step that have one adapter, ascending, and the adapter's layers.
struct LoraTokens {
    const LoraLayer* layers;
    const int64_t* tokens;
    int64_t count;
};

// All adapters of a step, and the largest joint rank of any of them.
struct Adapted {
    const LoraTokens* of;
    int64_t count, ranks;
};

constexpr int64_t RANKS = 4;  // multiplied at once
constexpr int64_t SOON = 4096;  // bytes that are prefetched ahead; without, memory gives two thirds of the speed
constexpr int64_t ABREAST = NATIVE == 64 ? 4 : 1;  // tokens whose sums are held in registers at once

// Sixteen outputs of M tokens: their inputs [first, end) times weights [end - first, 16]. A token's inputs are in
// blocks of 16, `next` numbers apart.
template <int M>
inline void thin(const uint16_t* weights, int64_t first, int64_t end, const float* const* x, int64_t next, Floats* out) {
    Floats sums[M][RANKS];
    UNROLLED for (int m = 0; m < M; m++)
        UNROLLED for (int i = 0; i < RANKS; i++) sums[m][i] = Floats{};
    for (int64_t k = first; k < end; k += RANKS, weights += RANKS * LANES) {
        const int64_t at = k / LANES * next + k % LANES;
        for (int64_t byte = 0; byte < RANKS * LANES * int64_t(sizeof(*weights)); byte += LINE)
            __builtin_prefetch((const char*)weights + SOON + byte);
        UNROLLED for (int i = 0; i < RANKS; i++) {
            const Floats some = widened(weights + i * LANES);
            UNROLLED for (int m = 0; m < M; m++) sums[m][i] += some * x[m][at + i];
        }
    }
    UNROLLED for (int m = 0; m < M; m++) out[m] = (sums[m][0] + sums[m][1]) + (sums[m][2] + sums[m][3]);
}

template <int M = ABREAST>
inline void thin_of(int64_t count, const uint16_t* weights, int64_t first, int64_t end, const float* const* x,
                    int64_t next, Floats* out) {
    if constexpr (M > 1)
        if (count < M) return thin_of<M - 1>(count, weights, first, end, x, next, out);
    thin<M>(weights, first, end, x, next, out);
}

// Buffers that threads share: inputs of tokens, and A x, both [blocks, tokens, 16].
struct LoraRoom {
    AlignedVector<float> inputs, low;

    void reserve(const Adapted* adapted, int64_t tokens, int64_t most_inputs) {
        if (!adapted) return;
        const int64_t given = tokens * panels_of(most_inputs) * LANES, found = tokens * adapted->ranks;
        if (int64_t(inputs.size()) < given) inputs.resize(given);
        if (int64_t(low.size()) < found) low.resize(found);
    }
};

// What adapters add to one product, for `count` tokens of a step from `start` on. One per thread at a time, as its
// buffers are the thread's.
class Added {
  public:
    Added(LoraRoom& room, const Adapted* adapted, int64_t layer, Lora LoraLayer::*linear, int64_t start, int64_t count)
        : count(count), inputs(nullptr), low(room.low.data()) {
        static thread_local std::vector<Some> some;
        static thread_local std::vector<bool> marks;
        static thread_local AlignedVector<float> own;
        some.clear();
        for (int64_t i = 0; adapted && i < adapted->count; i++) {
            const LoraTokens& of = adapted->of[i];
            const Lora& lora = of.layers[layer].*linear;
            const int64_t* end = of.tokens + of.count;
            const int64_t *from = std::lower_bound(of.tokens, end, start), *to = std::lower_bound(from, end, start + count);
            if (lora.down && from < to) some.push_back({lora, from, to - from, start});
        }
        groups = some.data(), many = some.size();
        if (!many) return;
        marks.assign(count, false);
        for (const Some& group : some)
            for (int64_t i = 0; i < group.count; i++) marks[group.token(i)] = true;
        marked = &marks, held = count <= FEW ? &own : &room.inputs;
    }

    bool any() const { return many > 0; }
    const Added* if_any() const { return any() ? this : nullptr; }

    // Wraps `row`, which returns a token's inputs, so that it also keeps the inputs of tokens with adapters.
    template <typename Row>
    auto keeping(int64_t numbers, Row row) {
        if (any() && count <= FEW) held->resize(count * panels_of(numbers) * LANES);
        if (any()) inputs = held->data();
        return [this, numbers, row](int64_t token) {
            const float* x = row(token);
            if (any() && (*marked)[token])
                for (int64_t i = 0; i < numbers; i += LANES)
                    store(held->data() + (i / LANES * count + token) * LANES, some_of(x, i, numbers));
            return x;
        };
    }

    // The same for inputs that are already in this layout.
    void keep(const float* numbers) { inputs = numbers; }

    // Computes A x for all adapters; the threads share the work and wait for each other.
    void begin(Team& team, int64_t numbers) {
        if (!any()) return;
        const int64_t wide = panels_of(numbers) * LANES;
        int64_t tasks = 0;
        for (int64_t i = 0; i < many; i++) tasks += groups[i].tasks();
        team.share(tasks, [&](int64_t task) {
            const Some* group = groups;
            for (; task >= group->tasks(); group++) task -= group->tasks();
            const int64_t panel = task / group->blocks(), first = task % group->blocks() * ABREAST;
            group->multiply(group->lora.down + panel * wide * LANES, 0, wide, first, inputs, count,
                            [&](int64_t token, const Floats& found) { put(low + (panel * count + token) * LANES, found); });
        });
        team.wait();
    }

    // B (A x) of one panel of outputs, for each token. Tokens without an adapter get -0, which changes no bits when added.
    void find(int64_t panel, Floats* out) const {
        std::fill_n(out, count, splat(-0.0f));
        for (const Some* group = groups; group < groups + many; group++)
            for (const LoraModule* of = group->lora.modules; of < group->lora.modules + group->lora.count; of++) {
                if (panel < of->first || panel >= of->first + of->panels) continue;
                const uint16_t* up = of->up + (panel - of->first) * of->rank * LANES;
                for (int64_t first = 0; first < group->count; first += ABREAST)
                    group->multiply(up, of->from, of->from + of->rank, first, low, count,
                                    [&](int64_t token, const Floats& found) { out[token] += found; });
            }
    }

  private:
    // Tokens with one adapter.
    struct Some {
        const Lora& lora;
        const int64_t* tokens;
        int64_t count, start;

        int64_t token(int64_t i) const { return tokens[i] - start; }
        int64_t blocks() const { return (count + ABREAST - 1) / ABREAST; }
        int64_t tasks() const { return blocks() * (lora.ranks / LANES); }

        // Multiplies a block of tokens from `first` on.
        template <typename Use>
        void multiply(const uint16_t* weights, int64_t from, int64_t to, int64_t first, const float* x, int64_t all,
                      Use use) const {
            const int64_t here = std::min(ABREAST, count - first);
            const float* at[ABREAST];
            Floats found[ABREAST];
            for (int64_t i = 0; i < here; i++) at[i] = x + token(first + i) * LANES;
            thin_of(here, weights, from, to, at, all * LANES, found);
            for (int64_t i = 0; i < here; i++) use(token(first + i), found[i]);
        }
    };

    int64_t count, many;
    const float* inputs;
    float* low;
    const Some* groups;
    const std::vector<bool>* marked = nullptr;
    AlignedVector<float>* held = nullptr;
};

}  // namespace
