// Counting n-grams, and the rules that all counts keep. perslm/counts.py has the numpy twin.
#pragma once

#include <cstddef>

#include "levels.hpp"

namespace perslm {

// Token ids with <s> and </s> in place; sequence i is tokens begins[i] .. begins[i+1], or the last.
struct Text {
  const std::uint32_t* tokens;
  std::size_t size;
  const std::int64_t* begins;
  std::size_t sequences;
};

// Counts every n-gram of orders 1 to `order` inside the sequences. Throws std::invalid_argument
// where the counts would break a rule: an id outside the vocabulary, <s> but at the beginning of a
// sequence, </s> but at the end, begins that are not ascending positions of the text.
Counts count(const Text& text, int order, Specials specials);

// Throws std::invalid_argument unless `counts` keep every rule of levels.hpp: closed, ascending,
// <s> nobody's successor, nothing after </s>, no count of 0 but that of <s>; and unless the counts
// of each order, with what was cut, sum to less than 2^32, so that no total overflows.
void check(const Counts& counts);

}  // namespace perslm
