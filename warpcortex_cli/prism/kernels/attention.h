// Attention of tokens that are decoded, or few: softmax over what they share and their own tails.

#pragma once

#include "flash.h"

#include <type_traits>

namespace {

// Tokens of a step whose tails are in one slab and which read the same parts. Strides are in numbers, not bytes.
struct Readers {
    int64_t start, tokens, each;     // its first packed token; all of them; those of a row, which stand together
    const int64_t *slots, *lengths;  // of each token: where its tail is, and how much of it the token sees, with itself
    const int64_t* tails;            // [layers, 2]: addresses of keys and values, [slots, kv_heads, capacity, d]
    int64_t tail_slot, tail_head, parts;
    const int64_t* reads;  // [layers, parts, 5]: addresses of keys and values, tokens, strides of a head in both
};

// What `attend` is given.
struct Attention {
    const void *query, *key, *value;  // of all packed tokens: [heads or kv_heads, tokens, d]
    int64_t query_head, query_row, key_head, key_row, value_head, value_row;
    void* out;  // [tokens, heads, d]
    int64_t kv_heads, shared, d, layer;  // `shared`: query heads for one of keys
    float scaling;
    const Readers* const* groups;
    int64_t count;
};

constexpr int64_t BLOCK = 8, WIDE = 16;     // tokens that take turns with the same few keys, and those of tiles
constexpr int64_t LEAST = 128, MOST = 512;  // keys of one task

// Whether tiles do it.
template <typename T>
inline bool tiled(int64_t d) { return std::is_same<T, uint16_t>::value && flash_serves(d); }

// Tokens [first, last) of a group and keys [from, upto) that they read with one head of keys.
template <typename T>
struct Task {
    const Readers* group;
    const T *keys, *values;
    int64_t kv, first, last, from, upto;
    bool tail;             // its keys are a tail's, of which each token sees only the beginning
    int64_t place;         // among the parts that a token's keys are cut into
    int64_t state, apart;  // where the state of token 0 is, and how far those of two tokens are apart
};

// All of a layer's attention, cut into tasks that threads share. A task leaves a state for each of its tokens and
// heads: the highest score, the sum of weights, and the weighted values.
template <typename T>
struct Plan {
    std::vector<Task<T>> tasks;
    std::vector<int64_t> first, places;  // of each group: its first state, and parts that a token's keys are cut into
    int64_t states;

    void make(const Attention& a, int threads) {
        tasks.clear(), first.clear(), places.clear(), states = 0;
        block = tiled<T>(a.d) ? WIDE : BLOCK;
        int64_t keys = 0;
        for (int64_t g = 0; g < a.count; g++) {
            const Readers& group = *a.groups[g];
            keys += longest(group);
            for (int64_t p = 0; p < group.parts; p++) keys += read_of(a, group, p)[2];
        }
        const int64_t most = std::min(MOST, std::max(LEAST, a.kv_heads * keys / (4 * threads)));
        for (int64_t g = 0; g < a.count; g++) {
            // Many tokens are tasks enough, and their states would take much memory if each had several.
            const int64_t blocks = (a.groups[g]->tokens + block - 1) / block * a.kv_heads;
            cut(a, *a.groups[g], blocks >= 4 * threads ? std::numeric_limits<int32_t>::max() : most);
        }
    }

  private:
    int64_t block;

    static int64_t longest(const Readers& group) {
        return *std::max_element(group.lengths, group.lengths + group.tokens);
    }

    static const int64_t* read_of(const Attention& a, const Readers& group, int64_t part) {
        return group.reads + 5 * (a.layer * group.parts + part);
    }

