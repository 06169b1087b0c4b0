#include "katz.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace perslm {
namespace {

using std::size_t;
using std::uint32_t;
using std::uint64_t;

constexpr double trusted = 0.999;
constexpr double left_over_floor = 1e-9;
constexpr float log_zero = -99.0F;
constexpr uint32_t none = UINT32_MAX;

using Bins = std::array<double, bins + 1>;
using CountOfCounts = std::array<double, bins + 1>;

double log_left(double kept) { return std::log(std::max(1 - kept, left_over_floor)); }

// The distinct probabilities of a model, with the logarithms that are needed of each.
class Values {
 public:
  uint32_t add(double p) {
    p_.push_back(p);
    log_left_.push_back(log_left(p));
    logprob_.push_back(static_cast<float>(std::log(p)));
    return static_cast<uint32_t>(p_.size() - 1);
  }
  double p(uint32_t value) const { return p_[value]; }
  double log_left_by(uint32_t value) const { return log_left_[value]; }
  std::vector<float> take_logprobs() { return std::move(logprob_); }

 private:
  std::vector<double> p_, log_left_;
  std::vector<float> logprob_;
};

// Finds the value of an n-gram of one order by its count and its context's total. Small totals
// share their values between contexts; above, only the n-grams of one context do.
class Discounted {
 public:
  Discounted(Values& values, const Bins& discount)
      : values_(values), discount_(discount), small_(small_totals * (small_totals + 1) / 2, none) {
    alone_.fill(none);
  }

  // The value of the only n-gram of a context.
  uint32_t only(uint32_t count) {
    if (count == 0 || count >= alone_.size()) {
      enter(count);
      return value(count);
    }
    uint32_t& cell = alone_[count];
    if (cell == none) {
      enter(count);
      cell = value(count);
    }
    return cell;
  }

  void enter(uint64_t total) {
    total_ = static_cast<double>(std::max<uint64_t>(total, 1));
    if (total < small_totals) {
      row_ = small_.data() + total * (total + 1) / 2;
      known_ = static_cast<uint32_t>(total) + 1;
    } else {
      frequent_.fill(none);
      row_ = frequent_.data();
      known_ = static_cast<uint32_t>(frequent_.size());
    }
  }

  uint32_t value(uint32_t count) {
    if (count >= known_) return values_.add(probability(count));
    uint32_t& cell = row_[count];
    if (cell == none) cell = values_.add(probability(count));
    return cell;
  }

 private:
  static constexpr uint64_t small_totals = 64;

  double probability(uint32_t count) const {
    const uint32_t bin = std::clamp<uint32_t>(count, 1, bins + 1) - 1;
    return discount_[bin] * count / total_;
  }

  Values& values_;
  Bins discount_;
  std::vector<uint32_t> small_;  // a triangle: the row of each total has a cell for each count
  std::array<uint32_t, 64> frequent_{};
  std::array<uint32_t, small_totals> alone_;
  uint32_t* row_ = nullptr;
  uint32_t known_ = 0;
  double total_ = 1;
};

// Good-Turing with Katz's correction; sets fell_back where a count that occurs has no usable one.
Bins discounts(const CountOfCounts& n, bool& fell_back) {
  Bins result;
  result.fill(trusted);
  const auto first = std::find_if(n.begin(), n.end(), [](double x) { return x > 0; });
  if (first == n.end()) return result;
  const double r0 = static_cast<double>(first - n.begin()) + 1;
  const double correction = (bins + 1) * n[bins] / (r0 * *first);
  for (size_t r = 1; r <= bins; ++r) {
    double x = static_cast<double>(r + 1);
    if (n[r] > 0) x *= n[r];
    if (n[r - 1] > 0) x /= n[r - 1];
    double d = x / static_cast<double>(r) - correction;
    if (correction < 1) d /= 1 - correction;
    if (0 < d && d < 1) {
      result[r - 1] = d;
    } else if (n[r - 1] > 0) {
      fell_back = true;
    }
  }
  return result;
}

CountOfCounts count_of_counts(const Counts& counts, size_t k) {
  CountOfCounts n{};
  if (counts.pruned) {
    std::copy(counts.whole[k].begin(), counts.whole[k].end(), n.begin());
    return n;
  }
  // a table of counters would wait for itself, since most counts are 1
  for (uint32_t r = 1; r <= n.size(); ++r) {
    uint32_t equal = 0;
    for (const uint32_t count : counts.levels[k].count) equal += count == r;
    n[r - 1] = equal;
  }
  return n;
}

class Estimator {
 public:
  Estimator(const Counts& counts, const WeightTable* table) : counts_(counts), table_(table) {
    const std::vector<uint32_t>& words = counts.words;
    const Specials& specials = counts.specials;
    events_ = words.size() - std::binary_search(words.begin(), words.end(), specials.bos);
    const auto eos = std::lower_bound(words.begin(), words.end(), specials.eos);
    if (eos != words.end() && *eos == specials.eos) {
      eos_ = static_cast<uint32_t>(eos - words.begin());
    }
  }

