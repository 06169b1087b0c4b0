// One walk over the counts both writes and reads: Walk<Writer> says what is there, Walk<Reader> is
// told. A stack must be written in the reverse order of reading; so the writer first notes each
// step with the share it takes, for the models learn as they go, and then pushes the notes from the
// last to the first.
#include "codec.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>

#include "coders.hpp"

namespace perslm {
namespace {

using namespace coding;

template <class Coder>
class Walk {
 public:
  using CountsRef = std::conditional_t<Coder::reads, Counts&, const Counts&>;
  using LevelRef = std::conditional_t<Coder::reads, Level&, const Level&>;

  // `sizes` is how many n-grams of each order a reader was told of.
  Walk(Coder& coder, CountsRef counts, std::vector<u32> sizes)
      : coder_(coder), counts_(counts), sizes_(std::move(sizes)) {}

  void run() {
    if (counts_.pruned) whole();
    words();
    urns_.reserve(counts_.levels.size());
    for (int order = 2; order <= counts_.order(); ++order) {
      urns_.emplace_back(counts_.levels[static_cast<std::size_t>(order) - 2]);
      above(static_cast<std::size_t>(order));
    }
  }

 private:
  [[noreturn]] static void fail(const char* why) { Coder::fail(why); }

  // A number that is there, or is to be there.
  template <class Slot>
  u32 number(Number& model, Slot& slot, u32 most) {
    const u32 value = coder_.number(model, slot, most);
    if constexpr (Coder::reads) slot = value;
    return value;
  }

  void whole() {
    if (counts_.cut[0][0] != 0) fail("words themselves were cut");
    Number model;
    for (auto& row : counts_.whole)
      for (auto& n : row) number(model, n, largest);
  }

  void words() {
    auto& level = counts_.levels[0];
    const Specials& specials = counts_.specials;
    const u32 n = static_cast<u32>(level.size());
    bool opens = false;
    if constexpr (!Coder::reads)
      opens = std::binary_search(counts_.words.begin(), counts_.words.end(), specials.bos);
    opens = coder_.flag(opens);
    if (opens && n == 0) fail("rule 9: <s> is announced, but nothing is there");
    WordModels models;
    u64 least = 0, events = 0;
    bool is_open = false;  // whether <s> has had its turn
    for (u32 i = 0; i < n; ++i) {
      // <s> stands where its id belongs, or last
      if constexpr (!Coder::reads) {
        if (counts_.words[i] == specials.bos) {
          bos_ = i;
          if (level.count[i] != 0) fail("<s> is counted as an event");
          continue;
        }
      }
      u32 gap = 0, word = 0;
      if constexpr (!Coder::reads) gap = counts_.words[i] - static_cast<u32>(least);
      if (Coder::reads && opens && !is_open && i + 1 == n) {
        is_open = true;
        insert_bos(i);
        continue;
      }
      gap = coder_.number(models.gap_model(), gap, largest);
      if (least + gap >= specials.size) fail("rule 8: a word is not in the vocabulary");
      word = static_cast<u32>(least) + gap;
      if (word == specials.bos) fail("rule 9: <s> is counted as an event");
      if constexpr (Coder::reads) {
        if (opens && !is_open && word > specials.bos) {
          is_open = true;
          insert_bos(i++);
        }
        counts_.words[i] = word;
        level.label[i] = i;
      }
      if (word == specials.eos) eos_ = i;
      u32 extra = 0;
      if constexpr (!Coder::reads) extra = level.count[i] - 1;
      extra = coder_.number(models.count_model(), extra, largest - 1);
      if constexpr (Coder::reads) level.count[i] = extra + 1;
      models.learn(gap, extra + 1);
      least = u64{word} + 1;
      events += u64{extra} + 1;
      if (events > largest) fail("rule 7: there are 2^31 events or more");
    }
    if (opens && !counts_.pruned && counts_.order() == 1) fail("rule 9: <s> begins nothing");
  }

  void insert_bos(u32 at) {
    if constexpr (Coder::reads) {
      counts_.words[at] = counts_.specials.bos;
      counts_.levels[0].label[at] = at;
      counts_.levels[0].count[at] = 0;
      bos_ = at;
    }
  }

