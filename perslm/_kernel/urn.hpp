// Urns: how many tokens of each word are still to be seen after a context.
//
// An n-gram h'w stands for c(h'w) tokens, and each of them belongs to one longer context h that
// ends in h'. So the successors of all these h together empty the urn of h', whose columns are the
// successors w of h'. The codec draws from it; FORMAT.md, section "Rows", says how.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "levels.hpp"

namespace perslm {

// Who holds which of 2^bits slots, in proportion to the tokens when the table was made.
struct SlotTable {
  int bits = 0;
  std::uint32_t total = 0;             // tokens at that time
  std::vector<std::uint32_t> columns;  // those with tokens
  std::vector<std::uint32_t> starts;   // the first slot of each, and behind the last 2^bits

  // The place in `columns` of the one that holds `slot`.
  std::uint32_t find(std::uint64_t slot) const {
    const std::uint32_t at = buckets_[slot >> shift_];
    for (std::uint32_t i = at; i < at + 16; ++i)
      if (starts[i + 1] > slot) return i;
    // so many in one bucket are rare
    return static_cast<std::uint32_t>(std::upper_bound(starts.begin() + at, starts.end(), slot) -
                                      starts.begin() - 1);
  }

  void make(const std::uint32_t* tokens, std::uint32_t size, std::uint32_t sum,
            std::uint32_t nonzero) {
    total = sum;
    bits = 0;
    while ((std::uint64_t{1} << bits) < sum) ++bits;
    const std::uint64_t scale = (std::uint64_t{1} << (bits + 32)) / sum;
    // whoever was empty before still is
    if (columns.empty()) {
      columns.resize(size);
      std::iota(columns.begin(), columns.end(), 0U);
    }
    starts.resize(nonzero + 1);
    shift_ = bits;
    while (shift_ > 0 && (std::uint64_t{1} << (bits - shift_)) < 2 * std::uint64_t{nonzero})
      --shift_;
    buckets_.resize(std::size_t{1} << (bits - shift_));
    std::uint64_t before = 0;
    std::uint32_t place = 0, bucket = 0;
    for (const std::uint32_t column : columns) {
      const std::uint32_t held = tokens[column];
      if (held == 0) continue;
      const auto start = static_cast<std::uint32_t>(before * scale >> 32);
      columns[place] = column;
      starts[place] = start;
      for (; std::uint64_t{bucket} << shift_ < start; ++bucket) buckets_[bucket] = place - 1;
      before += held;
      ++place;
    }
    columns.resize(nonzero);
    starts[place] = std::uint32_t{1} << bits;
    for (; bucket < buckets_.size(); ++bucket) buckets_[bucket] = place - 1;
  }

 private:
  int shift_ = 0;
  std::vector<std::uint32_t> buckets_;  // for each 2^shift slots, who holds the first
};

// The columns of one urn, and how many tokens each still holds.
struct Urn {
  static constexpr std::uint32_t few = 32;  // columns that do without a table

  std::uint32_t* tokens;
  std::uint32_t size;
  std::uint32_t first;  // the entry that column 0 is
  std::uint32_t& total;
  std::uint32_t& nonzero;
  std::int32_t& table;

  void take(std::uint32_t column, std::uint32_t count) {
    tokens[column] -= count;
    total -= count;
    nonzero -= tokens[column] == 0;
  }
};

// The urns that the n-grams above `columns` are drawn from: one for each of its contexts.
class Urns {
 public:
  explicit Urns(const Level& columns)
      : begin_(columns.begin), tokens_(columns.count), heads_(columns.begin.size() - 1) {
    for (std::size_t i = 0; i < heads_.size(); ++i) {
      for (std::uint32_t j = begin_[i]; j < begin_[i + 1]; ++j) {
        heads_[i].total += tokens_[j];
        heads_[i].nonzero += tokens_[j] != 0;
      }
    }
  }

  Urn of(std::uint32_t context) {
    Head& head = heads_[context];
    const std::uint32_t first = begin_[context];
    return {tokens_.data() + first,
            begin_[context + 1] - first,
            first,
            head.total,
            head.nonzero,
            head.table};
  }

  // The table to draw with; made anew whenever three quarters of the tokens are gone.
  const SlotTable& table(const Urn& urn) {
    const bool is_new = urn.table < 0;
    if (is_new) {
      urn.table = static_cast<std::int32_t>(tables_.size());
      tables_.emplace_back();
    }
    SlotTable& table = tables_[static_cast<std::size_t>(urn.table)];
    if (is_new || urn.total <= table.total / 4)
      table.make(urn.tokens, urn.size, urn.total, urn.nonzero);
    return table;
  }

 private:
  struct Head {
    std::uint32_t total = 0, nonzero = 0;
    std::int32_t table = -1;
  };

  const std::vector<std::uint32_t>& begin_;
  std::vector<std::uint32_t> tokens_;
  std::vector<Head> heads_;
  std::vector<SlotTable> tables_;
};

}  // namespace perslm
