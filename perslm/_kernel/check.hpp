// The rules that all counts keep, checked on counts of unknown origin.
#pragma once

#include "levels.hpp"

namespace perslm {

// Throws std::invalid_argument unless `counts` keep every rule of levels.hpp: closed, ascending,
// <s> nobody's successor, nothing after </s>, no count of 0 but that of <s>; and unless the counts
// of each order, with what was cut, sum to less than 2^32, so that no total overflows.
void check(const Counts& counts);

}  // namespace perslm
