#include "model.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "backoff.hpp"
#include "katz.hpp"
#include "mixture.hpp"
#include "packed.hpp"

namespace perslm {
namespace {

using std::size_t;
using std::uint32_t;
using std::uint64_t;
using std::uint8_t;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr size_t chunk = WordIndex<uint32_t>::batch;  // candidates that are looked up together

// What a state knows: the arcs of its contexts of j words, and by what factor their n-grams count:
// what the longer contexts leave to them, as the rule has it.
struct Chain {
  size_t length = 0;  // words in the longest context
  std::array<Range, max_order> arcs{};
  std::array<float, max_order> factor{};
  float alone = 0;   // what is added to the logarithm of a word's own value, if nothing else is
  float weight = 1;  // lambda
};

// A rule says what n-grams and contexts hold, and how that makes a probability. `fall` collects
// the factors from the longest context, where it is `all`, to the root, and `scale` ends that;
// `first` and `next` collect an event's values from the root to the longest n-gram, and `last`
// makes ln p of them. `row` does first and last for all events.

// A user's own words, smoothed, in logarithms: an n-gram takes the place of a shorter one.
class SmoothedRule {
 public:
  static constexpr double all = 0;
  static constexpr float none = -infinity;  // of no event

  explicit SmoothedRule(Smoothed&& smoothed)
      : value_(std::move(smoothed.logprob)),
        log_backoff_(std::move(smoothed.log_backoff)),
        weight_(std::move(smoothed.weight)) {
    log_backoff_.shrink_to_fit();
    weight_.shrink_to_fit();
  }

  size_t bytes() const { return size_of(value_) + size_of(log_backoff_) + size_of(weight_); }
  float weight(uint32_t state, const Chain&) const {
    return weight_.empty() ? 1.0F : static_cast<float>(weight_[state]) / 255.0F;
  }
  float value(uint32_t index) const { return value_[index]; }
  double fall(double factor, uint32_t entry) const {
    return factor + static_cast<double>(log_backoff_[entry]);
  }
  void scale(Chain& chain, double factor) const { chain.alone = static_cast<float>(factor); }
  void take_root(const std::vector<float>&) {}
  static const float* log_root(const SmoothedRule&, const std::vector<float>& root) {
    return root.data();
  }

  static float first(float factor, float value) { return factor + value; }
  static float next(float, float factor, float value) { return factor + value; }
  static float last(float logprob) { return logprob; }

 private:
  std::vector<float> value_;        // the distinct ln p
  std::vector<float> log_backoff_;  // [context]
  std::vector<uint8_t> weight_;  // [state below the last level]: lambda in 255ths, if it is known
};

// Backing off into the global LM: the masses of an n-gram and of all shorter ones add up.
class BackoffRule {
 public:
  static constexpr double all = 1;
  static constexpr float none = 0;

  explicit BackoffRule(Backoff&& backoff)
      : value_(std::move(backoff.mass)), root_spoken_(backoff.root_spoken), moved_(backoff.moved) {
    size_t contexts = 0;
    for (const auto& level : backoff.spoken) contexts += level.size();
    spoken_.reserve(contexts);
    for (const auto& level : backoff.spoken)
      spoken_.insert(spoken_.end(), level.begin(), level.end());
  }

  size_t bytes() const { return size_of(value_) + size_of(spoken_) + size_of(log_root_); }
  float weight(uint32_t, const Chain& chain) const {
    const double moved = moved_ * chain.weight;
    return static_cast<float>(moved / (moved + (1 - static_cast<double>(chain.weight))));
  }
  float value(uint32_t index) const { return value_[index]; }
  double fall(double factor, uint32_t entry) const {
    return factor * (1 - static_cast<double>(spoken_[entry]));
  }
  void scale(Chain& chain, double factor) const {
    const double weight = 1 - factor * (1 - static_cast<double>(root_spoken_));
    const double scale = weight > 0 ? 1 / weight : 0;
    chain.weight = static_cast<float>(weight);
    for (size_t j = 0; j <= chain.length; ++j) {
      chain.factor[j] = static_cast<float>(static_cast<double>(chain.factor[j]) * scale);
    }
    chain.alone = std::log(chain.factor[0]);
  }
  void take_root(const std::vector<float>& root) {
    log_root_.resize(root.size());
    for (size_t e = 0; e < log_root_.size(); ++e) log_root_[e] = std::log(root[e]);
  }
  static const float* log_root(const BackoffRule& rule, const std::vector<float>&) {
    return rule.log_root_.data();
  }

