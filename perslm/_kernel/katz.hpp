// Katz backoff, from counts to log-probabilities and backoff weights. perslm/katz.py has the
// formulas, one by one, and the reasons for them; this computes the same numbers, in double, and
// keeps them as float.
#pragma once

#include <cstdint>
#include <vector>

#include "levels.hpp"

namespace perslm {

// A log-probability depends on the order, the count and the context's total alone, so there are
// few: a user has some thousand. Each is held once.
struct Katz {
  std::vector<float> logprob;                     // the distinct ln p; -inf for <s>
  std::vector<std::vector<std::uint32_t>> value;  // [order][entry]: which of them
  std::vector<std::vector<float>> log_backoff;    // [order - 1][entry]: ln alpha as a context
  std::vector<int> fell_back;                     // orders whose discounts were unusable
};

Katz estimate(const Counts& counts);

}  // namespace perslm
