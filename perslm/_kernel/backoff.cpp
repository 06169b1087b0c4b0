#include "backoff.hpp"

#include <algorithm>
#include <cmath>

namespace perslm {
namespace {

using std::size_t;
using std::uint32_t;
using std::uint64_t;

constexpr uint32_t none = UINT32_MAX;
constexpr double furthest = 15, largest_entropy = 12;

// What a gate goes by: how many different events are kept of a context, and their counts added up;
// then both with what was cut, where each event is taken for a different one.
struct Seen {
  uint32_t distinct = 0;
  uint64_t kept = 0, variety = 0, total = 0;
};

// 1 - gamma.
double openness(const Gate& gate, const Seen& seen, bool opens) {
  const double size = std::log2(static_cast<double>(seen.total)) / 8;
  const double different = static_cast<double>(seen.variety);
  const double variety = different / static_cast<double>(seen.total);
  const std::array<double, gate_features> features{1,
                                                   size,
                                                   variety,
                                                   size * size,
                                                   size * variety,
                                                   variety * variety,
                                                   std::log2(different) / 8,
                                                   opens ? 1.0 : 0.0};
  double sum = 0;
  for (size_t i = 0; i < features.size(); ++i) sum += gate.coefficient[i] * features[i];
  return 1 / (1 + std::exp(std::clamp(sum, -furthest, furthest)));
}

// Finds the masses of one order's n-grams by what they depend on. Those of small totals are common
// to many contexts; above, only the n-grams of one are alike.
class Masses {
 public:
  Masses(const Gate& gate, Backoff& result)
      : gate_(gate), result_(result), row_of_(2 * small * small, none) {}

  // Asks for the n-grams of a context from now on; returns the mass of all of them.
  double enter(const Seen& seen, bool opens) {
    if (seen.distinct == 0) {
      cell_ = alone_.data();
      return 0;
    }
    if (seen.total < small) {
      uint32_t& row = row_of_[(opens * small + seen.total) * small + seen.variety];
      if (row == none) {
        row = static_cast<uint32_t>(per_count_.size());
        per_count_.push_back(per_count(seen, opens));
        shared_.resize(shared_.size() + small, none);
      }
      current_ = per_count_[row];
      cell_ = shared_.data() + size_t{row} * small;
    } else {
      current_ = per_count(seen, opens);
      alone_.fill(none);
      cell_ = alone_.data();
    }
    return current_ * (static_cast<double>(seen.kept) - gate_.discount * seen.distinct);
  }

  uint32_t value(uint32_t count) {
    if (count >= small) return add(count);
    if (cell_[count] == none) cell_[count] = add(count);
    return cell_[count];
  }

 private:
  static constexpr uint64_t small = 64;

  double per_count(const Seen& seen, bool opens) const {
    return openness(gate_, seen, opens) / static_cast<double>(seen.total);
  }

  uint32_t add(uint32_t count) {
    const double above = std::max(count - gate_.discount, 0.0);
    result_.mass.push_back(static_cast<float>(current_ * above));
    return static_cast<uint32_t>(result_.mass.size() - 1);
  }

  const Gate& gate_;
  Backoff& result_;
  std::vector<uint32_t> row_of_;  // by whether <s> opens the context, total, and variety
  std::vector<double> per_count_;
  std::vector<uint32_t> shared_;  // row by row, a cell for each count
  std::array<uint32_t, small> alone_{};
  uint32_t* cell_ = nullptr;
  double current_ = 0;  // the mass of an n-gram for each time it was seen
};

// What lambda / (1 - lambda) is multiplied by for the uncertainty of row i.
double of_row(const Rows& rows, size_t i) {
  const auto within = [](double value, double low, double high) {  // low for NaN
    return value > low ? std::min(value, high) : low;
  };
  const double top = std::exp(within(rows.uncertainty[2 * i], -1e3, 0));
  const double entropy = within(rows.uncertainty[2 * i + 1], 0, largest_entropy) / 4;
  const double* const by = rows.coefficients;
  return std::exp(by[0] + top * (by[1] + top * by[2]) + entropy * (by[3] + entropy * by[4]));
}

class Estimator {
 public:
  Estimator(const Counts& counts, const std::vector<Gate>& gates, const Size& size)
      : counts_(counts), gates_(gates), size_(size) {
    const std::vector<uint32_t>& words = counts.words;
    const auto bos = std::lower_bound(words.begin(), words.end(), counts.specials.bos);
    if (bos != words.end() && *bos == counts.specials.bos) {
      bos_ = static_cast<uint32_t>(bos - words.begin());
    }
  }

