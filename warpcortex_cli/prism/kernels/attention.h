// A step's attention: one softmax over shared segments and each row's own tail.

#pragma once

#include "flash.h"
#include "team.h"

#include <type_traits>

namespace {

// Cores this process may run on.
inline int cores() {
#if defined(_OPENMP)
    static const int found = omp_get_num_procs();
    return found;
#else
    return 1;
#endif
}

// Tokens of a step that read the same segments and whose tails are in one slab. Strides are in elements, not bytes.
struct Readers {
    int64_t start, tokens, each;     // index of the first packed token; token count; consecutive tokens of a row
    const int64_t *slots, *lengths;  // of each token: its tail's slot, and how many tokens of the tail it sees, with itself
    const int64_t* tails;            // [layers, 2]: addresses of keys and values, [slots, kv_heads, capacity, d]
    int64_t tail_slot, tail_head, parts;
    const int64_t* reads;  // [layers, parts, 5]: addresses of keys and values, tokens, head strides of both
};

// The arguments of `attend`.
struct Attention {
    const void *query, *key, *value;  // of all packed tokens: [heads or kv_heads, tokens, d]
    int64_t query_head, query_row, key_head, key_row, value_head, value_row;
    void* out;  // [tokens, heads, d]
    int64_t kv_heads, shared, d, layer;  // `shared`: query heads per KV head
    float scaling;
    const Readers* const* groups;
    int64_t count;
};

constexpr int64_t BLOCK = 8, WIDE = 48;     // tokens of a task: by vectors, by tiles
constexpr int64_t LEAST = 128, MOST = 512;  // keys of a task, a multiple of LEAST

// Whether AMX tiles compute it.
template <typename T>
inline bool tiled(int64_t d) { return std::is_same<T, uint16_t>::value && flash_serves(d); }

// Tokens [first, last) of a group, reading keys [from, upto) of one KV head: either of all shared parts, numbered as if
// concatenated, or of a tail, of which each token sees a prefix.
struct Task {
    const Readers* group;
    int64_t kv, first, last, from, upto;
    int64_t tail;          // offset of the tail in the slab, or -1 for shared parts
    int64_t place;         // its number among the tasks that split a token's keys
    int64_t state, apart;  // index of token 0's state, and the stride from one token's state to the next
};

inline const int64_t* read_of(const Attention& a, const Readers& group, int64_t part) {
    return group.reads + 5 * (a.layer * group.parts + part);
}

// Calls `use` with each contiguous span of a task's keys and the number of the span's first key.
template <typename T, typename Use>
inline void spans(const Attention& a, const Task& task, Use use) {
    if (task.tail >= 0) {
        const int64_t *tails = task.group->tails + 2 * a.layer, at = task.tail + task.from * a.d;
        return use(Span<T>{(const T*)tails[0] + at, (const T*)tails[1] + at, task.upto - task.from}, task.from);
    }
    for (int64_t p = 0, start = 0; p < task.group->parts && start < task.upto; p++) {
        const int64_t* read = read_of(a, *task.group, p);
        const int64_t from = std::max<int64_t>(0, task.from - start), upto = std::min(read[2], task.upto - start);
        const T *keys = (const T*)read[0] + task.kv * read[3], *values = (const T*)read[1] + task.kv * read[4];
        if (from < upto) use(Span<T>{keys + from * a.d, values + from * a.d, upto - from}, start + from);
        start += read[2];
    }
}

// A layer's attention, split into tasks that threads share. A task writes a state for each of its tokens and heads: the
// maximum score, the sum of weights, and the weighted sum of values.
template <typename T>
struct Plan {
    std::vector<Task> tasks;
    std::vector<int64_t> first, places;  // of each group: its first state; the number of tasks that split a token's keys
    int64_t states;

    int64_t numbers(const Attention& a) const { return states * a.shared * (a.d + 2); }