  void above(std::size_t order) {
    const Level& contexts = counts_.levels[order - 2];
    auto& level = counts_.levels[order - 1];
    const u32 n = static_cast<u32>(contexts.size());
    Models models;
    u32 missing_sum = 0;
    const bool some_missing = coder_.flag(Coder::reads ? false : any_missing(order));
    end_ = 0;
    if constexpr (Coder::reads) {
      level.begin.resize(n + 1);
      grow(level, std::min<u64>(sizes_[order - 1], u64{4} * n + 1024));
    }
    for (u32 context = 0; context < n; ++context) {
      if constexpr (!Coder::reads) end_ = level.begin[context];
      const bool is_bos = order == 2 && context == bos_;
      if (contexts.label[context] != eos_) {
        u32 events = 0;
        if constexpr (!Coder::reads) events = sum(level, context);
        events = events_after(models, order, context, is_bos, some_missing, events);
        if (!is_bos) missing_sum |= contexts.count[context] - events;
        if (events > 0) row(models, order, context, events);
      } else if (!Coder::reads && (level.begin[context + 1] != level.begin[context] ||
                                   (counts_.pruned && counts_.cut[order - 1][context] != 0))) {
        fail("something follows </s>");
      }
      if constexpr (Coder::reads) level.begin[context + 1] = end_;
    }
    if (Coder::reads && end_ != sizes_[order - 1])
      fail("rule 12: there are fewer n-grams than announced");
    if constexpr (Coder::reads) {
      grow(level, end_);
      level.label.resize(end_);
      for (u32 i = 0; i < end_; ++i) level.label[i] = contexts.label[level.suffix[i]];
    }
    if (some_missing != (missing_sum != 0))
      fail("rule 10: events are missing, or not, otherwise than announced");
  }

  // Room comes as n-grams do: what a payload announces is no reason to take memory yet.
  static void grow(Level& level, u64 size) {
    level.suffix.resize(size);
    level.count.resize(size);
  }

  static u32 sum(const Level& level, u32 context) {
    u64 events = 0;
    for (u32 i = level.begin[context]; i < level.begin[context + 1]; ++i) events += level.count[i];
    if (events > largest) fail("there are 2^31 events or more");
    return static_cast<u32>(events);
  }

  bool any_missing(std::size_t order) const {
    const Level& contexts = counts_.levels[order - 2];
    for (u32 i = 0; i < contexts.size(); ++i)
      if (contexts.label[i] != eos_ && !(order == 2 && i == bos_) &&
          sum(counts_.levels[order - 1], i) != contexts.count[i])
        return true;
    return false;
  }

  // How many events follow a context; and if counts are pruned, how many were cut.
  u32 events_after(Models& models, std::size_t order, u32 context, bool is_bos, bool some_missing,
                   u32 events) {
    const u32 seen = counts_.levels[order - 2].count[context];
    u32 missing = 0;
    if (is_bos) {
      events = coder_.number(models.opening, events, largest);
      if (events == 0 && !counts_.pruned) fail("rule 9: <s> begins nothing");
    } else {
      if (!Coder::reads && events > seen) fail("more follows a context than was seen of it");
      const u32 size = half_octave(seen);
      missing = some_missing
                    ? coder_.number(models.missing[std::min(size, 63u)], seen - events, seen)
                    : 0;
      events = seen - missing;
    }
    if (!counts_.pruned) return events;
    auto& cut = counts_.cut[order - 1][context];
    if (is_bos) {
      number(models.cut, cut, largest - events);
    } else if (cut > missing) {  // a reader finds 0 there
      fail("more was cut after a context than was seen of it");
    } else if (missing > 0) {
      u32 ending = missing - cut;
      ending = coder_.number(models.ending[std::min(half_octave(missing), 63u)], ending, missing);
      if constexpr (Coder::reads) cut = missing - ending;
    }
    return events;
  }