  Backoff run() {
    uint32_t opening = none, after = none;  // the contexts that begin with <s>
    for (size_t k = 0; k < counts_.levels.size(); ++k) {
      if (k == 1 && bos_ != none) {
        opening = bos_;
        after = bos_ + 1;
      } else if (k > 1 && opening != none) {
        const std::vector<uint32_t>& begin = counts_.levels[k - 1].begin;
        opening = begin[opening];
        after = begin[after];
      }
      estimate_level(k, opening, after);
    }
    return std::move(result_);
  }

 private:
  // How many different words were seen before each n-gram of level k, at least 1. Where some were
  // cut, each time is taken for a different one.
  std::vector<uint32_t> continuations(size_t k) const {
    const Level& above = counts_.levels[k + 1];
    std::vector<uint32_t> result(counts_.levels[k].size());
    if (counts_.pruned) {
      result = counts_.levels[k].count;
      for (size_t e = 0; e < above.size(); ++e) result[above.suffix[e]] -= above.count[e] - 1;
    } else {
      for (const uint32_t entry : above.suffix) ++result[entry];
    }
    for (uint32_t& count : result) count = std::max(count, 1U);
    return result;
  }

  void estimate_level(size_t k, uint32_t opening, uint32_t after) {
    const Level& level = counts_.levels[k];
    const size_t contexts = level.begin.size() - 1;
    const bool highest = k + 1 == counts_.levels.size();
    const std::vector<uint32_t> followed = highest ? std::vector<uint32_t>() : continuations(k);
    result_.value.emplace_back(level.size());
    uint32_t* const value = result_.value.back().data();
    if (k > 0) result_.spoken.emplace_back(contexts);
    Masses masses(gates_[k], result_);
    for (size_t i = 0; i < contexts; ++i) {
      const uint32_t begin = level.begin[i], end = level.begin[i + 1];
      const bool opens = i >= opening && i < after, whole = highest || opens;
      const uint32_t* const count = whole ? level.count.data() : followed.data();
      Seen seen;
      for (uint32_t e = begin; e < end; ++e) {
        if (k == 0 && e == bos_) continue;
        seen.kept += count[e];
        ++seen.distinct;
      }
      const uint32_t cut = counts_.pruned ? counts_.cut[k][i] : 0;
      seen.total = seen.kept + cut;
      seen.variety = uint64_t{seen.distinct} + cut;
      const auto spoken = static_cast<float>(masses.enter(seen, opens));
      if (k > 0) {
        result_.spoken.back()[i] = spoken;
      } else {
        const double total = static_cast<double>(std::max<uint64_t>(seen.total, 1));
        const double size = std::log2(total) / 8;
        result_.moved = std::exp(size_[0] + size * (size_[1] + size * size_[2]));
        result_.root_spoken = spoken;
      }
      for (uint32_t e = begin; e < end; ++e) value[e] = masses.value(count[e]);
    }
    if (k == 0 && bos_ != none) {
      value[bos_] = static_cast<uint32_t>(result_.mass.size());
      result_.mass.push_back(0);
    }
    if (k == 0) result_.words = highest ? level.count : followed;
  }

  const Counts& counts_;
  const std::vector<Gate>& gates_;
  const Size& size_;
  uint32_t bos_ = none;  // <s> as entry of level 1
  Backoff result_;
};

}  // namespace

void shift(const Places* places, const Rows* rows, size_t n, float* weights) {
  for (size_t i = 0; i < n; ++i) {
    double factor = 1;
    if (places) factor = places->factors[std::min<size_t>(places->positions[i], places->known - 1)];
    if (rows) factor *= of_row(*rows, i);
    const double lambda = weights[i], moved = lambda * factor;
    weights[i] = static_cast<float>(moved / (moved + (1 - lambda)));
  }
}

Backoff estimate(const Counts& counts, const std::vector<Gate>& gates, const Size& size) {
  return Estimator(counts, gates, size).run();
}

}  // namespace perslm