    // Split by the number of cores, not of threads in use, so that results do not depend on the thread count.
    void make(const Attention& a) {
        const int threads = cores();
        tasks.clear(), first.clear(), places.clear(), states = 0;
        block = tiled<T>(a.d) ? WIDE : BLOCK;
        int64_t keys = 0;
        for (int64_t g = 0; g < a.count; g++) keys += longest(*a.groups[g]) + shared(a, *a.groups[g]);
        const int64_t even = a.kv_heads * keys / (4 * threads);  // about 4 tasks per thread
        const int64_t most = std::min(MOST, std::max(LEAST, (even + LEAST - 1) / LEAST * LEAST));
        for (int64_t g = 0; g < a.count; g++) {
            // Many tokens give enough tasks without splitting keys, which would cost memory for several states each.
            const int64_t blocks = (a.groups[g]->tokens + block - 1) / block * a.kv_heads;
            cut(a, *a.groups[g], blocks >= 4 * threads ? std::numeric_limits<int32_t>::max() : most);
        }
    }

  private:
    int64_t block;

    static int64_t longest(const Readers& group) {
        return *std::max_element(group.lengths, group.lengths + group.tokens);
    }

    static int64_t shared(const Attention& a, const Readers& group) {
        int64_t keys = 0;
        for (int64_t p = 0; p < group.parts; p++) keys += read_of(a, group, p)[2];
        return keys;
    }

    void cut(const Attention& a, const Readers& group, int64_t most) {
        const size_t before = tasks.size();
        Task task = {};
        task.group = &group, task.tail = -1;
        const auto add = [&](int64_t first, int64_t last) {  // tasks for tokens [first, last) of the group
            for (task.first = first; task.first < last; task.first += block) {
                task.last = std::min(task.first + block, last);
                tasks.push_back(task);
            }
        };
        const auto each = [&](int64_t keys, auto use) {  // calls `use` for each chunk of keys and each KV head
            for (task.from = 0; task.from < keys; task.from += most, task.place++) {
                task.upto = std::min(task.from + most, keys);
                for (task.kv = 0; task.kv < a.kv_heads; task.kv++) use();
            }
        };
        each(shared(a, group), [&] { add(0, group.tokens); });
        each(longest(group), [&] {
            for (int64_t row = 0; row < group.tokens; row += group.each) {
                task.tail = group.slots[row] * group.tail_slot + task.kv * group.tail_head;
                add(row, row + group.each);
            }
        });
        for (size_t i = before; i < tasks.size(); i++) {
            tasks[i].state = states + tasks[i].kv * task.place + tasks[i].place;
            tasks[i].apart = a.kv_heads * task.place;
        }
        first.push_back(states), places.push_back(task.place);
        states += group.tokens * a.kv_heads * task.place;
    }
};

// The end of the keys that a token sees.
inline int64_t sight(const Task& task, int64_t token) {
    return task.tail >= 0 ? std::min(task.upto, task.group->lengths[token]) : task.upto;
}

template <typename T>
inline const T* query_of(const Attention& a, const Task& task, int64_t token, int64_t head) {
    const int64_t row = task.group->start + token;
    return (const T*)a.query + (task.kv * a.shared + head) * a.query_head + row * a.query_row;
}

// Where a task writes the state of a token and head.
inline float* state_of(const Attention& a, const Task& task, int64_t token, int64_t head, float* states) {
    return states + ((task.state + token * task.apart) * a.shared + head) * (a.d + 2);
}

template <typename T>
void work_vectors(const Attention& a, const Task& task, float* states) {
    const int64_t count = task.last - task.first;
    static thread_local AlignedVector<QueryNumber<T>> held;
    held.resize(count * a.shared * a.d);
    QueryNumber<T>* query = held.data();
    for (int64_t t = 0; t < count; t++)
        for (int64_t h = 0; h < a.shared; h++) {
            lay_out(query_of<T>(a, task, task.first + t, h), a.d, query + (t * a.shared + h) * a.d);
            float* state = state_of(a, task, task.first + t, h, states);
            std::fill_n(state, a.d + 2, 0.0f);
            state[0] = std::numeric_limits<float>::lowest();
        }
    spans<T>(a, task, [&](Span<T> span, int64_t start) {
        for (int64_t from = 0; from < span.tokens; from += PIECE)
            for (int64_t t = 0; t < count; t++) {
                const int64_t token = task.first + t;
                const int64_t here = std::min({PIECE, span.tokens - from, sight(task, token) - start - from});
                if (here <= 0) continue;
                const Span<T> piece = {span.keys + from * a.d, span.values + from * a.d, here};
                for (int64_t h = 0; h < a.shared; h += HEADS_AT_ONCE)
                    read_some<T>(a.shared - h, query + (t * a.shared + h) * a.d, a.d, a.scaling, piece,
                                 state_of(a, task, token, h, states));
            }
    });
}

inline void work_tiles(const Attention& a, const Task& task, float* states) {
#if defined(WITH_TILES)
    static thread_local Flash held;
    Flash& flash = held;
    flash.begin((task.last - task.first) * a.shared, a.d, a.scaling, task.from);
    for (int64_t token = task.first, q = 0; token < task.last; token++)
        for (int64_t h = 0; h < a.shared; h++, q++) flash.set_query(q, query_of<uint16_t>(a, task, token, h), sight(task, token));
    const TileConfig config(flash.height());
    spans<uint16_t>(a, task, [&](Span<uint16_t> span, int64_t start) {
        span.tokens = std::min(span.tokens, sight(task, task.last - 1) - start);  // the last token sees the most
        flash.take(span);
    });
    flash.finish();
    for (int64_t token = task.first, q = 0; token < task.last; token++)
        for (int64_t h = 0; h < a.shared; h++, q++) flash.result(q, state_of(a, task, token, h, states));
#endif
}

template <typename T>
inline void work(const Attention& a, const Task& task, float* states) {
    if constexpr (std::is_same<T, uint16_t>::value)
        if (tiled<T>(a.d)) return work_tiles(a, task, states);
    work_vectors<T>(a, task, states);
}

// Merges `count` consecutive states of a token and KV head into one softmax: [shared, d].
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
            put(out + h * a.d + i, value / sum);
        }
    }
}

