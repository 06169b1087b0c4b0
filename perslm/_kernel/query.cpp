#include "query.hpp"

#include <algorithm>
#include <cstring>
#include <optional>

namespace perslm {
namespace {

using std::size_t;
using std::string_view;
using std::uint32_t;
using std::uint64_t;
using std::uint8_t;

struct Span {
  const uint8_t* data = nullptr;
  size_t size = 0;

  string_view text() const { return {reinterpret_cast<const char*>(data), size}; }
};

// What both formats have: sizes, and little-endian numbers.
struct Parts {
  Span user, vocabulary, rows, matrix;
  std::optional<Span> positions;
  std::vector<uint32_t> lengths;
  uint64_t n = 0, k = 0;
  std::int64_t timeout_ms = -1;
};

// The number that the bytes begin with, most or least significant byte first.
uint64_t big_endian(const uint8_t* bytes, size_t width) {
  uint64_t value = 0;
  for (size_t i = 0; i < width; ++i) value = value << 8 | bytes[i];
  return value;
}

// Appends n numbers, which are little-endian, as this machine is: else nothing is read.
void append(const uint8_t* bytes, uint64_t n, std::vector<uint32_t>& numbers) {
  if (n == 0) return;
  const size_t before = numbers.size();
  numbers.resize(before + n);
  std::memcpy(numbers.data() + before, bytes, n * sizeof(uint32_t));
}

bool fill(const Parts& parts, Query& query) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
  return false;
#endif
  constexpr uint64_t longest = max_order - 1;
  if (parts.lengths.empty() || parts.n != parts.lengths.size() || parts.k == 0) return false;
  // in 64 bits, for each factor has 32
  if (parts.n * parts.k > parts.matrix.size || parts.n * parts.k * 4 != parts.matrix.size) {
    return false;
  }
  uint64_t end = 0;
  query.begins.assign(1, 0);
  query.ids.clear();
  for (const uint32_t length : parts.lengths) {
    end += length;
    if (end > parts.rows.size / 4) return false;
    const uint64_t kept = std::min<uint64_t>(length, longest);
    append(parts.rows.data + (end - kept) * 4, kept, query.ids);
    query.begins.push_back(static_cast<std::int64_t>(query.ids.size()));
  }
  if (end * 4 != parts.rows.size) return false;
  query.candidates.clear();
  append(parts.matrix.data, parts.n * parts.k, query.candidates);
  query.positions.clear();
  if (parts.positions) {
    if (parts.positions->size != parts.n * 4) return false;
    append(parts.positions->data, parts.n, query.positions);
  }
  query.n = parts.n;
  query.k = parts.k;
  query.timeout_ms = parts.timeout_ms;
  query.user = parts.user.text();
  query.vocabulary = parts.vocabulary.text();
  return true;
}

// Reads from the front. What is not there, or not as expected, makes it fail, and it stays so: one
// look at `failed` after several steps is enough.
class Reader {
 public:
  explicit Reader(Span bytes) : at_(bytes.data), end_(bytes.data + bytes.size) {}

  bool failed() const { return failed_; }
  bool done() const { return failed_ || at_ == end_; }
  bool ended() const { return !failed_ && at_ == end_; }

  bool fail() {
    failed_ = true;
    return false;
  }

  uint8_t byte() { return fits(1) ? *at_++ : uint8_t{0}; }

  Span bytes(uint64_t size) {
    if (!fits(size)) return {};
    const Span found{at_, static_cast<size_t>(size)};
    at_ += size;
    return found;
  }

 private:
  bool fits(uint64_t size) {
    if (!failed_ && size <= static_cast<uint64_t>(end_ - at_)) return true;
    return fail();
  }

  const uint8_t* at_;
  const uint8_t* end_;
  bool failed_ = false;
};

class Msgpack : public Reader {
 public:
  using Reader::Reader;

  uint64_t map() {
    const uint8_t tag = byte();
    return tag >> 4 == 0x8 ? tag & 0x0f : fail();
  }

  uint64_t array() {
    const uint8_t tag = byte();
    if (tag >> 4 == 0x9) return tag & 0x0f;
    return tag == 0xdc ? number(2) : fail();
  }

  uint64_t integer() {
    const uint8_t tag = byte();
    if (tag < 0x80) return tag;
    return tag >= 0xcc && tag <= 0xce ? number(size_t{1} << (tag - 0xcc)) : fail();
  }

  Span text() {
    const uint8_t tag = byte();
    if (tag >> 5 == 0x5) return bytes(tag & 0x1f);
    return tag == 0xd9 || tag == 0xda ? bytes(number(size_t{1} << (tag - 0xd9))) : none();
  }

  Span binary() {
    const uint8_t tag = byte();
    return tag >= 0xc4 && tag <= 0xc6 ? bytes(number(size_t{1} << (tag - 0xc4))) : none();
  }

 private:
  Span none() {
    fail();
    return {};
  }

