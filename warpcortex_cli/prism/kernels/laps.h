// Where a step's time goes.

#pragma once

#include <chrono>

namespace {

// What a layer spends time on: products, attention, and what is between them: norms, rounding, turning, adding.
enum Part { BETWEEN, QKV, ATTENTION, OUTPUT, GATE_UP, DOWN };

class Laps {
  public:
    explicit Laps(double* seconds) : seconds(seconds) {  // [6], by part, to which it adds; or null
        if (seconds) began = Clock::now();
    }

    // What was done since the last one ended, or since this began, was of a part.
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