  // The successors of one context: which columns of the urn, and how many tokens of each.
  void row(Models& models, std::size_t order, u32 context, u32 events) {
    auto& level = counts_.levels[order - 1];
    Urn urn = urns_.back().of(counts_.levels[order - 2].suffix[context]);
    if (events > urn.total) fail("rule 11: an urn holds fewer tokens than are drawn from it");
    u32 members = urn.nonzero;
    if (events < urn.total) {
      const u32 most = std::min(events, urn.nonzero);
      members = most;
      if (most > 1) {
        u32 fewer = 0;
        if constexpr (!Coder::reads) fewer = most - size_of(level, context);
        members -= coder_.number(models.distinct_of(events, urn.nonzero), fewer, most - 1);
      }
    }
    if constexpr (!Coder::reads) {
      if (members != size_of(level, context)) fail("more follows a context than its urn holds");
    }
    if constexpr (Coder::reads) {
      const u32 announced = sizes_[order - 1];
      if (announced - end_ < members) fail("rule 12: there are more n-grams than announced");
      if (level.count.size() - end_ < members)
        grow(level, std::min<u64>(announced, u64{2} * (end_ + members)));
    }
    if constexpr (Coder::reads) {  // shorter ways, with the same outcome, to what most rows are
      if (events == urn.total) {
        for (u32 column = 0; column < urn.size; ++column) {
          if (urn.tokens[column] == 0) continue;
          level.suffix[end_] = urn.first + column;
          level.count[end_++] = urn.tokens[column];
        }
        urn.total = urn.nonzero = 0;
        return;
      }
      if (members == 1) {
        const u32 column = only_member(urn);
        if (events > urn.tokens[column])
          fail("rule 11: an urn holds fewer tokens than are drawn from it");
        keep(order, urn, column, events);
        return;
      }
    }
    choose(models, order, context, urn, members, events == urn.total);
    u64 room = 0;  // tokens that the rest of the members could give beyond one each
    for (const Member& member : row_) room += member.tokens - 1;
    if (events - members > room) fail("rule 11: an urn holds fewer tokens than are drawn from it");
    u32 extra = events - members;
    u32 left = members;
    for (const Member& member : row_) {
      const u32 most = member.tokens - 1;
      u32 own = 0;
      if (extra == room) {
        own = most;
      } else if (extra > 0 && most > 0) {
        if constexpr (!Coder::reads) own = level.count[end_] - 1;
        own = left == 1
                  ? extra
                  : coder_.number(models.extra_of(extra, left, most), own, std::min(extra, most));
      }
      room -= most;
      extra -= own;
      --left;
      if (extra > room) fail("rule 7: a count is smaller than it can be");
      keep(order, urn, member.column, own + 1);
    }
  }

  // The next n-gram of the level: a column of the urn, and how many of its tokens.
  void keep(std::size_t order, Urn& urn, u32 column, u32 count) {
    auto& level = counts_.levels[order - 1];
    if constexpr (Coder::reads) {
      level.suffix[end_] = urn.first + column;
      level.count[end_] = count;
    } else if (level.count[end_] != count) {
      fail("the counts of a context do not add up");
    }
    ++end_;
    urn.take(column, count);
  }

  u32 only_member(const Urn& urn) {
    if (urn.size > Urn::few) return coder_.draw_one(urns_.back().table(urn));
    if (urn.nonzero > 1) return coder_.draw_one(urn);
    u32 column = 0;
    while (urn.tokens[column] == 0) ++column;
    return column;
  }

  static u32 size_of(const Level& level, u32 context) {
    return level.begin[context + 1] - level.begin[context];
  }

  // Fills row_ with the members of a row, in ascending order.
  void choose(Models& models, std::size_t order, u32 context, Urn& urn, u32 members, bool empties) {
    row_.clear();
    if constexpr (!Coder::reads) {
      const Level& level = counts_.levels[order - 1];
      for (u32 i = level.begin[context]; i < level.begin[context + 1]; ++i) {
        const u32 column = level.suffix[i] - urn.first;
        if (column >= urn.size || urn.tokens[column] < level.count[i] ||
            (!row_.empty() && column <= row_.back().column))
          fail("the suffix of an n-gram is missing or seen less often");
        row_.push_back({column, urn.tokens[column]});
      }
    }
    const bool is_small = urn.size <= Urn::few;
    if (empties || (is_small && members == urn.nonzero)) {
      if constexpr (Coder::reads)
        for (u32 column = 0; column < urn.size; ++column)
          if (urn.tokens[column] != 0) row_.push_back({column, urn.tokens[column]});
    } else if (is_small) {
      if constexpr (Coder::reads)
        coder_.draw(urn, members, row_);
      else
        coder_.draw(urn, row_);
    } else {
      const SlotTable& table = urns_.back().table(urn);
      if constexpr (Coder::reads) {
        coder_.bisect(models, urn, table, 0, table.bits, members, row_);
      } else {
        places_.clear();
        for (const Member& member : row_)
          places_.push_back(static_cast<u32>(
              std::lower_bound(table.columns.begin(), table.columns.end(), member.column) -
              table.columns.begin()));
        coder_.bisect(models, table, 0, table.bits, places_.data(), members);
      }
    }
  }

