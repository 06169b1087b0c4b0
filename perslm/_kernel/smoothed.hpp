// A user's own words, smoothed: what katz.hpp computes, and what numpy computes of the other
// smoothings (perslm/smoothing.py). And lambda of its states, where a table says it by what a model
// knows there: perslm/weights.py has the rule.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace perslm {

// With Katz, a log-probability depends on the order, the count and the context's total alone, so
// there are few: a user has some thousand. Each is held once.
struct Smoothed {
  std::vector<float> logprob;                     // the distinct ln p; -inf for <s>
  std::vector<std::vector<std::uint32_t>> value;  // [order][entry]: which of them
  std::vector<float> log_backoff;                 // [entry below the last level], as a context
  std::vector<std::uint8_t> weight;  // [1 + those]: lambda in 255ths, first of the empty context;
                                     // none: it is 1
  std::vector<int> fell_back;        // orders with too few counts for their discounts
};

constexpr double slack = 1e-6;  // a sum rounded just below a whole number belongs to that one

// [words of a context][bucket of its count][bucket of the mass it keeps], in 255ths.
struct WeightTable {
  std::vector<std::uint8_t> weight;
  std::size_t counts = 0, masses = 0;

  std::uint8_t of(std::size_t words, std::uint64_t count, double kept) const {
    std::size_t size = 0;
    while (count >>= 1) ++size;
    const std::size_t mass = static_cast<std::size_t>(kept * static_cast<double>(masses) + slack);
    return weight[(words * counts + std::min(size, counts - 1)) * masses +
                  std::min(mass, masses - 1)];
  }
};

}  // namespace perslm
