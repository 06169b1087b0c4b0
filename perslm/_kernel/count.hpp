// Counting n-grams. perslm/counts.py has the numpy twin.
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

}  // namespace perslm
