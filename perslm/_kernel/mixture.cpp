#include "mixture.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

// Compiled several times over, for wider vectors; the loader picks what the processor has. The
// results are the same to the bit: no operation depends on the width, and none is fused.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && \
    (!defined(__clang__) || __clang_major__ >= 14) && !defined(__SANITIZE_ADDRESS__)
#define PERSLM_WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define PERSLM_WIDE
#endif

#if defined(__GNUC__) && !defined(__clang__)
#define PERSLM_UNROLL _Pragma("GCC unroll 8")
#else
#define PERSLM_UNROLL
#endif

namespace perslm {
namespace {

using std::size_t;
using std::uint32_t;

constexpr size_t block = 8192;  // columns: what was just shifted is still near when it is patched
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float negligible = -87;
constexpr size_t lanes = 32;  // sums side by side: their order does not depend on the vectors

// e^d for d <= 0, to 1e-7 relative; 0 from -87 down (and for NaN).
inline float exp_negative(float d) {
  constexpr float magic = 12582912.0F;  // 1.5 * 2^23: adding it leaves the nearest integer
  const float shifted = d * 1.44269504F + magic;
  const float n = shifted - magic;
  const float r = (d - n * 0.693359375F) - n * -2.12194440e-4F;  // d - n ln 2
  const float rr = r * r;
  const float q = (5.000000014e-1F + 1.666657682e-1F * r) +
                  rr * ((4.166646457e-2F + 8.363205468e-3F * r) + rr * 1.393368836e-3F);
  const float p = (1.0F + r) + rr * q;
  uint32_t exponent, bits;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  std::memcpy(&bits, &p, sizeof bits);
  bits += exponent << 23;  // p * 2^n: the low bits of `shifted` are those of n
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return d > negligible ? result : 0.0F;
}

// ln(1 + t) for 0 <= t <= 1, to 1.3e-7: twice the inverse hyperbolic tangent of t / (2 + t).
inline float log1p_unit(float t) {
  const float s = t / (2.0F + t);
  const float y = s * s, yy = y * y;
  return (s + s) * ((1.0F + 3.333315797e-1F * y) +
                    yy * ((2.001242686e-1F + 1.398070942e-1F * y) + yy * 1.408732864e-1F));
}

PERSLM_WIDE void shift(const float* from, size_t n, float by, float* to) {
  if (from == to) {  // not every compiler knows that this is no obstacle to vectors
    for (size_t i = 0; i < n; ++i) to[i] += by;
  } else {
    for (size_t i = 0; i < n; ++i) to[i] = from[i] + by;
  }
}

// values[i] = ln(e^values[i] + e^(personal[i] + log_weight))
PERSLM_WIDE void add_personal(float* values, const float* personal, size_t n, float log_weight) {
  for (size_t i = 0; i < n; ++i) {
    const float a = values[i], b = personal[i] + log_weight;
    const float high = a < b ? b : a, low = a < b ? a : b;  // a NaN in `values` stays one
    const float rest = log1p_unit(exp_negative(low - high));
    values[i] = high + rest;
  }
}

// The greatest value, and the sum of e^v * v, of every column that is i modulo `lanes`.
PERSLM_WIDE void sum_up(const float* row, size_t blocks, float* top, float* sum) {
  for (size_t begin = 0; begin < blocks * lanes; begin += lanes) {
    for (size_t i = 0; i < lanes; ++i) {
      const float given = row[begin + i];
      const float above = given > negligible ? given : negligible;
      const float v = above < 0.0F ? above : 0.0F;
      top[i] = top[i] < v ? v : top[i];
      sum[i] += exp_negative(v) * v;
    }
  }
}

void patch(float* row, const uint32_t* ids, const float* personal, size_t n, float log_weight) {
  std::array<float, block> values;
  for (size_t done = 0; done < n; done += block) {
    const size_t m = std::min(block, n - done);
    PERSLM_UNROLL
    for (size_t i = 0; i < m; ++i) values[i] = row[ids[done + i]];
    add_personal(values.data(), personal + done, m, log_weight);
    PERSLM_UNROLL
    for (size_t i = 0; i < m; ++i) row[ids[done + i]] = values[i];
  }
}

}  // namespace

bool ascends(const uint32_t* ids, size_t n) {
  bool result = true;
  for (size_t i = 1; i < n; ++i) result &= ids[i - 1] < ids[i];
  return result;
}

Uncertainty uncertainty(const float* row, size_t width) {
  std::array<float, lanes> top, sum{}, rest;
  top.fill(negligible);
  rest.fill(negligible);
  const size_t blocks = width / lanes;
  sum_up(row, blocks, top.data(), sum.data());
  std::copy(row + blocks * lanes, row + width, rest.begin());
  sum_up(rest.data(), 1, top.data(), sum.data());
  return {*std::max_element(top.begin(), top.end()),
          -std::accumulate(sum.begin(), sum.end(), 0.0F)};
}

void mix_row(const float* global, size_t width, float weight, Columns columns,
             const float* personal, float* out) {
  if (!(weight > 0)) {
    if (out != global) std::copy_n(global, width, out);
    return;
  }
  const float log_weight = std::log(weight);
  const float log_rest = weight < 1 ? std::log1p(-weight) : -infinity;
  const size_t step = columns.ascending ? block : std::max<size_t>(width, 1);
  const uint32_t* next = columns.ids;
  const uint32_t* const end = columns.ids + columns.size;
  for (size_t begin = 0; begin < width; begin += step) {
    const size_t stop = std::min(width, begin + step);
    shift(global + begin, stop - begin, log_rest, out + begin);
    const uint32_t* last = stop == width ? end : std::lower_bound(next, end, stop);
    patch(out, next, personal + (next - columns.ids), static_cast<size_t>(last - next), log_weight);
    next = last;
  }
}

}  // namespace perslm
