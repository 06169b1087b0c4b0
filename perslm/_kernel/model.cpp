#include "model.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "katz.hpp"
#include "mixture.hpp"
#include "packed.hpp"

namespace perslm {
namespace {

using std::size_t;
using std::uint32_t;
using std::uint64_t;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr size_t chunk = WordIndex<uint32_t>::batch;  // candidates that are looked up together

// What a state knows: the arcs of its contexts of j words, and what it costs to fall back to them,
// the sum of ln alpha over the longer contexts.
struct Chain {
  size_t length = 0;  // words in the longest context
  std::array<Range, max_order> arcs{};
  std::array<float, max_order> backoff{};
};

struct Likely {
  float logprob;
  uint32_t event;
};

bool better(const Likely& a, const Likely& b) {
  return a.logprob > b.logprob || (a.logprob == b.logprob && a.event < b.event);
}

// `Index` numbers the words and the distinct log-probabilities of the model: 16 bits are enough for
// nearly everybody.
template <class Index>
class Compiled final : public Model {
 public:
  Compiled(const Counts& counts, const Katz& katz) {
    specials_ = counts.specials;
    order_ = counts.order();
    fell_back_ = katz.fell_back;
    logprob_ = katz.logprob;
    compile_words(counts, katz);
    compile_arcs(counts, katz);
    compile_contexts(counts, katz);
    start_ = order_ > 1 && bos_entry_ != none ? bos_entry_ + 1 : 0;
  }

  size_t bytes() const override {
    return sizeof(*this) + size_of(ngrams_) + size_of(fell_back_) + size_of(events_) +
           size_of(logprob_) + words_.bytes() + size_of(root_) + size_of(by_probability_) +
           arcs_.bytes() + size_of(value_) + first_arc_.bytes() + size_of(log_backoff_) +
           size_of(shorter_);
  }

  void check(const uint32_t* states, size_t n) const override {
    for (size_t i = 0; i < n; ++i) check(states[i]);
  }

  int context_length(uint32_t state) const override {
    check(state);
    return static_cast<int>(length(state));
  }

  void states(TokenIds ids, const std::int64_t* begins, size_t n, uint32_t* out) const override;

  Step step(uint32_t state, uint32_t id) const override {
    check(state);
    return step(chain_of(state), id);
  }

  void score(const uint32_t* states, size_t n, TokenIds candidates, float* logprobs,
             uint32_t* next) const override;

  void event_logprobs(const uint32_t* states, size_t n, float* out) const override {
    check(states, n);
    for (size_t i = 0; i < n; ++i) event_row(chain_of(states[i]), out + i * events_.size());
  }

  void distribution(const uint32_t* states, size_t n, float* out) const override;

  void continuations(const uint32_t* states, size_t n, size_t k, uint32_t* ids,
                     float* logprobs) const override;

  void mix(const uint32_t* states, size_t n, const float* weights, const float* global,
           size_t width, float* out) const override {
    check(states, n);
    const std::unique_ptr<float[]> personal(new float[events_.size()]);
    const Columns columns{events_.data(), events_.size(), true};
    for (size_t i = 0; i < n; ++i) {
      if (weights[i] > 0) event_row(chain_of(states[i]), personal.get());
      mix_row(global + i * width, width, weights[i], columns, personal.get(), out + i * width);
    }
  }

 private:
  void compile_words(const Counts& counts, const Katz& katz);
  void compile_arcs(const Counts& counts, const Katz& katz);
  void compile_contexts(const Counts& counts, const Katz& katz);

  void check(uint32_t state) const {
    if (state == 0) return;
    const uint32_t entry = state - 1;
    const bool closed = entry < level_begin(1) ? entry == eos_entry_
                        : entry < contexts()   ? arcs_[entry - level_begin(1)] == eos_event_
                                               : true;
    if (closed) throw ArgumentError("a state is not one of this model: states do not carry over");
  }

