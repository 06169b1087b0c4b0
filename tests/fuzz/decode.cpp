// Whatever the bytes, decode refuses them or gives counts that keep every rule, are no more than a
// payload of that size may hold, and are encoded as the very same bytes; and their model scores.
//
// A libFuzzer target; `make fuzz` builds and runs it. The first byte says what a blob's header says
// of the payload, the rest is the payload; tests/fuzz/seeds.py writes some that are sound.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "check.hpp"
#include "codec.hpp"
#include "rans.hpp"

namespace {

using namespace perslm;

constexpr Specials vocabularies[] = {{50, 0, 1}, {50, 50, 1}, {4000000000, 1, 2}};

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

std::size_t ngrams(const Counts& counts) {
  std::size_t sum = 0;
  for (const Level& level : counts.levels) sum += level.size();
  return sum;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return -1;
  const int order = 1 + data[0] % 5;
  const bool pruned = data[0] / 5 % 2;
  const Specials specials = vocabularies[data[0] / 10 % 3];
  Counts counts;
  try {
    counts = decode(data + 1, size - 1, order, specials, pruned);
  } catch (const BadPayload&) {
    return 0;
  }
  require(counts.order() == order && counts.pruned == pruned, "the counts are those asked for");
  require(ngrams(counts) <= 1024 + 256 * size, "no more n-grams than the bytes allow");
  check(counts);  // what it throws is a finding
  const std::vector<std::uint8_t> again = encode(counts);
  require(again.size() == size - 1 && std::memcmp(again.data(), data + 1, size - 1) == 0,
          "the same counts give the same bytes");
  return 0;
}
