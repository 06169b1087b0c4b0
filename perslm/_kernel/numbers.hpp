// Adaptive models of small numbers, bit by bit. FORMAT.md, section "Numbers", specifies them.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "rans.hpp"

namespace perslm {

// Twice the binary logarithm, roughly: 0, 1, 2 -> 0, 1, 3; 3 -> 4; 4, 5 -> 5; 6, 7 -> 6; ...
inline unsigned half_octave(std::uint64_t x) {
  if (x == 0) return 0;
  const unsigned octave = 63u - static_cast<unsigned>(__builtin_clzll(x));
  return 1 + 2 * octave + (octave ? static_cast<unsigned>(x >> (octave - 1)) & 1 : 0);
}

// How fast a bit learns when it was seen so often.
struct Rates {
  std::array<std::uint16_t, 255> of{};
  constexpr Rates() {
    for (std::uint32_t seen = 0; seen < 255; ++seen)
      of[seen] = static_cast<std::uint16_t>(65536u / (seen + 2));
  }
};
inline constexpr Rates rates;

// The probability of a 1, learned from the bits so far: quickly at first, then ever slower.
class Bit {
 public:
  Share share(bool bit) const { return bit ? Share{0, one_, 16} : Share{one_, 65536u - one_, 16}; }

  void learn(bool bit) {
    const std::uint32_t rate = rates.of[seen_];
    const std::uint32_t one =
        bit ? one_ + ((65536u - one_) * rate >> 16) : one_ - (one_ * rate >> 16);
    one_ = static_cast<std::uint16_t>(one < least ? least : one > most ? most : one);
    if (seen_ < 254) ++seen_;
  }

  bool read(Stack::Cursor& cursor) {
    const bool bit = cursor.peek(16) < one_;
    cursor.drop(share(bit));
    learn(bit);
    return bit;
  }

 private:
  static constexpr std::uint32_t least = 32, most = 65536 - 32;
  std::uint16_t one_ = 32768;
  std::uint16_t seen_ = 0;
};

// The bits of numbers that are not small: their length in unary, and the highest below the first.
struct Large {
  std::array<Bit, 32> is_longer, high;
};

// A number below 2^31: in unary if small, else its length in unary and its bits. Most models never
// meet a large one, so those parts are kept apart, in a pool.
struct Number {
  static constexpr unsigned small = 6;
  std::array<Bit, small> is_more;
  std::uint32_t large = 0;  // one more than its place in the pool

  Large& large_in(std::vector<Large>& pool) {
    if (large == 0) {
      pool.emplace_back();
      large = static_cast<std::uint32_t>(pool.size());
    }
    return pool[large - 1];
  }
};

}  // namespace perslm
