// N-gram counts in the form that every part of the kernel shares: a trie in flat arrays.
//
// Counting makes it (count.hpp), the codec turns it into a payload and back (codec.hpp), and the
// model is compiled from it (model.hpp). perslm/counts.py has the same trie in numpy arrays and
// says which rules it keeps; bindings in module.cpp translate.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace perslm {

constexpr int max_order = 5;
constexpr int bins = 5;  // K of the Katz formulas

struct Specials {
  std::uint32_t size, bos, eos;  // ids at or above size are virtual
};

// The n-grams of one order, grouped by context: those of context i are entries
// begin[i] .. begin[i+1], in ascending order of label.
struct Level {
  std::vector<std::uint32_t> begin;   // [contexts + 1]; a context is an entry of the level below
  std::vector<std::uint32_t> suffix;  // the entry below that is this n-gram without its oldest word
  std::vector<std::uint32_t> label;   // last word, as entry of level 1
  std::vector<std::uint32_t> count;

  std::size_t size() const { return label.size(); }
};

// words[i] is the token id of entry i of level 1, ascending; label i of level 1 is i itself, and
// its suffix 0. The entry of <s>, where there is one, has count 0 and is nobody's successor.
struct Counts {
  Specials specials{};
  std::vector<std::uint32_t> words;
  std::vector<Level> levels;
  bool pruned = false;
  std::vector<std::vector<std::uint32_t>> cut;  // if pruned: [order][contexts of the level]
  std::vector<std::array<std::uint32_t, bins + 1>> whole;  // if pruned: n_1 .. n_6 by order

  int order() const { return static_cast<int>(levels.size()); }
};

}  // namespace perslm