// Appends the key or value of a group's token to its tail. Heads [0, kv_heads) are keys, the next kv_heads are values.
template <typename T>
inline void keep(const Attention& a, const Readers& group, int64_t token, int64_t head) {
    const bool value = head >= a.kv_heads;
    const int64_t kv = value ? head - a.kv_heads : head, row = group.start + token, place = group.lengths[token] - 1;
    const T* from = value ? (const T*)a.value + kv * a.value_head + row * a.value_row
                          : (const T*)a.key + kv * a.key_head + row * a.key_row;
    T* to = (T*)group.tails[2 * a.layer + value] + group.slots[token] * group.tail_slot + kv * group.tail_head;
    std::copy_n(from, a.d, to + place * a.d);
}

// Attention of tokens whose own keys and values are already in their tails. Does not wait for other threads at the end.
template <typename T>
void attended(Team& team, const Attention& a, const Plan<T>& plan, float* states) {
    const int64_t size = a.shared * (a.d + 2);
    team.share(plan.tasks.size(), [&](int64_t task) { work<T>(a, plan.tasks[task], states); });
    team.wait();
    for (int64_t g = 0; g < a.count; g++) {
        const Readers& group = *a.groups[g];
        const int64_t place = plan.places[g], count = group.tokens * a.kv_heads;
        for (int64_t i = team.first(count); i < team.last(count); i++) {
            float* own = states + (plan.first[g] + i * place) * size;
            join(a, own, place, (T*)a.out + (group.start * a.kv_heads + i) * a.shared * a.d);
        }
    }
}

// The same, appending the tokens' keys and values first.
template <typename T>
void kept_and_attended(const Attention& a, int threads) {
    static thread_local Plan<T> held;
    static thread_local AlignedVector<float> room;
    Plan<T>& plan = held;
    plan.make(a);
    room.resize(plan.numbers(a));
    float* states = room.data();
    together(threads, [&](Team& team) {
        for (int64_t g = 0; g < a.count; g++) {
            const int64_t heads = 2 * a.kv_heads, count = a.groups[g]->tokens * heads;
            for (int64_t i = team.first(count); i < team.last(count); i++)
                keep<T>(a, *a.groups[g], i / heads, i % heads);
        }
        team.wait();
        attended(team, a, plan, states);
    });
}

}  // namespace
