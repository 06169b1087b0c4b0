// The two coders of codec.cpp's walk, and the models that both learn: a Reader takes numbers and
// rows off the stack, a Writer notes them and pushes them in reverse. FORMAT.md, sections "Numbers"
// and "Rows", specifies what they do.
#pragma once

#include <algorithm>
#include <array>
#include <stdexcept>
#include <vector>

#include "numbers.hpp"
#include "urn.hpp"

namespace perslm::coding {

using u32 = std::uint32_t;
using u64 = std::uint64_t;

constexpr u32 largest = 0x7fffffff;  // of counts and their sums

// At most this many n-grams, of all orders, for each byte of a stack, that many for nothing, and
// that many at all.
constexpr u64 ngrams_per_byte = 256, free_ngrams = 1024, most_ngrams = 1 << 24;

// The fewest words that a stack has, its state not counted.
inline u64 least_words(u64 ngrams) {
  if (ngrams <= free_ngrams) return 0;
  const u64 bytes = (ngrams - free_ngrams + ngrams_per_byte - 1) / ngrams_per_byte;
  return bytes <= 8 ? 0 : (bytes - 8 + 3) / 4;
}

// The models of words and how often they occur.
struct WordModels {
  std::array<Number, 64> gap;
  std::array<Number, 32> count;
  u64 gaps = 128, counts = 64;  // 16 times the moving averages

  Number& gap_model() { return gap[std::min(half_octave(gaps), 63u)]; }
  Number& count_model() { return count[half_octave(counts)]; }
  void learn(u32 last_gap, u32 last_count) {
    gaps += last_gap - (gaps >> 4);
    counts += std::min(last_count, 64u) - (counts >> 4);
  }
};

// The models of the numbers of one order above 1.
struct Models {
  Number opening;                  // events after <s>
  std::array<Number, 64> missing;  // events less than the context's count
  std::array<Number, 64> ending;   // those that were not cut
  Number cut;                      // events cut after <s>
  std::vector<Number> distinct = std::vector<Number>(48 * 8);
  std::array<Number, 64> left;  // members in the left half of the slots
  std::vector<Number> extra = std::vector<Number>(16 * 16);

  Number& distinct_of(u32 events, u32 columns) {
    const u32 row = events < 16 ? events : std::min(half_octave(events) + 7, 47u);
    return distinct[row * 8 + std::min(half_octave(columns) - 3, 7u)];
  }
  Number& extra_of(u32 extra_events, u32 members, u32 most) {
    const u32 mean = std::min(half_octave(u64{extra_events} * 4 / members), 15u);
    return extra[mean * 16 + std::min(half_octave(most), 15u)];
  }
};

// A column of an urn that belongs to a row, and the tokens it held before.
struct Member {
  u32 column, tokens;
};

// No more members than this are drawn at once from a table of slots.
constexpr u32 longest_list = 16;
static_assert(longest_list <= RankShares::most && Urn::few <= RankShares::most);

inline u32 zigzag(u32 value, u32 middle) {
  return value >= middle ? 2 * (value - middle) : 2 * (middle - value) - 1;
}

class Reader {
 public:
  static constexpr bool reads = true;

  Reader(const std::uint8_t* data, std::size_t size) : stack_(data, size), words_(stack_.words()) {}

  bool flag(bool) { return Stack::Cursor(stack_).take_uniform(2) == 1; }

  u32 number(Number& model, u32, u32 most) {
    Stack::Cursor cursor(stack_);
    u64 value = 0;
    while (value < Number::small && model.is_more[value].read(cursor)) ++value;
    if (value == Number::small) value += rest(model.large_in(larges_), cursor);
    if (value > most) fail("rule 7: a number is larger than it can be");
    return static_cast<u32>(value);
  }

  // The one member of a row, of a few columns or of a table.
  u32 draw_one(const Urn& urn) {
    Stack::Cursor cursor(stack_);
    const u64 target = cursor.peek(precision(urn.total)) * urn.total >> precision(urn.total);
    u64 before = 0;
    u32 column = 0;
    while (before + urn.tokens[column] <= target) before += urn.tokens[column++];
    cursor.drop(share_of(before, before + urn.tokens[column], urn.total));
    return column;
  }

  u32 draw_one(const SlotTable& table) {
    Stack::Cursor cursor(stack_);
    const u32 place = table.find(cursor.peek(table.bits));
    const u32 start = table.starts[place];
    cursor.drop({start, table.starts[place + 1] - start, table.bits});
    return table.columns[place];
  }

