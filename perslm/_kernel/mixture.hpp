// The mixture of a global and a personal distribution: p = weight * p_personal + (1 - weight) *
// p_global, on natural logarithms. perslm/interpolate.py has the same in numpy.
#pragma once

#include <cstddef>
#include <cstdint>

namespace perslm {

// What the personal model knows: ids of words, each below the width of a row, and whether they
// ascend, which is faster.
struct Columns {
  const std::uint32_t* ids;
  std::size_t size;
  bool ascending;
};

bool ascends(const std::uint32_t* ids, std::size_t n);

// How sure the global LM is: the greatest log-probability of a row, and its entropy in nats. A NaN,
// and what is below -87, count as probability 0; what is above 0 as 0.
struct Uncertainty {
  float top, entropy;
};

Uncertainty uncertainty(const float* row, std::size_t width);

// Mix one row of `width` log-probabilities into `out`, which may be `global` itself. `personal` has
// one log-probability for each column; every other word has personal probability 0. With weight 0
// the row is left as it is, bit for bit.
void mix_row(const float* global, std::size_t width, float weight, Columns columns,
             const float* personal, float* out);

}  // namespace perslm
