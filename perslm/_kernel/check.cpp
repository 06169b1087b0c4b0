#include "check.hpp"

#include <stdexcept>

namespace perslm {
namespace {

constexpr std::uint64_t limit = std::uint64_t{1} << 32;

void require(bool holds, const char* otherwise) {
  if (!holds) throw std::invalid_argument(otherwise);
}

void check_words(const Counts& counts) {
  const Specials& special = counts.specials;
  const auto& words = counts.words;
  require(special.bos != special.eos, "<s> and </s> have one id");
  for (std::size_t i = 0; i < words.size(); ++i) {
    require(i == 0 || words[i - 1] < words[i], "words are not ascending");
    require(words[i] < special.size || words[i] == special.bos, "a word is outside the vocabulary");
  }
}

void check_shape(const Level& level, std::size_t contexts) {
  const std::size_t n = level.size();
  require(n < limit, "a level has more than 2^32 n-grams");
  require(level.suffix.size() == n && level.count.size() == n, "arrays differ in length");
  require(level.begin.size() == contexts + 1, "there is not one slice for each context");
  require(level.begin.front() == 0 && level.begin.back() == n, "slices do not cover their level");
  for (std::size_t i = 0; i < contexts; ++i)
    require(level.begin[i] <= level.begin[i + 1], "slices overlap");
}

void check_unigrams(const Counts& counts) {
  const Level& level = counts.levels.front();
  check_shape(level, 1);
  require(level.size() == counts.words.size(), "words and unigrams differ in number");
  for (std::uint32_t i = 0; i < level.size(); ++i) {
    require(level.label[i] == i && level.suffix[i] == 0, "unigrams are not their own labels");
    const bool is_bos = counts.words[i] == counts.specials.bos;
    require((level.count[i] == 0) == is_bos, "only <s> has a count of 0");
  }
}

// Closure and order of the k-grams, k >= 2, given that all levels below were checked.
void check_ngrams(const Counts& counts, std::size_t k) {
  const Level& level = counts.levels[k - 1];
  const Level& below = counts.levels[k - 2];
  check_shape(level, below.size());
  for (std::size_t context = 0; context < below.size(); ++context) {
    const std::uint32_t begin = level.begin[context], end = level.begin[context + 1];
    if (begin == end) continue;
    require(counts.words[below.label[context]] != counts.specials.eos, "</s> is followed");
    const std::uint32_t shorter = below.suffix[context];
    for (std::uint32_t i = begin; i < end; ++i) {
      const std::uint32_t label = level.label[i], suffix = level.suffix[i];
      require(i == begin || level.label[i - 1] < label, "n-grams are not ascending");
      require(label < counts.words.size(), "a label is not a word");
      require(counts.words[label] != counts.specials.bos, "<s> follows a word");
      require(suffix >= below.begin[shorter] && suffix < below.begin[shorter + 1] &&
                  below.label[suffix] == label,
              "a suffix is not the n-gram without its oldest word");
      require(level.count[i] > 0, "only <s> has a count of 0");
    }
  }
}

void check_totals(const Counts& counts) {
  const std::size_t order = counts.levels.size();
  require(counts.cut.size() == (counts.pruned ? order : 0), "cut has not one array per order");
  require(counts.whole.size() == counts.cut.size(), "count-of-counts has not one row per order");
  for (std::size_t k = 1; k <= order; ++k) {
    std::uint64_t total = 0;
    for (const std::uint32_t count : counts.levels[k - 1].count) total += count;
    if (counts.pruned) {
      const auto& cut = counts.cut[k - 1];
      require(cut.size() + 1 == counts.levels[k - 1].begin.size(), "cut has not one per context");
      for (const std::uint32_t mass : cut) total += mass;
    }
    require(total < limit, "the counts of one order sum to 2^32 or more");
  }
}

}  // namespace

void check(const Counts& counts) {
  require(counts.order() >= 1 && counts.order() <= max_order, "the order is not 1 to 5");
  check_words(counts);
  check_unigrams(counts);
  for (std::size_t k = 2; k <= counts.levels.size(); ++k) check_ngrams(counts, k);
  check_totals(counts);
}

}  // namespace perslm