  static float first(float factor, float mass) { return factor * mass; }
  static float next(float sum, float factor, float mass) { return sum + factor * mass; }
  static float last(float probability) { return std::log(probability); }

 private:
  std::vector<float> value_;     // the distinct masses
  std::vector<float> spoken_;    // [context]: the mass of all its n-grams; the rest it leaves
  std::vector<float> log_root_;  // [event]
  float root_spoken_;
  double moved_;  // by what lambda / (1 - lambda) is multiplied
};

struct Likely {
  float logprob;
  uint32_t event;
};

bool better(const Likely& a, const Likely& b) {
  return a.logprob > b.logprob || (a.logprob == b.logprob && a.event < b.event);
}

// `Index` numbers the words and the distinct values of the model: 16 bits are enough for nearly
// everybody.
template <class Index, class Rule>
class Compiled final : public Model {
 public:
  // `value` says of each entry which of the rule's values it has; `seen` are the counts of single
  // words that their probabilities follow.
  Compiled(const Counts& counts, const std::vector<std::vector<uint32_t>>& value,
           const std::vector<uint32_t>& seen, std::vector<int> fell_back, Rule&& rule)
      : rule_(std::move(rule)) {
    specials_ = counts.specials;
    order_ = counts.order();
    fell_back_ = std::move(fell_back);
    compile_words(counts, value.front(), seen);
    compile_arcs(counts, value);
    compile_contexts(counts);
    rule_.take_root(root_);
    start_ = order_ > 1 && bos_entry_ != none ? bos_entry_ + 1 : 0;
  }

  size_t bytes() const override {
    return sizeof(*this) + size_of(ngrams_) + size_of(fell_back_) + size_of(events_) +
           rule_.bytes() + words_.bytes() + size_of(root_) + size_of(by_probability_) +
           arcs_.bytes() + size_of(value_) + first_arc_.bytes() + size_of(shorter_);
  }

  void check(const uint32_t* states, size_t n) const override {
    for (size_t i = 0; i < n; ++i) check(states[i]);
  }

  int context_length(uint32_t state) const override {
    check(state);
    return static_cast<int>(length(state));
  }

  void states(TokenIds ids, const std::int64_t* begins, size_t n, uint32_t* out) const override;

  void weights(const uint32_t* states, size_t n, float* out) const override {
    check(states, n);
    for (size_t i = 0; i < n; ++i) out[i] = rule_.weight(states[i], chain_of(states[i]));
  }

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
  void compile_words(const Counts& counts, const std::vector<uint32_t>& value,
                     const std::vector<uint32_t>& seen);
  void compile_arcs(const Counts& counts, const std::vector<std::vector<uint32_t>>& value);
  void compile_contexts(const Counts& counts);

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
    double factor = Rule::all;
    chain.factor[chain.length] = static_cast<float>(factor);
    for (size_t j = chain.length; j > 0; --j) {
      chain.arcs[j] = {first_arc_[entry], first_arc_[entry + 1]};
      arcs_.prefetch(chain.arcs[j].begin);
      prefetch(value_.data() + chain.arcs[j].begin);
      factor = rule_.fall(factor, entry);
      chain.factor[j - 1] = static_cast<float>(factor);
      if (j > 2) {
        entry = shorter_[entry - level_begin(2)];
      } else if (j == 2) {
        entry = entry_of(arcs_[entry - level_begin(1)]);
      }
    }
    rule_.scale(chain, factor);
    return chain;
  }

