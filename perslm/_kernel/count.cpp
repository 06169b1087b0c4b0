// Counting by sorting: the positions of a text, ordered by the k-gram that begins at each.
//
// The order of the k-grams follows from that of the (k-1)-grams by one stable counting sort: a
// k-gram is its first word and then the (k-1)-gram that begins one position later. So we walk the
// positions as sorted for k-1, step one back from each, and deal what we meet into one bucket per
// first word. Equal k-grams become neighbours, and the walk already knows the suffix of each.
#include "count.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace perslm {
namespace {

using Ids = std::vector<std::uint32_t>;

constexpr std::uint32_t none = 0xFFFFFFFF;

// Returns begins[p] = 1 where a sequence begins, and at the end of the text.
std::vector<char> beginnings(const Text& text) {
  if (text.size >= none) throw std::invalid_argument("a text of 2^32 tokens or more");
  std::vector<char> begins(text.size + 1);
  begins[text.size] = 1;
  std::int64_t last = 0;
  for (std::size_t i = 0; i < text.sequences; ++i) {
    const std::int64_t at = text.begins[i];
    if (at < last || at > static_cast<std::int64_t>(text.size))
      throw std::invalid_argument("sequences do not begin at ascending positions");
    begins[static_cast<std::size_t>(at)] = 1;
    last = at;
  }
  if (!begins[0]) throw std::invalid_argument("the first sequence does not begin at 0");
  return begins;
}

// Returns all positions, ordered by token, by the least significant digits first.
Ids by_token(const Text& text) {
  constexpr unsigned digit_bits = 11;
  constexpr std::uint32_t digits = 1u << digit_bits;
  const std::uint32_t n = static_cast<std::uint32_t>(text.size);
  Ids positions(n), sorted(n);
  for (std::uint32_t p = 0; p < n; ++p) positions[p] = p;
  const std::uint32_t most = n ? *std::max_element(text.tokens, text.tokens + n) : 0;
  for (unsigned shift = 0; shift < 32 && most >> shift; shift += digit_bits) {
    Ids next(digits + 1);
    for (std::uint32_t p = 0; p < n; ++p) ++next[(text.tokens[p] >> shift) % digits + 1];
    for (std::uint32_t d = 0; d < digits; ++d) next[d + 1] += next[d];
    for (const std::uint32_t p : positions) sorted[next[(text.tokens[p] >> shift) % digits]++] = p;
    std::swap(positions, sorted);
  }
  return positions;
}

class Counter {
 public:
  Counter(const Text& text, int order, Specials specials)
      : text_(text), begins_(beginnings(text)), positions_(by_token(text)) {
    counts_.specials = specials;
    count_words(order > 1);
    while (counts_.order() < order) count_longer();
  }

  Counts take() { return std::move(counts_); }

 private:
  // The words of level 1. The context <s> is kept only where some longer n-gram begins with it.
  void count_words(bool with_contexts) {
    const Specials& special = counts_.specials;
    Level level;
    rank_.resize(text_.size);
    std::size_t kept = 0;
    for (std::size_t at = 0, end; at < positions_.size(); at = end) {
      const std::uint32_t word = text_.tokens[positions_[at]];
      bool followed = false;
      for (end = at; end < positions_.size() && text_.tokens[positions_[end]] == word; ++end) {
        const std::uint32_t p = positions_[end];
        const bool last = begins_[p + 1];
        if ((word == special.bos && !begins_[p]) || (word == special.eos && !last))
          throw std::invalid_argument("<s> or </s> in the middle of a sequence");
        followed |= !last;
      }
      const bool is_bos = word == special.bos;
      if (word >= special.size && !is_bos)
        throw std::invalid_argument("a token is outside the vocabulary");
      if (is_bos && !(followed && with_contexts)) continue;
      const std::uint32_t entry = static_cast<std::uint32_t>(level.size());
      counts_.words.push_back(word);
      level.label.push_back(entry);
      level.suffix.push_back(0);
      level.count.push_back(is_bos ? 0 : static_cast<std::uint32_t>(end - at));
      for (std::size_t i = at; i < end; ++i) {
        rank_[positions_[i]] = entry;
        positions_[kept++] = positions_[i];
        entries_.push_back(entry);
      }
    }
    positions_.resize(kept);
    level.begin = {0, static_cast<std::uint32_t>(level.size())};
    counts_.levels.push_back(std::move(level));
    if (!with_contexts) return;
    before_.resize(text_.size);
    for (std::size_t p = 0; p < text_.size; ++p) before_[p] = begins_[p] ? none : rank_[p - 1];
  }

  // The k-grams, from the positions and entries of the (k-1)-grams.
  void count_longer() {
    const std::size_t words = counts_.words.size();
    Ids next(words + 1);  // where the next k-gram that begins with each word goes
    for (const std::uint32_t p : positions_)
      if (before_[p] != none) ++next[before_[p] + 1];
    for (std::size_t w = 0; w < words; ++w) next[w + 1] += next[w];
    Ids positions(next[words]), suffixes(next[words]);
    for (std::size_t i = 0; i < positions_.size(); ++i) {
      const std::uint32_t p = positions_[i];
      if (before_[p] == none) continue;
      const std::uint32_t to = next[before_[p]]++;
      positions[to] = p - 1;
      suffixes[to] = entries_[i];
    }
    // next[w] is now where the k-grams after those of word w begin
    const Level& below = counts_.levels.back();
    Level level;
    level.begin.resize(below.size() + 1);
    entries_.resize(positions.size());
    std::uint32_t i = 0;
    for (std::size_t w = 0; w < words; ++w) {
      for (std::uint32_t last = none; i < next[w]; ++i) {
        const std::uint32_t p = positions[i], suffix = suffixes[i];
        if (suffix != last) {
          ++level.begin[rank_[p] + 1];
          level.suffix.push_back(suffix);
          level.label.push_back(below.label[suffix]);
          level.count.push_back(0);
          last = suffix;
        }
        ++level.count.back();
        rank_[p] = entries_[i] = static_cast<std::uint32_t>(level.size() - 1);
      }
    }
    for (std::size_t c = 0; c < below.size(); ++c) level.begin[c + 1] += level.begin[c];
    positions_ = std::move(positions);
    counts_.levels.push_back(std::move(level));
  }

  const Text& text_;
  const std::vector<char> begins_;
  Counts counts_;
  Ids positions_;  // those where a k-gram of the last level begins, in the order of the k-grams
  Ids entries_;    // the entry of each of them
  Ids rank_;       // by position: the entry of the k-gram that begins there
  Ids before_;     // by position: the word before it in its sequence, or none
};

}  // namespace

Counts count(const Text& text, int order, Specials specials) {
  if (order < 1 || order > max_order) throw std::invalid_argument("the order is not 1 to 5");
  if (specials.bos == specials.eos) throw std::invalid_argument("<s> and </s> have one id");
  return Counter(text, order, specials).take();
}

}  // namespace perslm