  Coder& coder_;
  CountsRef counts_;
  std::vector<u32> sizes_;
  std::vector<Urns> urns_;                   // by order, from 2
  u32 bos_ = 0xffffffff, eos_ = 0xffffffff;  // entries of level 1, or none
  u32 end_ = 0;                              // the next entry of the level
  std::vector<Member> row_;
  std::vector<u32> places_;
};

void write_varint(u64 value, std::vector<std::uint8_t>& out) {
  for (; value >= 128; value >>= 7) out.push_back(static_cast<std::uint8_t>(value | 128));
  out.push_back(static_cast<std::uint8_t>(value));
}

u32 read_varint(const std::uint8_t*& at, const std::uint8_t* end) {
  u64 value = 0;
  for (int shift = 0; shift < 35; shift += 7) {
    if (at == end) throw BadPayload("rule 12: the payload ends too early");
    const std::uint8_t byte = *at++;
    value |= u64{byte & 127u} << shift;
    if (byte < 128) {
      if (byte == 0 && shift > 0)
        throw BadPayload("rule 7: a number is longer than it needs to be");
      if (value > largest) break;
      return static_cast<u32>(value);
    }
  }
  throw BadPayload("rule 7: a number has more than 31 bits");
}

}  // namespace

std::vector<std::uint8_t> encode(const Counts& counts) {
  std::vector<std::uint8_t> payload;
  u64 ngrams = 0;
  for (const Level& level : counts.levels) {
    write_varint(level.size(), payload);
    ngrams += level.size();
  }
  if (ngrams > most_ngrams) throw std::invalid_argument("there are more than 2^24 n-grams");
  Writer writer;
  Walk<Writer> walk(writer, counts, {});
  walk.run();
  const auto stack = writer.end(ngrams);
  payload.insert(payload.end(), stack.begin(), stack.end());
  return payload;
}

Counts decode(const std::uint8_t* data, std::size_t size, int order, Specials specials,
              bool pruned) {
  const std::uint8_t* const end = data + size;
  Counts counts;
  counts.specials = specials;
  counts.pruned = pruned;
  std::vector<u32> sizes(static_cast<std::size_t>(order));
  u64 ngrams = 0;
  for (u32& n : sizes) ngrams += n = read_varint(data, end);
  const auto left = static_cast<u64>(end - data);
  if (ngrams > most_ngrams || ngrams > free_ngrams + ngrams_per_byte * left)
    throw BadPayload("rule 13: more n-grams are announced than a payload of this length may hold");
  Reader reader(data, static_cast<std::size_t>(left));
  if (sizes[0] > u64{specials.size} + 1)
    throw BadPayload("rule 8: more words are announced than the vocabulary has");
  counts.words.resize(sizes[0]);
  counts.levels.resize(sizes.size());
  counts.levels[0].begin = {0, sizes[0]};
  counts.levels[0].suffix.resize(sizes[0]);
  counts.levels[0].label.resize(sizes[0]);
  counts.levels[0].count.resize(sizes[0]);
  if (pruned) {
    counts.cut.emplace_back(1);
    for (int i = 1; i < order; ++i) counts.cut.emplace_back(sizes[static_cast<std::size_t>(i) - 1]);
    counts.whole.resize(sizes.size());
  }
  Walk<Reader> walk(reader, counts, sizes);
  walk.run();
  reader.end(ngrams);
  return counts;
}

}  // namespace perslm
