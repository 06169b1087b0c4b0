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
};

// Moves lambda of n states to their positions in a text. factors[i] is what lambda / (1 - lambda)
// is multiplied by at position i; the last of them stands for all positions behind.
void shift(const std::uint32_t* positions, std::size_t n, const double* factors, std::size_t known,
           float* weights);

// gates[k] is that of contexts of k words; there must be one for each order.
Backoff estimate(const Counts& counts, const std::vector<Gate>& gates);

}  // namespace perslm