  Smoothed run() {
    for (size_t k = 0; k < counts_.levels.size(); ++k) {
      Bins discount;
      discount.fill(1.0);  // unigrams are relative frequencies
      if (k > 0) {
        bool fell_back = false;
        discount = discounts(count_of_counts(counts_, k), fell_back);
        if (fell_back) result_.fell_back.push_back(static_cast<int>(k) + 1);
      }
      estimate_level(k, discount);
    }
    result_.logprob = values_.take_logprobs();
    return std::move(result_);
  }

 private:
  void estimate_level(size_t k, const Bins& discount) {
    const Level& level = counts_.levels[k];
    const size_t contexts = level.begin.size() - 1;
    result_.value.emplace_back(level.size());
    const size_t before = result_.log_backoff.size();  // contexts that are shorter
    if (k > 0) result_.log_backoff.resize(before + contexts);
    float* const log_backoff = result_.log_backoff.data() + before;
    uint32_t* value = result_.value.back().data();
    const uint32_t* count = level.count.data();
    Discounted discounted(values_, discount);
    const bool plain = k > 0 && !counts_.pruned && events_ > 1;
    if (table_ != nullptr) result_.weight.reserve(result_.weight.size() + contexts);
    for (size_t i = 0; i < contexts; ++i) {
      const uint32_t begin = level.begin[i], end = level.begin[i + 1];
      if (plain && end - begin == 1) {  // as most contexts are: both logarithms are known
        value[begin] = discounted.only(count[begin]);
        const uint32_t lower = result_.value[k - 1][level.suffix[begin]];
        log_backoff[i] =
            static_cast<float>(values_.log_left_by(value[begin]) - values_.log_left_by(lower));
        if (table_ != nullptr) {
          result_.weight.push_back(table_->of(k, count[begin], values_.p(value[begin])));
        }
        continue;
      }
      uint64_t total = counts_.pruned ? counts_.cut[k][i] : 0;
      for (uint32_t e = begin; e < end; ++e) total += count[e];
      discounted.enter(total);
      double kept = 0;
      for (uint32_t e = begin; e < end; ++e) {
        value[e] = discounted.value(count[e]);
        kept += values_.p(value[e]);
      }
      const bool complete = k > 0 && end - begin == events_;  // then it gives nothing away
      if (table_ != nullptr) weigh(k, i, begin == end, total, complete ? 1 : kept);
      if (k > 0) log_backoff[i] = log_alpha(k, begin, end, kept);
    }
    below_ = before;
  }

  // Enters lambda of context i of level k; that of one without successors is the shorter one's.
  void weigh(size_t k, size_t i, bool empty, uint64_t total, double kept) {
    if (empty && k > 0) {
      const size_t shorter = k == 1 ? 0 : 1 + below_ + counts_.levels[k - 1].suffix[i];
      result_.weight.push_back(result_.weight[shorter]);
    } else {
      result_.weight.push_back(table_->of(k, total, kept));
    }
  }

  // ln alpha of the context of level k whose successors are the entries begin .. end.
  float log_alpha(size_t k, uint32_t begin, uint32_t end, double kept) {
    if (end - begin == events_) {
      give_freed_mass(k, begin, end, kept);
      return log_zero;
    }
    const uint32_t* lower = result_.value[k - 1].data();
    const uint32_t* suffix = counts_.levels[k].suffix.data();
    double below = 0;
    for (uint32_t e = begin; e < end; ++e) below += values_.p(lower[suffix[e]]);
    const double left = std::max(1 - kept, left_over_floor);
    return static_cast<float>(std::log(left / std::max(1 - below, left_over_floor)));
  }

  // Let a context that has seen every event sum to 1 by itself.
  void give_freed_mass(size_t k, uint32_t begin, uint32_t end, double kept) {
    std::vector<uint32_t>& value = result_.value[k];
    for (uint32_t e = begin; e < end; ++e) {
      if (eos_ == none) {
        value[e] = values_.add(values_.p(value[e]) / kept);
      } else if (counts_.levels[k].label[e] == eos_) {
        value[e] = values_.add(values_.p(value[e]) + (1 - kept));
      }
    }
  }

  const Counts& counts_;
  const WeightTable* table_;
  size_t below_ = 0;  // the first of the contexts of the level below, among all but the empty one
  size_t events_ = 0;
  uint32_t eos_ = none;  // </s> as entry of level 1
  Values values_;
  Smoothed result_;
};

}  // namespace

Smoothed estimate(const Counts& counts, const WeightTable* table) {
  return Estimator(counts, table).run();
}

}  // namespace perslm
