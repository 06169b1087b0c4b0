// A user's model, ready to score: smoothed (smoothed.hpp), or backing off into the global LM
// (backoff.hpp), in the fewest bytes that answer at memory speed.
//
// Entries are the n-grams of perslm::Counts in level order; an arc is an entry of level 2 or above.
// Per arc there is a label (the event: the word's place among those that the user ever wrote) and
// the number of its log-probability in a table of the distinct ones. Per context (an entry below
// the last level) there is the first of its arcs, ln alpha, and from level 3 on the context without
// its oldest word. State 0 is the root and state e + 1 is entry e.
//
// A word is looked up from the root upwards: whoever holds an n-gram holds its suffix, so the first
// context that does not know the word ends the search, and the last n-gram found below the order is
// the next state. That is why no next states are kept.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <vector>

#include "backoff.hpp"
#include "levels.hpp"
#include "smoothed.hpp"

namespace perslm {

// A state, or an id, that the model cannot have.
struct ArgumentError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

struct Step {
  float logprob;
  std::uint32_t next;
};

// Token ids of any integer type; those beyond 32 bits count as the largest id of 32.
struct TokenIds {
  const void* data;
  std::size_t size;
  enum Type { uint32, int32, int64 } type;

  // The ids first .. first + n. Throws ArgumentError if one is negative.
  void read(std::size_t first, std::size_t n, std::uint32_t* out) const;
};

// The facts of a model, and what a beam search asks. Nothing changes after construction, so any
// number of threads may ask. Everything that takes states throws ArgumentError for one that the
// model does not have; arrays of results hold one row for each state.
class Model {
 public:
  // Katz; with a table of lambda, or without.
  static std::unique_ptr<Model> compile(const Counts& counts, const WeightTable* table = nullptr);
  // What smoothed these counts elsewhere; its log-probabilities ascend.
  static std::unique_ptr<Model> compile(const Counts& counts, Smoothed&& smoothed);
  // Backing off into the global LM, with a gate for each order.
  static std::unique_ptr<Model> compile(const Counts& counts, const std::vector<Gate>& gates,
                                        const Size& size);
  virtual ~Model() = default;

  int order() const { return order_; }
  std::uint32_t start() const { return start_; }
  std::uint64_t tokens() const { return tokens_; }
  std::uint32_t vocabulary_size() const { return specials_.size; }
  const std::vector<std::uint64_t>& ngrams() const { return ngrams_; }
  const std::vector<int>& fell_back() const { return fell_back_; }
  const std::vector<std::uint32_t>& events() const { return events_; }
  virtual std::size_t bytes() const = 0;

  virtual void check(const std::uint32_t* states, std::size_t n) const = 0;
  virtual int context_length(std::uint32_t state) const = 0;

  // The state after histories: history i is ids[begins[i]] .. ids[begins[i + 1]].
  virtual void states(TokenIds ids, const std::int64_t* begins, std::size_t n,
                      std::uint32_t* out) const = 0;
  // lambda of states, as the estimator or the table has it: 1 without either.
  virtual void weights(const std::uint32_t* states, std::size_t n, float* out) const = 0;
  virtual Step step(std::uint32_t state, std::uint32_t id) const = 0;
  virtual void score(const std::uint32_t* states, std::size_t n, TokenIds candidates,
                     float* logprobs, std::uint32_t* next) const = 0;
  virtual void event_logprobs(const std::uint32_t* states, std::size_t n, float* out) const = 0;
  virtual void distribution(const std::uint32_t* states, std::size_t n, float* out) const = 0;
  // k is at most the number of events.
  virtual void continuations(const std::uint32_t* states, std::size_t n, std::size_t k,
                             std::uint32_t* ids, float* logprobs) const = 0;
  // Rows of `width` >= vocabulary_size(); out may be global itself.
  virtual void mix(const std::uint32_t* states, std::size_t n, const float* weights,
                   const float* global, std::size_t width, float* out) const = 0;

 protected:
  Specials specials_{};
  int order_ = 1;
  std::uint32_t start_ = 0;
  std::uint64_t tokens_ = 0;
  std::vector<std::uint64_t> ngrams_;
  std::vector<int> fell_back_;
  std::vector<std::uint32_t> events_;  // ascending ids
};

}  // namespace perslm
