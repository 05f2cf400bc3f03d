// Where a step's time goes.

#pragma once

#include <chrono>

namespace {

// What a layer spends time on: products, attention, and BETWEEN them norms, rounding, rotary embedding and additions.
enum Part { BETWEEN, QKV, ATTENTION, OUTPUT, GATE_UP, DOWN };

class Laps {
  public:
    explicit Laps(double* seconds) : seconds(seconds) {  // [6], by `Part`, added to; or null
        if (seconds) began = Clock::now();
    }

    // Charges the time since the last call, or since construction, to a part.
    void end(Part part) {
        if (!seconds) return;
        const Clock::time_point now = Clock::now();
        seconds[part] += std::chrono::duration<double>(now - began).count();
        began = now;
    }

  private:
    typedef std::chrono::steady_clock Clock;
    double* seconds;
    Clock::time_point began;
};

}  // namespace
