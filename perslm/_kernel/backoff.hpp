// Backing off into the global LM: from counts to the masses of n-grams, and of all that
// follow a context. perslm/backoff.py has the formulas, one by one, and the reasons for them; this
// computes the same numbers, in double, and keeps them as float.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "levels.hpp"

namespace perslm {

// The numbers of a gate: what perslm/backoff.py calls its features has a coefficient each.
constexpr std::size_t gate_features = 8;

struct Gate {
  std::array<double, gate_features> coefficient;
  double discount;  // 0 < d < 1
};

// A mass depends on few small numbers alone, so there are few distinct ones. Each is held once.
struct Backoff {
  std::vector<float> mass;                        // the distinct masses of n-grams; 0 for <s>
  std::vector<std::vector<std::uint32_t>> value;  // [order][entry]: which of them
  std::vector<std::vector<float>> spoken;         // [order - 1][entry]: the mass of all n-grams
                                                  // of it as a context
  std::vector<std::uint32_t> words;               // [entry of level 1]: the count it went by
  float root_spoken = 0;                          // that of the empty context
  double moved = 1;                               // what lambda / (1 - lambda) is multiplied by
};

// What lambda / (1 - lambda) is multiplied by at each position in a text; the last factor stands
// for all positions behind.
struct Places {
  const std::uint32_t* positions;
  const double* factors;
  std::size_t known;
};

// How sure the global LM is: for each place the greatest log-probability and the entropy of its
// row; and what the logarithm of lambda / (1 - lambda) moves by for it. perslm/backoff.py says what
// has a coefficient.
constexpr std::size_t row_features = 5;

struct Rows {
  const float* uncertainty;
  const double* coefficients;
};

// Moves lambda of n states, by either or both; null pointers are not known.
void shift(const Places* places, const Rows* rows, std::size_t n, float* weights);

// What the logarithm of lambda / (1 - lambda) moves by for the size of the model: a polynomial.
using Size = std::array<double, 3>;

// gates[k] is that of contexts of k words; there must be one for each order.
Backoff estimate(const Counts& counts, const std::vector<Gate>& gates, const Size& size);

}  // namespace perslm
