// Urns: how many tokens of each word are still to be seen after a context.
//
// An n-gram h'w stands for c(h'w) tokens, and each of them belongs to one longer context h that ends
// in h'. So the successors of all these h together empty the urn of h', whose columns are the
// successors w of h'. The codec draws from it; FORMAT.md, section "Rows", says how.
#pragma once

#include <cstdint>
#include <vector>

#include "levels.hpp"

namespace perslm {

// Non-negative numbers in a row, with sums of 16, 256, ... of them, to find who holds the i-th unit.
class SumTree {
 public:
  SumTree(std::uint32_t* leaves, std::uint32_t size, std::uint32_t* sums)
      : leaves_(leaves), size_(size), sums_(sums) {}

  // How many sums `size` leaves need.
  static std::size_t sums_of(std::uint32_t size) {
    std::size_t total = 0;
    while (size > width) total += size = blocks(size);
    return total;
  }

  std::uint32_t size() const { return size_; }
  std::uint32_t operator[](std::uint32_t leaf) const { return leaves_[leaf]; }

  void add(std::uint32_t leaf, std::uint32_t amount) {  // modulo 2^32: subtracts, too
    leaves_[leaf] += amount;
    std::uint32_t* sums = sums_;
    for (std::uint32_t size = size_; size > width;) {
      leaf /= width;
      size = blocks(size);
      sums[leaf] += amount;
      sums += size;
    }
  }

  // The leaf that holds unit `target` (below the sum of all), and how many units stand before it.
  std::uint32_t find(std::uint64_t target, std::uint64_t& before) const {
    const std::uint32_t* rows[8];
    int depth = climb(rows);
    std::uint64_t left = target;
    std::uint32_t at = 0;
    for (;; at *= width) {
      const std::uint32_t* row = rows[depth] + at;
      const std::uint32_t* cell = row;
      while (left >= *cell) left -= *cell++;
      at += static_cast<std::uint32_t>(cell - row);
      if (depth-- == 0) break;
    }
    before = target - left;
    return at;
  }

  // The sum of the leaves before `leaf`.
  std::uint64_t before(std::uint32_t leaf) const {
    const std::uint32_t* rows[8];
    const int depth = climb(rows);
    std::uint64_t sum = 0;
    for (int level = 0; level <= depth; ++level, leaf /= width) {
      const std::uint32_t first = level == depth ? 0 : leaf / width * width;
      for (std::uint32_t i = first; i < leaf; ++i) sum += rows[level][i];
    }
    return sum;
  }

  // The first leaf at or after `leaf` that is not 0; there must be one.
  std::uint32_t next(std::uint32_t leaf) const {
    if (leaf % width != 0 || size_ <= width) {
      const std::uint32_t end = size_ <= width ? size_ : (leaf / width + 1) * width;
      for (; leaf < end && leaf < size_; ++leaf)
        if (leaves_[leaf] != 0) return leaf;
    }
    std::uint64_t unused;
    return find(before(leaf), unused);
  }

 private:
  static constexpr std::uint32_t width = 16;
  static std::uint32_t blocks(std::uint32_t size) { return size / width + (size % width != 0); }

  // Fills in the leaves and each row of sums; returns the index of the last row.
  int climb(const std::uint32_t* rows[8]) const {
    rows[0] = leaves_;
    const std::uint32_t* sums = sums_;
    int depth = 0;
    for (std::uint32_t size = size_; size > width; sums += size) {
      rows[++depth] = sums;
      size = blocks(size);
    }
    return depth;
  }

  std::uint32_t* leaves_;
  std::uint32_t size_;
  std::uint32_t* sums_;
};

struct Urn {
  SumTree columns;
  std::uint32_t first;    // the entry that column 0 is
  std::uint32_t& total;   // tokens in it
  std::uint32_t& nonzero; // columns that hold one
};

// The urns that the n-grams above `columns` are drawn from: one for each of its contexts.
class Urns {
 public:
  explicit Urns(const Level& columns)
      : begin_(columns.begin), left_(columns.count), heads_(columns.begin.size() - 1) {
    std::size_t sums = 0;
    for (std::size_t i = 0; i < heads_.size(); ++i) {
      heads_[i].sums = sums;
      sums += SumTree::sums_of(begin_[i + 1] - begin_[i]);
    }
    sums_.resize(sums);
    for (std::size_t i = 0; i < heads_.size(); ++i) fill(i);
  }

  Urn of(std::uint32_t context) {
    Head& head = heads_[context];
    const std::uint32_t first = begin_[context];
    return {{left_.data() + first, begin_[context + 1] - first, sums_.data() + head.sums},
            first,
            head.total,
            head.nonzero};
  }

 private:
  struct Head {
    std::size_t sums;
    std::uint32_t total = 0, nonzero = 0;
  };

  void fill(std::size_t context) {
    Head& head = heads_[context];
    const std::uint32_t* row = left_.data() + begin_[context];
    std::uint32_t size = begin_[context + 1] - begin_[context];
    for (std::uint32_t i = 0; i < size; ++i) {
      head.total += row[i];
      head.nonzero += row[i] != 0;
    }
    for (std::uint32_t* sums = sums_.data() + head.sums; size > 16;) {
      for (std::uint32_t i = 0; i < size; ++i) sums[i / 16] += row[i];
      row = sums;
      size = size / 16 + (size % 16 != 0);
      sums += size;
    }
  }

  const std::vector<std::uint32_t>& begin_;
  std::vector<std::uint32_t> left_;
  std::vector<Head> heads_;
  std::vector<std::uint32_t> sums_;
};

}  // namespace perslm
