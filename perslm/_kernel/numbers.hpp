// Adaptive models of small numbers, bit by bit. FORMAT.md, section "Numbers", specifies them.
#pragma once

#include <array>
#include <cstdint>

#include "rans.hpp"

namespace perslm {

// Twice the binary logarithm, roughly: 0, 1, 2 -> 0, 1, 3; 3 -> 4; 4, 5 -> 5; 6, 7 -> 6; ...
inline unsigned half_octave(std::uint64_t x) {
  if (x == 0) return 0;
  const unsigned octave = 63u - static_cast<unsigned>(__builtin_clzll(x));
  return 1 + 2 * octave + (octave ? static_cast<unsigned>(x >> (octave - 1)) & 1 : 0);
}

// The probability of a 1, learned from the bits so far: quickly at first, then ever slower.
class Bit {
 public:
  Share share(bool bit) const {
    return bit ? Share{0, one_, 16} : Share{one_, 65536u - one_, 16};
  }

  void learn(bool bit) {
    const std::uint32_t rate = 65536u / (seen_ + 2u);
    const std::uint32_t one = bit ? one_ + ((65536u - one_) * rate >> 16)
                                  : one_ - (one_ * rate >> 16);
    one_ = static_cast<std::uint16_t>(one < least ? least : one > most ? most : one);
    if (seen_ < 254) ++seen_;
  }

  bool read(Stack& stack) {
    const bool bit = stack.peek(16) < one_;
    stack.drop(share(bit));
    learn(bit);
    return bit;
  }

 private:
  static constexpr std::uint32_t least = 32, most = 65536 - 32;
  std::uint16_t one_ = 32768;
  std::uint16_t seen_ = 0;
};

// A number below 2^32: in unary if small, else its length in unary and its bits, the highest of
// them adaptive too.
struct Number {
  static constexpr unsigned small = 6;
  std::array<Bit, small> is_more;
  std::array<Bit, 32> is_longer;
  std::array<Bit, 32> high;
};

}  // namespace perslm
