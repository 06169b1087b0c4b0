// The entropy coder under the payload: range asymmetric numeral systems (Duda 2013,
// arXiv:1311.2540) as a stack of 32-bit words below a 64-bit state.
//
// Reading a symbol takes it off the stack, writing one puts it there; each is the exact inverse of
// the other. So a reader may also *write*: codec.cpp does that to get back the bits that the order
// of a set would cost. FORMAT.md, section "The stack", specifies all of this file.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace perslm {

// A payload that is none. what() names the rule of FORMAT.md that was broken.
struct BadPayload : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A share [start, start + size) of 2^bits slots.
struct Share {
  std::uint64_t start, size;
  int bits;
};

// How many slots a choice among `total` is spread over: enough for each to have one.
constexpr int precision(std::uint64_t total) { return total <= (1u << 22) ? 24 : 32; }

// The slots of the part [begin, end) of a total.
constexpr Share share_of(std::uint64_t begin, std::uint64_t end, std::uint64_t total) {
  const int bits = precision(total);
  const std::uint64_t first = ((begin << bits) + total - 1) / total;
  const std::uint64_t last = ((end << bits) + total - 1) / total;
  return {first, last - first, bits};
}

// The shares of ranks among up to 32, made once.
struct RankShares {
  static constexpr std::size_t most = 32;
  struct Slots {
    std::uint32_t start, size;
    std::uint64_t inverse;  // 2^64 / size
  };
  std::array<std::array<Slots, most>, most + 1> of{};

  constexpr RankShares() {
    for (std::size_t total = 1; total <= most; ++total) {
      for (std::size_t rank = 0; rank < total; ++rank) {
        const Share share = share_of(rank, rank + 1, total);
        of[total][rank] = {static_cast<std::uint32_t>(share.start),
                           static_cast<std::uint32_t>(share.size), ~std::uint64_t{0} / share.size};
      }
    }
  }
};
inline constexpr RankShares rank_shares;

class Stack {
 public:
  static constexpr std::uint64_t bottom = std::uint64_t{1} << 32;

  // An empty stack, for writing. Below its end lie zeros without number.
  Stack() = default;

  // What a payload holds: the state, then the words from the top.
  Stack(const std::uint8_t* data, std::size_t size) {
    if (size < 8 || size % 4 != 0) throw BadPayload("rule 12: the stack is no sequence of words");
    state_ = load(data) | std::uint64_t{load(data + 4)} << 32;
    if (state_ < bottom) throw BadPayload("rule 12: the state of the stack is out of range");
    words_.resize(size / 4 - 2);
    for (std::size_t i = 0; i < words_.size(); ++i)
      words_[words_.size() - 1 - i] = load(data + 8 + 4 * i);
    lowest_ = words_.size();
    borrows_ = false;
  }

  std::vector<std::uint8_t> bytes() const {
    std::vector<std::uint8_t> out;
    out.reserve(8 + 4 * words_.size());
    store(static_cast<std::uint32_t>(state_), out);
    store(static_cast<std::uint32_t>(state_ >> 32), out);
    for (auto word = words_.rbegin(); word != words_.rend(); ++word) store(*word, out);
    return out;
  }

  // Reading and writing. The state is the cursor's while it lives, and so may stay in a register.
  class Cursor {
   public:
    explicit Cursor(Stack& stack) : stack_(stack), state_(stack.state_) {}
    ~Cursor() { stack_.state_ = state_; }
    Cursor(const Cursor&) = delete;
    Cursor& operator=(const Cursor&) = delete;

    // The slot, of 2^bits, on top; drop() the share that it belongs to.
    std::uint64_t peek(int bits) const { return state_ & ((std::uint64_t{1} << bits) - 1); }

    void drop(const Share& s) {
      state_ = s.size * (state_ >> s.bits) + peek(s.bits) - s.start;
      if (state_ < bottom) state_ = state_ << 32 | stack_.pop();
    }

    void push(const Share& s) {
      if (s.size >> s.bits != 0) return;  // no choice, nothing to tell
      if (state_ >= s.size << (64 - s.bits)) spill();
      state_ = (state_ / s.size << s.bits) + s.start + state_ % s.size;
    }

    // A number below `total`, each as likely.
    std::uint64_t take_uniform(std::uint64_t total) {
      const int bits = precision(total);
      const std::uint64_t value = peek(bits) * total >> bits;
      drop(share_of(value, value + 1, total));
      return value;
    }

    // Puts back what take_uniform would take, for a total of 2 to RankShares::most.
    void push_rank(std::uint32_t rank, std::uint32_t total) {
      const RankShares::Slots& slots = rank_shares.of[total][rank];
      const int bits = precision(RankShares::most);
      if (state_ >= std::uint64_t{slots.size} << (64 - bits)) spill();
      // a division by multiplication: too small by 1 at most
      auto whole = static_cast<std::uint64_t>(Wide{state_} * slots.inverse >> 64);
      std::uint64_t rest = state_ - whole * slots.size;
      if (rest >= slots.size) {
        ++whole;
        rest -= slots.size;
      }
      state_ = (whole << bits) + slots.start + rest;
    }

   private:
    __extension__ typedef unsigned __int128 Wide;

    void spill() {
      stack_.words_.push_back(static_cast<std::uint32_t>(state_));
      state_ >>= 32;
    }

    Stack& stack_;
    std::uint64_t state_;
  };

  std::size_t words() const { return words_.size(); }

  // All that was ever there has been read, but for zeros that were written back.
  bool ended(bool padded) const {
    return state_ == bottom && (lowest_ == 0 || padded) &&
           std::all_of(words_.begin(), words_.end(), [](std::uint32_t word) { return word == 0; });
  }

 private:
  static std::uint32_t load(const std::uint8_t* at) {
    return static_cast<std::uint32_t>(at[0]) | static_cast<std::uint32_t>(at[1]) << 8 |
           static_cast<std::uint32_t>(at[2]) << 16 | static_cast<std::uint32_t>(at[3]) << 24;
  }

  static void store(std::uint32_t word, std::vector<std::uint8_t>& out) {
    for (int shift = 0; shift < 32; shift += 8)
      out.push_back(static_cast<std::uint8_t>(word >> shift));
  }

  std::uint32_t pop() {
    if (words_.empty()) {
      if (!borrows_) throw BadPayload("rule 12: the payload ends too early");
      return 0;
    }
    const std::uint32_t word = words_.back();
    words_.pop_back();
    if (words_.size() < lowest_) lowest_ = words_.size();
    return word;
  }

  std::uint64_t state_ = bottom;
  std::vector<std::uint32_t> words_;
  std::size_t lowest_ = 0;  // the fewest words there ever were
  bool borrows_ = true;     // a writer does, from the zeros below
};

}  // namespace perslm