  // The members of a row of a few columns: each as likely as its tokens are many, and none twice.
  // The order in which they came tells nothing, so its bits go back to the stack.
  void draw(const Urn& urn, u32 members, std::vector<Member>& row) {
    Stack::Cursor cursor(stack_);
    u32 total = urn.total;
    for (u32 drawn = 0; drawn < members; ++drawn) {
      const int bits = precision(total);
      u64 rest = cursor.peek(bits) * total >> bits;
      u32 column = 0, rank = 0;
      u64 before = 0;
      for (;; ++column) {
        if (rank < drawn && row[rank].column == column) {
          ++rank;
          continue;
        }
        if (rest < urn.tokens[column]) break;
        rest -= urn.tokens[column];
        before += urn.tokens[column];
      }
      const u32 tokens = urn.tokens[column];
      cursor.drop(share_of(before, before + tokens, total));
      insert(row, 0, rank, {column, tokens});
      total -= tokens;
      if (drawn > 0) cursor.push_rank(rank, drawn + 1);
    }
  }

  // The members of a row among the slots [low, low + 2^bits), whose columns begin there.
  void bisect(Models& models, const Urn& urn, const SlotTable& table, u64 low, int bits,
              u32 members, std::vector<Member>& row) {
    while (members > longest_list) {
      if (bits == 0) fail("rule 11: more columns are drawn than there are");
      --bits;
      const u32 half = members / 2;
      const u32 code = number(models.left[half_octave(members)], 0, 2 * members);
      const u32 left = code % 2 == 0 ? half + code / 2 : half - (code + 1) / 2;
      if (left > members) fail("rule 11: more columns are drawn than there are");
      bisect(models, urn, table, low, bits, left, row);
      low += u64{1} << bits;
      members -= left;
    }
    const u64 high = low + (u64{1} << bits);
    std::array<u32, longest_list> places;
    Stack::Cursor cursor(stack_);
    for (u32 drawn = 0; drawn < members; ++drawn) {
      const u32 place = table.find(low + cursor.peek(bits));
      const u64 start = table.starts[place];
      if (start < low) fail("rule 11: a column is drawn that begins elsewhere");
      cursor.drop({start - low, std::min<u64>(table.starts[place + 1], high) - start, bits});
      places[drawn] = place;
      if (drawn > 0) cursor.push_rank(rank_of(place, places, drawn), drawn + 1);
    }
    // each goes where its rank says: two of the same would leave a gap
    const std::size_t first = row.size();
    row.resize(first + members, {0, 0});
    for (u32 i = 0; i < members; ++i) {
      const u32 column = table.columns[places[i]];
      row[first + rank_of(places[i], places, members)] = {column, urn.tokens[column]};
    }
    for (u32 i = 0; i < members; ++i)
      if (row[first + i].tokens == 0) fail("rule 11: a column is drawn twice, or is empty");
  }

  void end(u64 ngrams) const {
    if (!stack_.ended(words_ == least_words(ngrams)))
      fail("rule 12: the payload goes on after its end, or was cut or changed");
  }

  [[noreturn]] static void fail(const char* why) { throw BadPayload(why); }

 private:
  // How many of the first `n` places are below `place`. Without branches.
  static u32 rank_of(u32 place, const std::array<u32, longest_list>& places, u32 n) {
    u32 rank = 0;
    for (u32 i = 0; i < n; ++i) rank += places[i] < place;
    return rank;
  }

  static void insert(std::vector<Member>& row, std::size_t first, u32 rank, Member member) {
    row.push_back(member);
    for (std::size_t i = row.size() - 1; i > first + rank; --i) std::swap(row[i], row[i - 1]);
  }

  static u64 rest(Large& model, Stack::Cursor& cursor) {
    u32 length = 0;
    while (length < 31 && model.is_longer[length].read(cursor)) ++length;
    u64 value = 1;
    if (length > 0) value = 2 + model.high[length].read(cursor);
    if (length > 1) {
      const u64 low = cursor.peek(static_cast<int>(length) - 1);
      cursor.drop({low, 1, static_cast<int>(length) - 1});
      value = value << (length - 1) | low;
    }
    return value - 1;
  }

  Stack stack_;
  std::size_t words_;
  std::vector<Large> larges_;
};

class Writer {
 public:
  static constexpr bool reads = false;

  bool flag(bool value) {
    note(share_of(value, value + 1u, 2));
    return value;
  }