    void cut(const Attention& a, const Readers& group, int64_t most) {
        const size_t before = tasks.size();
        int64_t place = 0;
        // `keys` and `values` of all heads, which are so far apart; for tokens [first, last) of the group
        const auto add = [&](Task<T> task, int64_t key_head, int64_t value_head, int64_t first, int64_t last) {
            const T *keys = task.keys, *values = task.values;
            for (task.kv = 0; task.kv < a.kv_heads; task.kv++)
                for (task.first = first; task.first < last; task.first += block) {
                    task.keys = keys + task.kv * key_head;
                    task.values = values + task.kv * value_head;
                    task.last = std::min(task.first + block, last);
                    tasks.push_back(task);
                }
        };
        Task<T> task = {};
        task.group = &group;
        for (int64_t p = 0; p < group.parts; p++) {
            const int64_t* read = read_of(a, group, p);
            for (task.from = 0; task.from < read[2]; task.from += most) {
                task.keys = (const T*)read[0], task.values = (const T*)read[1];
                task.upto = std::min(task.from + most, read[2]), task.place = place++;
                add(task, read[3], read[4], 0, group.tokens);
            }
        }
        const int64_t *tails = group.tails + 2 * a.layer, end = longest(group);
        task.tail = true;
        for (task.from = 0; task.from < end; task.from += most) {
            task.upto = std::min(task.from + most, end), task.place = place++;
            for (int64_t row = 0; row < group.tokens; row += group.each) {
                const int64_t at = group.slots[row] * group.tail_slot;
                task.keys = (const T*)tails[0] + at, task.values = (const T*)tails[1] + at;
                add(task, group.tail_head, group.tail_head, row, row + group.each);
            }
        }
        for (size_t i = before; i < tasks.size(); i++) {
            tasks[i].state = states + tasks[i].kv * place + tasks[i].place;
            tasks[i].apart = a.kv_heads * place;
        }
        first.push_back(states), places.push_back(place);
        states += group.tokens * a.kv_heads * place;
    }
};

// How many of `some` keys of the task from `from` on a token sees.
template <typename T>
inline int64_t seen(const Task<T>& task, int64_t token, int64_t from, int64_t some) {
    const int64_t here = std::min(some, task.upto - from);
    return task.tail ? std::min(here, task.group->lengths[token] - from) : here;
}

template <typename T>
inline const T* query_of(const Attention& a, const Task<T>& task, int64_t token, int64_t head) {
    const int64_t row = task.group->start + token;
    return (const T*)a.query + (task.kv * a.shared + head) * a.query_head + row * a.query_row;
}

template <typename T>
void work_vectors(const Attention& a, const Task<T>& task, float* states) {
    const int64_t width = a.d / LANES, size = a.shared * (a.d + 2), count = task.last - task.first;
    std::vector<Floats> query(count * a.shared * width);
    for (int64_t t = 0; t < count; t++) {
        float* state = states + (task.state + (task.first + t) * task.apart) * size;
        std::fill_n(state, size, 0.0f);
        for (int64_t h = 0; h < a.shared; h++) {
            const T* from = query_of(a, task, task.first + t, h);
            for (int64_t w = 0; w < width; w++) query[(t * a.shared + h) * width + w] = lanes(from + w * LANES);
            state[h * (a.d + 2)] = std::numeric_limits<float>::lowest();
        }
    }
    for (int64_t from = task.from; from < task.upto; from += PIECE)
        for (int64_t t = 0; t < count; t++) {
            const int64_t token = task.first + t;
            const int64_t here = seen(task, token, from, PIECE);
            if (here <= 0) continue;
            const Span<T> span = {task.keys + from * a.d, task.values + from * a.d, here};
            float* state = states + (task.state + token * task.apart) * size;
            for (int64_t h = 0; h < a.shared; h += TOGETHER)
                read_some(a.shared - h, &query[(t * a.shared + h) * width], width, a.scaling, span,
                          state + h * (a.d + 2));
        }
}

inline void work_tiles(const Attention& a, const Task<uint16_t>& task, float* states) {
#if defined(WITH_TILES)
    static thread_local Flash flash;
    const int64_t size = a.d + 2, count = (task.last - task.first) * a.shared;
    const auto token = [&](int64_t q) { return task.first + q / a.shared; };
    flash.begin(count, a.d, a.scaling, [&](int64_t q) { return query_of(a, task, token(q), q % a.shared); });
    const Forms forms(flash.height());
    for (int64_t from = task.from; from < task.upto; from += MANY) {
        const int64_t most = seen(task, task.last - 1, from, MANY);  // the last token of a row sees the most
        if (most <= 0) break;
        const Span<uint16_t> span = {task.keys + from * a.d, task.values + from * a.d, most};
        flash.piece(span, [&](int64_t q) { return seen(task, token(q), from, MANY); });
    }
    for (int64_t q = 0; q < count; q++)
        flash.end(q, states + ((task.state + token(q) * task.apart) * a.shared + q % a.shared) * size);
#endif
}

template <typename T>
inline void work(const Attention& a, const Task<T>& task, float* states) {
    if constexpr (std::is_same<T, uint16_t>::value)
        if (tiled<T>(a.d)) return work_tiles(a, task, states);
    work_vectors(a, task, states);
}

// One softmax over all that a token read with one head of keys: `count` states, one behind the other, to [shared, d].
template <typename T>
void join(const Attention& a, float* states, int64_t count, T* out) {
    const int64_t size = a.shared * (a.d + 2);
    for (int64_t h = 0; h < a.shared; h++) {
        float* first = states + h * (a.d + 2);
        float most = first[0], sum = 0;
        for (int64_t s = 1; s < count; s++) most = std::max(most, first[s * size]);
        for (int64_t s = 0; s < count; s++) {
            float* state = first + s * size;
            state[0] = std::exp(state[0] - most);
            sum += state[0] * state[1];
        }
        for (int64_t i = 0; i < a.d; i += LANES) {
            Floats value = {};
            for (int64_t s = 0; s < count; s++) value += first[s * size] * load<Floats>(first + s * size + 2 + i);
            for (int64_t j = 0; j < LANES; j++) put(out + h * a.d + i + j, value[j] / sum);
        }
    }
}

template <typename T>
void attended(const Attention& a, int threads) {
    const int64_t size = a.shared * (a.d + 2);
    static thread_local Plan<T> held;
    static thread_local std::vector<float> room;
    Plan<T>& plan = held;
    plan.make(a, threads);
    room.resize(plan.states * size);
    float* states = room.data();
    for (int64_t g = 0; g < a.count; g++) {
        const Readers& group = *a.groups[g];
        const int64_t* tails = group.tails + 2 * a.layer;
        for (int64_t token = 0; token < group.tokens; token++)
            for (int64_t kv = 0; kv < a.kv_heads; kv++) {
                const int64_t row = group.start + token;
                const int64_t place =
                    group.slots[token] * group.tail_slot + kv * group.tail_head + (group.lengths[token] - 1) * a.d;
                std::copy_n((const T*)a.key + kv * a.key_head + row * a.key_row, a.d, (T*)tails[0] + place);
                std::copy_n((const T*)a.value + kv * a.value_head + row * a.value_row, a.d, (T*)tails[1] + place);
            }
    }
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic, 1)
        for (size_t i = 0; i < plan.tasks.size(); i++) work(a, plan.tasks[i], states);
        for (int64_t g = 0; g < a.count; g++) {
            const Readers& group = *a.groups[g];
#pragma omp for schedule(static) nowait
            for (int64_t token = 0; token < group.tokens; token++)
                for (int64_t kv = 0; kv < a.kv_heads; kv++) {
                    const int64_t place = plan.places[g], state = plan.first[g] + (token * a.kv_heads + kv) * place;
                    T* out = (T*)a.out + ((group.start + token) * a.kv_heads + kv) * a.shared * a.d;
                    join(a, states + state * size, place, out);
                }
        }
    }
}

}  // namespace