  // The first entry of the n-grams of k + 1 words.
  uint32_t level_begin(size_t k) const { return level_begin_[k]; }
  uint32_t contexts() const { return level_begin_[static_cast<size_t>(order_) - 1]; }
  uint32_t entry_of(uint32_t event) const { return event + (event >= bos_entry_); }

  size_t length(uint32_t state) const {
    size_t k = 0;
    while (state > level_begin_[k]) ++k;
    return k;
  }

  Chain chain_of(uint32_t state) const {
    Chain chain;
    chain.length = length(state);
    uint32_t entry = state - 1;
    double sum = 0;
    for (size_t j = chain.length; j > 0; --j) {
      chain.arcs[j] = {first_arc_[entry], first_arc_[entry + 1]};
      arcs_.prefetch(chain.arcs[j].begin);
      prefetch(value_.data() + chain.arcs[j].begin);
      sum += static_cast<double>(log_backoff_[entry]);
      chain.backoff[j - 1] = static_cast<float>(sum);
      if (j > 2) {
        entry = shorter_[entry - level_begin(2)];
      } else if (j == 2) {
        entry = entry_of(arcs_[entry - level_begin(1)]);
      }
    }
    return chain;
  }

  bool restarts(uint32_t id) const { return id == specials_.bos || id == specials_.eos; }

  Step step(const Chain& chain, uint32_t id) const {
    const uint32_t event = words_.find(id, events_);
    Step result{-infinity, 0};
    if (event != none) {
      result.logprob = chain.backoff[0] + root_[event];
      if (order_ > 1) result.next = entry_of(event) + 1;
      for (size_t j = 1; j <= chain.length; ++j) {
        const auto arc = arcs_.finder(chain.arcs[j])(static_cast<Index>(event));
        if (!arc.found) break;
        result.logprob = chain.backoff[j] + logprob_[value_[arc.at]];
        if (j + 1 < static_cast<size_t>(order_)) result.next = level_begin(1) + arc.at + 1;
      }
    }
    if (restarts(id)) result.next = start_;
    return result;
  }

  void score_row(const Chain& chain, const uint32_t* ids, size_t n, float* logprobs,
                 uint32_t* next) const;
  void event_row(const Chain& chain, float* out) const;
  void best(const Chain& chain, size_t k, std::vector<Likely>& found) const;