  uint64_t number(size_t width) {
    const Span found = bytes(width);
    return big_endian(found.data, found.size);
  }
};

// The data of {"dtype": "<u4", sizes: [...], "data": ...}; the sizes are appended.
Span packed(Msgpack& from, string_view sizes_name, size_t most, std::vector<uint32_t>& sizes) {
  Span data;
  if (from.map() != 3) from.fail();
  unsigned seen = 0;
  for (int i = 0; i < 3 && !from.failed(); ++i) {
    const string_view name = from.text().text();
    if (name == "dtype") {
      seen |= 1;
      if (from.text().text() != "<u4") from.fail();
    } else if (name == "data") {
      seen |= 2;
      data = from.binary();
    } else if (name == sizes_name) {
      seen |= 4;
      const uint64_t n = from.array();
      if (n > most) from.fail();
      for (uint64_t j = 0; j < n && !from.failed(); ++j) {
        sizes.push_back(static_cast<uint32_t>(from.integer()));
      }
    }
  }
  if (seen != 7) from.fail();
  return data;
}

// The data of an array, of which the sizes of its dimensions are known then.
Span array(Msgpack& from, size_t dimensions, std::vector<uint32_t>& shape) {
  shape.clear();
  const Span data = packed(from, "shape", dimensions, shape);
  if (shape.size() != dimensions) from.fail();
  shape.resize(dimensions);
  return data;
}

class Protobuf : public Reader {
 public:
  using Reader::Reader;
  enum Wire { varint = 0, delimited = 2 };

  // A number of 32 bits, in no more bytes than those need.
  uint32_t integer() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 35; shift += 7) {
      const uint8_t next = byte();
      value |= static_cast<uint64_t>(next & 0x7f) << shift;
      if (next < 0x80) {
        if (value > UINT32_MAX) fail();
        return static_cast<uint32_t>(value);
      }
    }
    fail();
    return 0;
  }

  Span field() { return bytes(integer()); }
};

constexpr uint32_t tag(uint32_t number, Protobuf::Wire wire) { return number << 3 | wire; }

// The first field of a message that has been seen before ends it: the last would count, or, of
// messages, all of them.
bool again(unsigned& seen, uint32_t tag) {
  const unsigned bit = 1U << (tag >> 3);
  const bool before = (seen & bit) != 0;
  seen |= bit;
  return before;
}

Span rows(Span message, size_t most, std::vector<uint32_t>& lengths) {
  Protobuf from(message);
  Span data;
  unsigned seen = 0;
  while (!from.done()) {
    const uint32_t found = from.integer();
    if (found == tag(1, Protobuf::delimited) && !again(seen, found)) {
      Protobuf numbers(from.field());
      while (!numbers.done() && lengths.size() <= most) lengths.push_back(numbers.integer());
      if (!numbers.ended()) from.fail();
    } else if (found == tag(2, Protobuf::delimited) && !again(seen, found)) {
      data = from.field();
    } else {
      from.fail();
    }
  }
  if (from.failed() || lengths.size() > most) lengths.clear();
  return data;
}

Span matrix(Span message, uint64_t& n, uint64_t& k) {
  Protobuf from(message);
  Span data;
  unsigned seen = 0;
  while (!from.done()) {
    const uint32_t found = from.integer();
    if (found == tag(1, Protobuf::varint) && !again(seen, found)) {
      n = from.integer();
    } else if (found == tag(2, Protobuf::varint) && !again(seen, found)) {
      k = from.integer();
    } else if (found == tag(3, Protobuf::delimited) && !again(seen, found)) {
      data = from.field();
    } else {
      from.fail();
    }
  }
  if (from.failed()) n = 0;
  return data;
}

}  // namespace

bool read_msgpack(const uint8_t* data, size_t size, size_t max_histories, Query& query) {
  Msgpack from(Span{data, size});
  Parts parts;
  std::vector<uint32_t> shape;
  unsigned seen = 0;
  const auto first = [&seen](unsigned bit) {
    const bool is_first = (seen & bit) == 0;
    seen |= bit;
    return is_first;
  };
  const uint64_t fields = from.map();
  for (uint64_t i = 0; i < fields && !from.failed(); ++i) {
    const string_view name = from.text().text();
    if (name == "user" && first(1)) {
      parts.user = from.text();
    } else if (name == "vocabulary" && first(2)) {
      parts.vocabulary = from.text();
    } else if (name == "histories" && first(4)) {
      parts.rows = packed(from, "lengths", max_histories, parts.lengths);
    } else if (name == "candidates" && first(8)) {
      parts.matrix = array(from, 2, shape);
      parts.n = shape[0];
      parts.k = shape[1];
    } else if (name == "positions" && first(16)) {
      const Span found = array(from, 1, shape);
      if (found.size != uint64_t{shape[0]} * 4) from.fail();
      parts.positions = found;
    } else {
      from.fail();
    }
  }
  return from.ended() && (seen & 15) == 15 && fill(parts, query);
}

bool read_protobuf(const uint8_t* data, size_t size, size_t max_histories, Query& query) {
  Protobuf from(Span{data, size});
  Parts parts;
  unsigned seen = 0;
  while (!from.done()) {
    const uint32_t found = from.integer();
    const uint32_t number = found >> 3;
    if (number > 9 || again(seen, found)) return false;
    if (found == tag(8, Protobuf::varint)) {
      parts.timeout_ms = from.integer();
      continue;
    }
    if ((found & 7) != Protobuf::delimited) return false;
    const Span field = from.field();
    switch (number) {
      case 1:
        parts.user = field;
        break;
      case 2:
        parts.vocabulary = field;
        break;
      case 3:
        parts.rows = rows(field, max_histories, parts.lengths);
        break;
      case 4:
        parts.matrix = matrix(field, parts.n, parts.k);
        break;
      case 9:
        parts.positions = field;
        break;
      default:
        return false;
    }
  }
  return from.ended() && (seen & 0xff) == 0x1e && fill(parts, query);
}

}  // namespace perslm