  u32 number(Number& model, u32 value, u32 most) {
    if (value > most) fail("a count is larger than it can be");
    for (u32 i = 0; i < Number::small; ++i) {
      bit(model.is_more[i], value > i);
      if (value == i) return value;
    }
    const u64 rest = u64{value} - Number::small + 1;
    const u32 length = 63u - static_cast<u32>(__builtin_clzll(rest));
    Large& large = model.large_in(larges_);
    for (u32 i = 0; i < length; ++i) bit(large.is_longer[i], true);
    if (length < 31) bit(large.is_longer[length], false);
    if (length > 0) bit(large.high[length], rest >> (length - 1) & 1);
    if (length > 1) {
      const u64 low = rest & ((u64{1} << (length - 1)) - 1);
      note({low, 1, static_cast<int>(length) - 1});
    }
    return value;
  }

  // What Reader::draw reads.
  void draw(const Urn& urn, const std::vector<Member>& row) {
    u64 before = 0;
    u32 column = 0;
    open_set(urn.total);
    for (const Member& member : row) {
      for (; column < member.column; ++column) before += urn.tokens[column];
      members_.push_back({before, member.tokens, 0});
    }
    sets_.back().end = members_.size();
  }

  // What Reader::bisect reads; `places` are those of the members in the table.
  void bisect(Models& models, const SlotTable& table, u64 low, int bits, const u32* places,
              u32 members) {
    while (members > longest_list) {
      --bits;
      const u64 middle = low + (u64{1} << bits);
      const u32* split =
          std::lower_bound(places, places + members, middle,
                           [&](u32 place, u64 slot) { return table.starts[place] < slot; });
      const auto left = static_cast<u32>(split - places);
      number(models.left[half_octave(members)], zigzag(left, members / 2), 2 * members);
      bisect(models, table, low, bits, places, left);
      low = middle;
      places = split;
      members -= left;
    }
    if (members == 0) return;
    open_set(0);
    const u64 high = low + (u64{1} << bits);
    for (u32 i = 0; i < members; ++i) {
      const u64 start = table.starts[places[i]];
      members_.push_back(
          {start - low, std::min<u64>(table.starts[places[i] + 1], high) - start, bits});
    }
    sets_.back().end = members_.size();
  }

  std::vector<std::uint8_t> end(u64 ngrams) {
    for (auto note = notes_.rbegin(); note != notes_.rend(); ++note) {
      if (note->size != 0)
        Stack::Cursor(stack_).push(*note);
      else
        push(sets_[note->start]);
    }
    auto bytes = stack_.bytes();
    bytes.resize(std::max<std::size_t>(bytes.size(), 8 + 4 * least_words(ngrams)));
    return bytes;
  }

  [[noreturn]] static void fail(const char* why) { throw std::invalid_argument(why); }

 private:
  // Members of a row in ascending order: shares of slots if total is 0; else `size` tokens of
  // total.
  struct Set {
    std::size_t begin, end;
    u32 total;
  };

  void note(const Share& share) { notes_.push_back(share); }

  void open_set(u32 total) {
    notes_.push_back({sets_.size(), 0, 0});
    sets_.push_back({members_.size(), 0, total});
  }

  void bit(Bit& model, bool value) {
    note(model.share(value));
    model.learn(value);
  }

  // Undraws: the reader drew them in the order that is now read off the stack, backwards.
  void push(const Set& set) {
    std::vector<Share> left(members_.begin() + static_cast<std::ptrdiff_t>(set.begin),
                            members_.begin() + static_cast<std::ptrdiff_t>(set.end));
    Stack::Cursor cursor(stack_);
    while (!left.empty()) {
      const std::size_t rank = left.size() > 1 ? cursor.take_uniform(left.size()) : 0;
      Share share = left[rank];
      left.erase(left.begin() + static_cast<std::ptrdiff_t>(rank));
      if (set.total != 0) {  // whatever is still left was out of the urn before
        u64 total = set.total, before = share.start;
        for (std::size_t i = 0; i < left.size(); ++i) {
          total -= left[i].size;
          if (i < rank) before -= left[i].size;
        }
        share = share_of(before, before + share.size, total);
      }
      cursor.push(share);
    }
  }

  Stack stack_;
  std::vector<Share> notes_;    // of size 0: the set with the number `start`
  std::vector<Share> members_;  // of all sets
  std::vector<Set> sets_;
  std::vector<Large> larges_;
};

}  // namespace perslm::coding
