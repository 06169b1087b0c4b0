// The packed arrays that a model is made of: a subset of the vocabulary, ascending offsets, and
// rows of ascending labels, each with its lookup.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

// Small functions of inner loops, where a call would cost more than they do.
#if defined(__GNUC__)
#define PERSLM_INLINE inline __attribute__((always_inline))
#else
#define PERSLM_INLINE inline
#endif

namespace perslm {

constexpr std::uint32_t none = UINT32_MAX;

struct Range {
  std::uint32_t begin, end;
};

inline void prefetch(const void* address) {
#if defined(__GNUC__)
  __builtin_prefetch(address);
#else
  static_cast<void>(address);
#endif
}

template <class T>
std::size_t size_of(const std::vector<T>& values) {
  return values.capacity() * sizeof(T);
}

// Which place an id has among the ids of a set, ascending: a bitmap with the number of members
// before each 32 ids; a binary search where the ids are too far apart for that.
template <class Index>
class WordIndex {
 public:
  WordIndex() = default;

  explicit WordIndex(const std::vector<std::uint32_t>& members) {
    if (members.empty() || members.back() / 128 > members.size() + 128) return;
    const std::size_t blocks = members.back() / width + 1;
    bits_.resize(blocks);
    before_.resize(blocks);
    for (const std::uint32_t id : members) bits_[id / width] |= 1U << id % width;
    std::uint32_t sum = 0;
    for (std::size_t i = 0; i < blocks; ++i) {
      before_[i] = static_cast<Index>(sum);
      sum += ones(bits_[i]);
    }
  }

  std::uint32_t find(std::uint32_t id, const std::vector<std::uint32_t>& members) const {
    return bits_.empty() ? search(id, members) : look_up(id);
  }

  // Of many, at most `batch`; the number of members for those that are none.
  static constexpr std::size_t batch = 256;
  void find(const std::uint32_t* ids, std::size_t n, const std::vector<std::uint32_t>& members,
            std::uint32_t* out) const;

  std::size_t bytes() const { return size_of(bits_) + size_of(before_); }

 private:
  // not the builtin: without the processor's instruction that is a call
  static std::uint32_t ones(std::uint32_t x) {
    x -= x >> 1 & 0x55555555U;
    x = (x & 0x33333333U) + (x >> 2 & 0x33333333U);
    x = (x + (x >> 4)) & 0x0F0F0F0FU;
    x += x >> 8;
    return (x + (x >> 16)) & 63;
  }

  std::uint32_t look_up(std::uint32_t id) const {
    if (id / width >= bits_.size() || (bits_[id / width] >> id % width & 1) == 0) return none;
    return before_[id / width] + ones(bits_[id / width] & below(id));
  }

  // The bits of the smaller ids in an id's block.
  static std::uint32_t below(std::uint32_t id) { return (1U << id % width) - 1; }

  static std::uint32_t search(std::uint32_t id, const std::vector<std::uint32_t>& members) {
    const auto at = std::lower_bound(members.begin(), members.end(), id);
    return at != members.end() && *at == id ? static_cast<std::uint32_t>(at - members.begin())
                                            : none;
  }

  static constexpr std::uint32_t width = 32;
  std::vector<std::uint32_t> bits_;
  std::vector<Index> before_;
};

template <class Index>
void WordIndex<Index>::find(const std::uint32_t* ids, std::size_t n,
                            const std::vector<std::uint32_t>& members, std::uint32_t* out) const {
  const auto nowhere = static_cast<std::uint32_t>(members.size());
  if (bits_.empty()) {
    for (std::size_t i = 0; i < n; ++i) out[i] = std::min(search(ids[i], members), nowhere);
    return;
  }
  std::uint32_t member[batch], smaller[batch];
  const std::uint32_t* const bits = bits_.data();
  const Index* const before = before_.data();
  const auto last = static_cast<std::uint32_t>(bits_.size()) - 1;
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint32_t id = ids[i], block = std::min(id / width, last);
    member[i] = (bits[block] >> id % width & 1) & (id / width <= last);
    smaller[i] = bits[block] & below(id);
    out[i] = before[block];
  }
  for (std::size_t i = 0; i < n; ++i) {  // apart, for compilers to vectorize
    out[i] = member[i] != 0 ? out[i] + ones(smaller[i]) : nowhere;
  }
}

// Numbers that do not descend, in a byte each above the first of their block; a block that spans
// too much for that has them in full elsewhere.
class Offsets {
 public:
  Offsets() = default;
  explicit Offsets(const std::vector<std::uint32_t>& values);

  std::uint32_t operator[](std::size_t i) const {
    const std::uint32_t first = first_[i / block];
    return first < is_wide ? first + above_[i] : wide_[first - is_wide + i % block];
  }

  std::size_t bytes() const { return size_of(first_) + size_of(above_) + size_of(wide_); }

 private:
  static constexpr std::size_t block = 16;
  static constexpr std::uint32_t is_wide = 1U << 31;
  std::vector<std::uint32_t> first_;  // of a wide block: where its numbers are in wide_
  std::vector<std::uint8_t> above_;
  std::vector<std::uint32_t> wide_;
};