  bool restarts(uint32_t id) const { return id == specials_.bos || id == specials_.eos; }

  Step step(const Chain& chain, uint32_t id) const {
    const uint32_t event = words_.find(id, events_);
    Step result{-infinity, 0};
    if (event != none) {
      float value = 0;
      bool near = false;
      if (order_ > 1) result.next = entry_of(event) + 1;
      for (size_t j = 1; j <= chain.length; ++j) {
        const auto arc = arcs_.finder(chain.arcs[j])(static_cast<Index>(event));
        if (!arc.found) break;
        if (j == 1) {
          value = Rule::first(chain.factor[0], root_[event]);
          near = true;
        }
        value = Rule::next(value, chain.factor[j], rule_.value(value_[arc.at]));
        if (j + 1 < static_cast<size_t>(order_)) result.next = level_begin(1) + arc.at + 1;
      }
      result.logprob = near ? Rule::last(value) : chain.alone + log_root()[event];
    }
    if (restarts(id)) result.next = start_;
    return result;
  }

  void score_row(const Chain& chain, const uint32_t* ids, size_t n, float* logprobs,
                 uint32_t* next) const;
  void event_row(const Chain& chain, float* out) const;
  const float* log_root() const { return Rule::log_root(rule_, root_); }
  void best(const Chain& chain, size_t k, std::vector<Likely>& found) const;

  Rule rule_;
  WordIndex<Index> words_;             // token id -> event
  std::vector<float> root_;            // [event]: the word's own value; and one for no event
  std::vector<Index> by_probability_;  // events, likeliest first
  uint32_t bos_entry_ = none, eos_entry_ = none, eos_event_ = none;
  std::array<uint32_t, max_order> level_begin_{};  // the first entry of each level
  Labels<Index> arcs_;
  std::vector<Index> value_;       // [arc]: which of the rule's values
  Offsets first_arc_;              // [context]
  std::vector<uint32_t> shorter_;  // [context of three or more words]: without its oldest word
};

template <class Index, class Rule>
void Compiled<Index, Rule>::compile_words(const Counts& counts, const std::vector<uint32_t>& value,
                                          const std::vector<uint32_t>& seen) {
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
    ++place[frequent + 1 - std::min(seen[i], frequent)];
    events_.push_back(id);
    root_.push_back(rule_.value(value[i]));
  }
  events_.shrink_to_fit();
  root_.push_back(Rule::none);
  root_.shrink_to_fit();
  words_ = WordIndex<Index>(events_);
  for (size_t c = 0; c <= frequent; ++c) place[c + 1] += place[c];
  by_probability_.resize(events_.size());
  const auto count_of = [&](uint32_t event) { return seen[entry_of(event)]; };
  for (uint32_t event = 0; event < events_.size(); ++event) {
    by_probability_[place[frequent - std::min(count_of(event), frequent)]++] =
        static_cast<Index>(event);
  }
  std::stable_sort(by_probability_.begin(), by_probability_.begin() + place[0],
                   [&](Index a, Index b) { return count_of(a) > count_of(b); });
}

template <class Index, class Rule>
void Compiled<Index, Rule>::compile_arcs(const Counts& counts,
                                         const std::vector<std::vector<uint32_t>>& value) {
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
  Index* at = value_.data();
  for (size_t k = 1; k < counts.levels.size(); ++k) {
    const std::vector<uint32_t>& entries_of = counts.levels[k].label;
    label = std::transform(
        entries_of.begin(), entries_of.end(), label,
        [bos = bos_entry_](uint32_t e) { return static_cast<Index>(e - (e > bos)); });
    at = std::transform(value[k].begin(), value[k].end(), at,
                        [](uint32_t v) { return static_cast<Index>(v); });
  }
  arcs_ = Labels<Index>(std::move(labels));
}

