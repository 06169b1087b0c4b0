// Katz backoff, from counts to log-probabilities and backoff weights. perslm/katz.py has the
// formulas, one by one, and the reasons for them; this computes the same numbers, in double, and
// keeps them as float.
#pragma once

#include "levels.hpp"
#include "smoothed.hpp"

namespace perslm {

// A table, if there is one, has a page for each order.
Smoothed estimate(const Counts& counts, const WeightTable* table);

}  // namespace perslm