  std::vector<float> logprob_;         // the distinct ones
  WordIndex<Index> words_;             // token id -> event
  std::vector<float> root_;            // [event]: ln p of the word alone; and -inf for no event
  std::vector<Index> by_probability_;  // events, likeliest first
  uint32_t bos_entry_ = none, eos_entry_ = none, eos_event_ = none;
  std::array<uint32_t, max_order> level_begin_{};  // the first entry of each level
  Labels<Index> arcs_;
  std::vector<Index> value_;        // [arc]: index into logprob_
  Offsets first_arc_;               // [context]
  std::vector<float> log_backoff_;  // [context]
  std::vector<uint32_t> shorter_;   // [context of three or more words]: without its oldest word
};

template <class Index>
void Compiled<Index>::compile_words(const Counts& counts, const Katz& katz) {
  const Level& level = counts.levels.front();
  tokens_ = counts.pruned ? counts.cut[0][0] : 0;
  events_.reserve(level.size());
  root_.reserve(level.size() + 1);
  constexpr uint32_t frequent = 4096;  // counts from here on are sorted by comparison
  std::vector<uint32_t> place(frequent + 2);
  for (uint32_t i = 0; i < level.size(); ++i) {
    const uint32_t id = counts.words[i];
    if (id == counts.specials.bos) {
      bos_entry_ = i;
      continue;
    }
    if (id >= counts.specials.size) throw ArgumentError("a word is outside of the vocabulary");
    if (id == counts.specials.eos) {
      eos_entry_ = i;
      eos_event_ = static_cast<uint32_t>(events_.size());
    }
    tokens_ += level.count[i];
    ++place[frequent + 1 - std::min(level.count[i], frequent)];
    events_.push_back(id);
    root_.push_back(katz.logprob[katz.value[0][i]]);
  }
  events_.shrink_to_fit();
  root_.push_back(-infinity);
  root_.shrink_to_fit();
  words_ = WordIndex<Index>(events_);
  for (size_t c = 0; c <= frequent; ++c) place[c + 1] += place[c];
  by_probability_.resize(events_.size());
  const auto count_of = [&](uint32_t event) { return level.count[entry_of(event)]; };
  for (uint32_t event = 0; event < events_.size(); ++event) {
    by_probability_[place[frequent - std::min(count_of(event), frequent)]++] =
        static_cast<Index>(event);
  }
  std::stable_sort(by_probability_.begin(), by_probability_.begin() + place[0],
                   [&](Index a, Index b) { return count_of(a) > count_of(b); });
}

template <class Index>
void Compiled<Index>::compile_arcs(const Counts& counts, const Katz& katz) {
  uint64_t entries = 0;
  for (size_t k = 0; k < counts.levels.size(); ++k) {
    level_begin_[k] = static_cast<uint32_t>(entries);
    entries += counts.levels[k].size();
    ngrams_.push_back(k == 0 ? events_.size() : counts.levels[k].size());
  }
  if (entries >= none) throw std::length_error("a model has at most 2^32 - 2 n-grams");
  const size_t arcs = static_cast<size_t>(entries) - counts.levels.front().size();
  std::vector<Index> labels(arcs);
  Index* label = labels.data();
  value_.resize(arcs);
  Index* value = value_.data();
  for (size_t k = 1; k < counts.levels.size(); ++k) {
    const std::vector<uint32_t>& entries_of = counts.levels[k].label;
    label = std::transform(
        entries_of.begin(), entries_of.end(), label,
        [bos = bos_entry_](uint32_t e) { return static_cast<Index>(e - (e > bos)); });
    value = std::transform(katz.value[k].begin(), katz.value[k].end(), value,
                           [](uint32_t v) { return static_cast<Index>(v); });
  }
  arcs_ = Labels<Index>(std::move(labels));
}

template <class Index>
void Compiled<Index>::compile_contexts(const Counts& counts, const Katz& katz) {
  if (order_ == 1) return;
  std::vector<uint32_t> first(size_t{contexts()} + 1);
  uint32_t* next = first.data();
  log_backoff_.reserve(contexts());
  for (size_t k = 1; k < counts.levels.size(); ++k) {
    const Level& level = counts.levels[k];
    const uint32_t before = level_begin(k) - level_begin(1);
    next = std::transform(level.begin.begin(), level.begin.end() - 1, next,
                          [before](uint32_t begin) { return begin + before; });
    log_backoff_.insert(log_backoff_.end(), katz.log_backoff[k - 1].begin(),
                        katz.log_backoff[k - 1].end());
  }
  *next = static_cast<uint32_t>(value_.size());
  first_arc_ = Offsets(first);
  if (order_ < 4) return;
  shorter_.resize(contexts() - level_begin(2));
  uint32_t* shorter = shorter_.data();
  for (size_t k = 2; k + 1 < counts.levels.size(); ++k) {
    const std::vector<uint32_t>& suffix = counts.levels[k].suffix;
    const uint32_t below = level_begin(k - 1);
    shorter = std::transform(suffix.begin(), suffix.end(), shorter,
                             [below](uint32_t entry) { return entry + below; });
  }
}

template <class Index>
void Compiled<Index>::states(TokenIds ids, const std::int64_t* begins, size_t n,
                             uint32_t* out) const {
  const size_t depth = static_cast<size_t>(order_) - 1;
  for (size_t i = 0; i < n; ++i) {
    if (begins[i] < 0 || begins[i] > begins[i + 1] ||
        static_cast<uint64_t>(begins[i + 1]) > ids.size) {
      throw ArgumentError("histories begin where none is");
    }
    const size_t begin = static_cast<size_t>(begins[i]), end = static_cast<size_t>(begins[i + 1]);
    const size_t recent = std::min(depth, end - begin);
    std::array<uint32_t, max_order> last;
    ids.read(end - recent, recent, last.data());
    uint32_t state = 0;
    for (size_t j = 0; j < recent; ++j) state = step(chain_of(state), last[j]).next;
    out[i] = state;
  }
}

template <class Index>
void Compiled<Index>::score(const uint32_t* states, size_t n, TokenIds candidates, float* logprobs,
                            uint32_t* next) const {
  check(states, n);
  const size_t k = n == 0 ? 0 : candidates.size / n;
  std::array<uint32_t, chunk> ids;
  std::array<Chain, 8> chains;  // looked up together, to wait for memory once
  for (size_t i = 0; i < n; ++i) {
    const size_t place = i % chains.size();
    if (place == 0) {
      const size_t ahead = std::min(chains.size(), n - i);
      for (size_t j = 0; j < ahead; ++j) chains[j] = chain_of(states[i + j]);
    }
    for (size_t done = 0; done < k; done += chunk) {
      const size_t at = i * k + done, m = std::min(chunk, k - done);
      candidates.read(at, m, ids.data());
      score_row(chains[place], ids.data(), m, logprobs + at, next + at);
    }
  }
}

template <class Index>
void Compiled<Index>::score_row(const Chain& chain, const uint32_t* ids, size_t n, float* logprobs,
                                uint32_t* next) const {
  std::array<uint32_t, chunk> event, arc;
  std::array<Index, chunk> label, at;  // of the candidates found so far: the event, and which it is
  words_.find(ids, n, events_, event.data());
  const float* const root = root_.data();
  const auto events = static_cast<uint32_t>(events_.size());
  const uint32_t bos = bos_entry_, is_state = order_ > 1;
  const float back_off = chain.backoff[0];
  size_t found = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t e = event[i];
    const bool known = e < events;
    logprobs[i] = back_off + root[e];
    next[i] = (e + (e >= bos) + 1) & (0U - (known & is_state));
    label[found] = static_cast<Index>(e);
    at[found] = static_cast<Index>(i);
    found += known;
  }
  for (size_t j = 1; j <= chain.length && found > 0; ++j) {
    const auto find = arcs_.finder(chain.arcs[j]);
    const size_t sought = found;
    found = 0;
    for (size_t i = 0; i < sought; ++i) {
      const auto place = find(label[i]);
      label[found] = label[i];
      at[found] = at[i];
      arc[found] = place.at;
      found += place.found;
    }
    const Index* const value = value_.data();
    const float* const logprob = logprob_.data();
    for (size_t i = 0; i < found; ++i) logprobs[at[i]] = chain.backoff[j] + logprob[value[arc[i]]];
    if (j + 1 == static_cast<size_t>(order_)) break;
    const uint32_t first = level_begin(1) + 1;
    for (size_t i = 0; i < found; ++i) next[at[i]] = arc[i] + first;
  }
  const uint32_t opens = specials_.bos, closes = specials_.eos, start = start_;
  for (size_t i = 0; i < n; ++i) {
    const bool restarts = (ids[i] == opens) | (ids[i] == closes);
    next[i] = restarts ? start : next[i];
  }
}

template <class Index>
void Compiled<Index>::event_row(const Chain& chain, float* out) const {
  for (size_t e = 0; e < events_.size(); ++e) out[e] = chain.backoff[0] + root_[e];
  for (size_t j = 1; j <= chain.length; ++j) {
    const Range arcs = chain.arcs[j];
    for (uint32_t a = arcs.begin; a < arcs.end; ++a) {
      out[arcs_[a]] = chain.backoff[j] + logprob_[value_[a]];
    }
  }
}

template <class Index>
void Compiled<Index>::distribution(const uint32_t* states, size_t n, float* out) const {
  check(states, n);
  for (size_t i = 0; i < n; ++i) {
    const Chain chain = chain_of(states[i]);
    float* row_out = out + i * specials_.size;
    std::fill_n(row_out, specials_.size, -infinity);
    for (size_t e = 0; e < events_.size(); ++e) row_out[events_[e]] = chain.backoff[0] + root_[e];
    for (size_t j = 1; j <= chain.length; ++j) {
      const Range arcs = chain.arcs[j];
      for (uint32_t a = arcs.begin; a < arcs.end; ++a) {
        row_out[events_[arcs_[a]]] = chain.backoff[j] + logprob_[value_[a]];
      }
    }
  }
}

template <class Index>
void Compiled<Index>::continuations(const uint32_t* states, size_t n, size_t k, uint32_t* ids,
                                    float* logprobs) const {
  check(states, n);
  if (k > events_.size()) throw ArgumentError("more continuations than events");
  std::vector<Likely> found;
  found.reserve(k);
  for (size_t i = 0; i < n; ++i) {
    found.clear();
    best(chain_of(states[i]), k, found);
    for (const Likely& likely : found) {
      *ids++ = events_[likely.event];
      *logprobs++ = likely.logprob;
    }
  }
}

// The k likeliest events: those of the longest context first, then of shorter ones what no longer
// one has an arc for. Whoever has an arc two contexts up has it one up too.
template <class Index>
void Compiled<Index>::best(const Chain& chain, size_t k, std::vector<Likely>& found) const {
  if (k == 0) return;
  const auto offer = [&](const Likely& likely, const auto& overridden) {
    if (found.size() == k && !better(likely, found.front())) return;
    if (overridden(static_cast<Index>(likely.event)).found) return;
    if (found.size() == k) {
      std::pop_heap(found.begin(), found.end(), better);
      found.pop_back();
    }
    found.push_back(likely);
    std::push_heap(found.begin(), found.end(), better);  // the worst is in front
  };
  Range longer{0, 0};
  for (size_t j = chain.length; j > 0; --j) {
    const Range arcs = chain.arcs[j];
    const auto overridden = arcs_.finder(longer);
    for (uint32_t a = arcs.begin; a < arcs.end; ++a) {
      offer({chain.backoff[j] + logprob_[value_[a]], arcs_[a]}, overridden);
    }
    longer = arcs;
  }
  const auto overridden = arcs_.finder(longer);
  for (const Index event : by_probability_) {
    const float logprob = chain.backoff[0] + root_[event];
    if (found.size() == k && logprob < found.front().logprob) break;
    offer({logprob, event}, overridden);
  }
  std::sort_heap(found.begin(), found.end(), better);
}

}  // namespace

void TokenIds::read(size_t first, size_t n, uint32_t* out) const {
  const auto read_as = [&](const auto* ids) {
    bool negative = false;
    for (size_t i = 0; i < n; ++i) {
      const auto id = ids[first + i];
      negative |= id < 0;
      out[i] = static_cast<uint32_t>(std::min<std::int64_t>(id, UINT32_MAX));
    }
    if (negative) throw ArgumentError("a token id is negative");
  };
  switch (type) {
    case uint32:
      std::copy_n(static_cast<const uint32_t*>(data) + first, n, out);
      break;
    case int32:
      read_as(static_cast<const std::int32_t*>(data));
      break;
    case int64:
      read_as(static_cast<const std::int64_t*>(data));
      break;
  }
}

std::unique_ptr<Model> Model::compile(const Counts& counts) {
  const Katz katz = estimate(counts);
  const size_t most = std::max(counts.words.size(), katz.logprob.size());
  if (most <= UINT16_MAX) return std::make_unique<Compiled<std::uint16_t>>(counts, katz);
  return std::make_unique<Compiled<uint32_t>>(counts, katz);
}

}  // namespace perslm