template <class Index, class Rule>
void Compiled<Index, Rule>::compile_contexts(const Counts& counts) {
  if (order_ == 1) return;
  std::vector<uint32_t> first(size_t{contexts()} + 1);
  uint32_t* next = first.data();
  for (size_t k = 1; k < counts.levels.size(); ++k) {
    const Level& level = counts.levels[k];
    const uint32_t before = level_begin(k) - level_begin(1);
    next = std::transform(level.begin.begin(), level.begin.end() - 1, next,
                          [before](uint32_t begin) { return begin + before; });
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

template <class Index, class Rule>
void Compiled<Index, Rule>::states(TokenIds ids, const std::int64_t* begins, size_t n,
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

template <class Index, class Rule>
void Compiled<Index, Rule>::score(const uint32_t* states, size_t n, TokenIds candidates,
                                  float* logprobs, uint32_t* next) const {
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

template <class Index, class Rule>
void Compiled<Index, Rule>::score_row(const Chain& chain, const uint32_t* ids, size_t n,
                                      float* logprobs, uint32_t* next) const {
  std::array<uint32_t, chunk> event, arc;
  std::array<Index, chunk> near;       // which candidates have an arc of one word's context
  std::array<Index, chunk> label, at;  // of the candidates found so far: the event, and which it is
  words_.find(ids, n, events_, event.data());
  const float* const root = log_root();
  const auto events = static_cast<uint32_t>(events_.size());
  const uint32_t bos = bos_entry_, is_state = order_ > 1;
  size_t found = 0, nearby = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t e = event[i];
    const bool known = e < events;
    logprobs[i] = chain.alone + root[e];
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
    if (j == 1) {
      nearby = found;
      std::copy_n(at.begin(), found, near.begin());
      for (size_t i = 0; i < found; ++i) {
        logprobs[at[i]] = Rule::first(chain.factor[0], root_[label[i]]);
      }
    }
    const Index* const value = value_.data();
    for (size_t i = 0; i < found; ++i) {
      float& sum = logprobs[at[i]];
      sum = Rule::next(sum, chain.factor[j], rule_.value(value[arc[i]]));
    }
    if (j + 1 == static_cast<size_t>(order_)) break;
    const uint32_t first = level_begin(1) + 1;
    for (size_t i = 0; i < found; ++i) next[at[i]] = arc[i] + first;
  }
  for (size_t i = 0; i < nearby; ++i) logprobs[near[i]] = Rule::last(logprobs[near[i]]);
  const uint32_t opens = specials_.bos, closes = specials_.eos, start = start_;
  for (size_t i = 0; i < n; ++i) {
    const bool restarts = (ids[i] == opens) | (ids[i] == closes);
    next[i] = restarts ? start : next[i];
  }
}

template <class Index, class Rule>
void Compiled<Index, Rule>::event_row(const Chain& chain, float* out) const {
  const float* const alone = log_root();
  for (size_t e = 0; e < events_.size(); ++e) out[e] = chain.alone + alone[e];
  if (chain.length == 0) return;
  const Range near = chain.arcs[1];  // whoever follows a longer context follows this one
  for (uint32_t a = near.begin; a < near.end; ++a) {
    const Index event = arcs_[a];
    out[event] = Rule::next(Rule::first(chain.factor[0], root_[event]), chain.factor[1],
                            rule_.value(value_[a]));
  }
  for (size_t j = 2; j <= chain.length; ++j) {
    const Range arcs = chain.arcs[j];
    for (uint32_t a = arcs.begin; a < arcs.end; ++a) {
      float& sum = out[arcs_[a]];
      sum = Rule::next(sum, chain.factor[j], rule_.value(value_[a]));
    }
  }
  for (uint32_t a = near.begin; a < near.end; ++a) {
    float& sum = out[arcs_[a]];
    sum = Rule::last(sum);
  }
}

template <class Index, class Rule>
void Compiled<Index, Rule>::distribution(const uint32_t* states, size_t n, float* out) const {
  check(states, n);
  const std::unique_ptr<float[]> known(new float[events_.size()]);
  for (size_t i = 0; i < n; ++i) {
    event_row(chain_of(states[i]), known.get());
    float* const row = out + i * specials_.size;
    std::fill_n(row, specials_.size, -infinity);
    for (size_t e = 0; e < events_.size(); ++e) row[events_[e]] = known[e];
  }
}

template <class Index, class Rule>
void Compiled<Index, Rule>::continuations(const uint32_t* states, size_t n, size_t k, uint32_t* ids,
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

// The k likeliest events: those that follow the last word of the context, then, by what they are
// alone, the others.
template <class Index, class Rule>
void Compiled<Index, Rule>::best(const Chain& chain, size_t k, std::vector<Likely>& found) const {
  if (k == 0) return;
  const auto offer = [&](const Likely& likely) {
    if (found.size() == k) {
      if (!better(likely, found.front())) return;
      std::pop_heap(found.begin(), found.end(), better);
      found.pop_back();
    }
    found.push_back(likely);
    std::push_heap(found.begin(), found.end(), better);  // the worst is in front
  };
  const Range near = chain.length > 0 ? chain.arcs[1] : Range{0, 0};
  const auto place = arcs_.finder(near);
  std::vector<float> value(near.end - near.begin);
  for (uint32_t a = near.begin; a < near.end; ++a) {
    value[a - near.begin] = Rule::next(Rule::first(chain.factor[0], root_[arcs_[a]]),
                                       chain.factor[1], rule_.value(value_[a]));
  }
  for (size_t j = 2; j <= chain.length; ++j) {
    for (uint32_t a = chain.arcs[j].begin; a < chain.arcs[j].end; ++a) {
      float& sum = value[place(arcs_[a]).at - near.begin];
      sum = Rule::next(sum, chain.factor[j], rule_.value(value_[a]));
    }
  }
  for (uint32_t a = near.begin; a < near.end; ++a) {
    offer({Rule::last(value[a - near.begin]), arcs_[a]});
  }
  for (const Index event : by_probability_) {
    const float logprob = chain.alone + log_root()[event];
    if (found.size() == k && logprob < found.front().logprob) break;
    if (!place(event).found) offer({logprob, event});
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

template <class Rule, class... Facts>
std::unique_ptr<Model> compiled(const Counts& counts, size_t values, Facts&&... facts) {
  if (std::max(counts.words.size(), values) <= UINT16_MAX) {
    return std::make_unique<Compiled<std::uint16_t, Rule>>(counts, std::forward<Facts>(facts)...);
  }
  return std::make_unique<Compiled<uint32_t, Rule>>(counts, std::forward<Facts>(facts)...);
}

std::unique_ptr<Model> Model::compile(const Counts& counts, const WeightTable* table) {
  Smoothed katz = estimate(counts, table);
  const size_t values = katz.logprob.size();
  return compiled<SmoothedRule>(counts, values, katz.value, counts.levels.front().count,
                                katz.fell_back, SmoothedRule(std::move(katz)));
}

std::unique_ptr<Model> Model::compile(const Counts& counts, Smoothed&& smoothed) {
  const size_t values = smoothed.logprob.size();
  // words are as likely as the places of their log-probabilities, which ascend
  return compiled<SmoothedRule>(counts, values, smoothed.value, smoothed.value.front(),
                                smoothed.fell_back, SmoothedRule(std::move(smoothed)));
}

std::unique_ptr<Model> Model::compile(const Counts& counts, const std::vector<Gate>& gates,
                                      const Size& size) {
  if (gates.size() != counts.levels.size()) throw ArgumentError("there must be a gate by order");
  Backoff backoff = estimate(counts, gates, size);
  const size_t values = backoff.mass.size();
  return compiled<BackoffRule>(counts, values, backoff.value, backoff.words, std::vector<int>(),
                               BackoffRule(std::move(backoff)));
}

}  // namespace perslm
