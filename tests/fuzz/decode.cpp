// Whatever the bytes, decode refuses them or gives counts that keep every rule, are no more than a
// payload of that size may hold, and are encoded as the very same bytes; and their model scores.
// The same bytes read as a text: what was counted comes back from its payload, and scores.
//
// A libFuzzer target; `make fuzz` builds and runs it. The first byte says what a blob's header says
// of a payload, or that the rest is a text; tests/fuzz/seeds.py writes some payloads that are
// sound.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "check.hpp"
#include "codec.hpp"
#include "count.hpp"
#include "model.hpp"
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

bool is_state(const Model& model, std::uint32_t state) {
  try {
    model.check(&state, 1);
  } catch (const ArgumentError&) {
    return false;  // nothing follows </s>
  }
  return true;
}

// Every word and </s> after some states, among them the first and the last, in each way.
void check_scores(const Counts& counts) {
  const std::unique_ptr<Model> model = Model::compile(counts);
  std::size_t contexts = 1;
  for (std::size_t k = 0; k + 1 < counts.levels.size(); ++k) contexts += counts.levels[k].size();
  require(is_state(*model, 0) && is_state(*model, model->start()), "there is always a state");
  std::vector<std::uint32_t> some{model->start()};
  for (std::size_t at = 0; at < contexts; at += 1 + contexts / 8) {
    for (const std::size_t context : {at, contexts - 1 - at}) {
      const auto state = static_cast<std::uint32_t>(context);
      if (is_state(*model, state)) some.push_back(state);
    }
  }
  const std::vector<std::uint32_t>& events = model->events();
  std::vector<float> logprobs(some.size() * events.size());
  model->event_logprobs(some.data(), some.size(), logprobs.data());
  for (std::size_t i = 0; i < logprobs.size(); ++i) {
    const float logprob = logprobs[i];
    require(std::isfinite(logprob) || logprob == -INFINITY, "scores are finite, or ln 0");
    require(logprob < 1e-3f, "no probability is above 1");
    const Step step = model->step(some[i / events.size()], events[i % events.size()]);
    require(step.logprob == logprob, "all ways to score agree");
    require(is_state(*model, step.next), "a step leads to a state");
  }
  for (const std::uint32_t state : some) {
    const Step step = model->step(state, 0xFFFFFFFF);
    require(step.logprob == -INFINITY && step.next == 0, "unknown words lead to the root");
  }
}

void check_counts(const Counts& counts) {
  check(counts);  // what it throws is a finding
  check_scores(counts);
}

// A byte of 240 or more ends a sequence; another is a word.
Counts count_bytes(const std::uint8_t* data, std::size_t size, int order, Specials specials) {
  std::vector<std::uint32_t> tokens;
  std::vector<std::int64_t> begins;
  bool inside = false;
  for (std::size_t i = 0; i < size; ++i) {
    if (!inside) {
      begins.push_back(static_cast<std::int64_t>(tokens.size()));
      if (data[i] % 4 != 0) tokens.push_back(specials.bos);
    }
    inside = data[i] < 240;
    if (inside) {
      tokens.push_back(3 + data[i] % 47u);
    } else if (data[i] % 2 != 0) {
      tokens.push_back(specials.eos);
    }
  }
  return count({tokens.data(), tokens.size(), begins.data(), begins.size()}, order, specials);
}

bool same(const Counts& a, const Counts& b) {
  const auto same_level = [](const Level& x, const Level& y) {
    return x.begin == y.begin && x.suffix == y.suffix && x.label == y.label && x.count == y.count;
  };
  return a.words == b.words &&
         std::equal(a.levels.begin(), a.levels.end(), b.levels.begin(), b.levels.end(), same_level);
}

void check_text(const std::uint8_t* data, std::size_t size, int order, Specials specials) {
  const Counts counts = count_bytes(data, size, order, specials);
  check_counts(counts);
  const std::vector<std::uint8_t> payload = encode(counts);
  require(same(decode(payload.data(), payload.size(), order, specials, false), counts),
          "what was counted comes back");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return -1;
  const int order = 1 + data[0] % 5;
  const bool pruned = data[0] / 5 % 2;
  const Specials specials = vocabularies[data[0] / 10 % 3];
  if (data[0] >= 128) {
    check_text(data + 1, size - 1, order, specials);
    return 0;
  }
  Counts counts;
  try {
    counts = decode(data + 1, size - 1, order, specials, pruned);
  } catch (const BadPayload&) {
    return 0;
  }
  require(counts.order() == order && counts.pruned == pruned, "the counts are those asked for");
  require(ngrams(counts) <= 1024 + 256 * size, "no more n-grams than the bytes allow");
  check_counts(counts);
  const std::vector<std::uint8_t> again = encode(counts);
  require(again.size() == size - 1 && std::memcmp(again.data(), data + 1, size - 1) == 0,
          "the same counts give the same bytes");
  return 0;
}