inline Offsets::Offsets(const std::vector<std::uint32_t>& values) : above_(values.size()) {
  if (!values.empty() && values.back() >= is_wide) throw std::length_error("offsets have 31 bits");
  first_.reserve((values.size() + block - 1) / block);
  for (std::size_t begin = 0; begin < values.size(); begin += block) {
    const std::size_t end = std::min(values.size(), begin + block);
    if (values[end - 1] - values[begin] > UINT8_MAX) {
      first_.push_back(is_wide + static_cast<std::uint32_t>(wide_.size()));
      wide_.insert(wide_.end(), values.begin() + static_cast<std::ptrdiff_t>(begin),
                   values.begin() + static_cast<std::ptrdiff_t>(end));
    } else {
      first_.push_back(values[begin]);
      for (std::size_t i = begin; i < end; ++i) {
        above_[i] = static_cast<std::uint8_t>(values[i] - values[begin]);
      }
    }
  }
  wide_.shrink_to_fit();
}

// Rows of labels, one after the other, ascending within each. A row of up to 16 is compared as a
// whole; for a longer one every sixteenth label lies in an array of its own, to find the 16 by.
template <class Label>
class Labels {
 public:
  class Finder;

  Labels() = default;
  explicit Labels(std::vector<Label> labels);

  Label operator[](std::size_t i) const { return labels_[i]; }
  Finder finder(Range row) const { return Finder(*this, row); }
  void prefetch(std::size_t i) const { perslm::prefetch(labels_.data() + i); }
  std::size_t bytes() const { return size_of(labels_) + size_of(samples_); }

 private:
  static constexpr std::uint32_t width = 16;
  std::vector<Label> labels_;   // and 16 that mean nothing
  std::vector<Label> samples_;  // samples_[i] is labels_[16 * i]; and 16 too
};

template <class Label>
Labels<Label>::Labels(std::vector<Label> labels) : labels_(std::move(labels)) {
  samples_.reserve(labels_.size() / width + 1 + width);
  for (std::size_t i = 0; i < labels_.size(); i += width) samples_.push_back(labels_[i]);
  samples_.resize(samples_.size() + width);
  labels_.reserve(labels_.size() + width);  // for resize alone would double what is reserved
  labels_.resize(labels_.size() + width);
}

// Finds labels in one row. No branch depends on a label: half of them would be guessed wrong.
template <class Label>
class Labels<Label>::Finder {
 public:
  struct Place {
    std::uint32_t at;  // if found
    bool found;
  };

  Finder(const Labels& labels, Range row)
      : labels_(labels.labels_.data()),
        samples_(labels.samples_.data()),
        row_(row),
        first_((row.begin + width - 1) / width),
        after_((row.end + width - 1) / width) {}

  PERSLM_INLINE Place operator()(Label label) const {
    const std::uint32_t begin = row_.end - row_.begin <= width ? row_.begin : narrow(label);
    const std::uint32_t place = find(labels_ + begin, label);
    return {begin + place, place < std::min(width, row_.end - begin)};
  }

 private:
  // Where the 16 labels begin that alone can hold `label`; none of them is before the row.
  PERSLM_INLINE std::uint32_t narrow(Label label) const {
    std::uint32_t at = first_, left = after_ - first_;
    while (left > width) {  // equally often for every label
      const std::uint32_t half = left / 2;
      at += half & (0U - (samples_[at + half - 1] <= label));
      left -= half;
    }
    at += std::min(count(samples_ + at, label), left);
    return std::max(row_.begin + width, at * width) - width;
  }

#if defined(__SSE2__)
  // The lowest bits are those of the elements in which all bits are set.
  static std::uint32_t mask(__m128i low, __m128i high) {
    return static_cast<std::uint32_t>(_mm_movemask_epi8(_mm_packs_epi16(low, high)));
  }
#endif

  // The place of `label` among 16, or 16.
  PERSLM_INLINE static std::uint32_t find(const Label* labels, Label label) {
#if defined(__SSE2__)
    if constexpr (sizeof(Label) == 2) {
      const auto* const at = reinterpret_cast<const __m128i*>(labels);
      const __m128i wanted = _mm_set1_epi16(static_cast<short>(label));
      const std::uint32_t equal = mask(_mm_cmpeq_epi16(_mm_loadu_si128(at), wanted),
                                       _mm_cmpeq_epi16(_mm_loadu_si128(at + 1), wanted));
      return static_cast<std::uint32_t>(__builtin_ctz(equal | 1U << width));
    }
#endif
    std::uint32_t place = width;
    for (std::uint32_t i = width; i-- > 0;) place = labels[i] == label ? i : place;
    return place;
  }

  // How many of 16 are at or below `label` before the first that is above it.
  PERSLM_INLINE static std::uint32_t count(const Label* labels, Label label) {
#if defined(__SSE2__)
    if constexpr (sizeof(Label) == 2) {
      const auto* const at = reinterpret_cast<const __m128i*>(labels);
      const __m128i bound = _mm_set1_epi16(static_cast<short>(label)), zero = _mm_setzero_si128();
      const __m128i low = _mm_subs_epu16(_mm_loadu_si128(at), bound);
      const __m128i high = _mm_subs_epu16(_mm_loadu_si128(at + 1), bound);
      const std::uint32_t within = mask(_mm_cmpeq_epi16(low, zero), _mm_cmpeq_epi16(high, zero));
      return static_cast<std::uint32_t>(__builtin_ctz(~within));
    }
#endif
    std::uint32_t place = width;
    for (std::uint32_t i = width; i-- > 0;) place = labels[i] > label ? i : place;
    return place;
  }

  const Label* labels_;
  const Label* samples_;
  Range row_;
  std::uint32_t first_, after_;  // samples of the row
};

}  // namespace perslm
