// Counts as a Python object, opaque but for its way to numpy arrays and back; counting.
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <optional>
#include <utility>

#include "bindings.hpp"
#include "check.hpp"
#include "count.hpp"

namespace nb = nanobind;

namespace perslm {
namespace {

template <class T, std::size_t dimensions = 1>
using In = nb::ndarray<const T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;

template <class T>
using Out = nb::ndarray<nb::numpy, T>;

template <class Array>
Array as(nb::handle array) {
  Array result;
  if (!nb::try_cast(array, result, false))
    throw nb::type_error("an array is not C-contiguous or has another dtype or shape");
  return result;
}

std::uint32_t narrow(std::int64_t value) {
  if (value < 0 || value > 0xFFFFFFFF) throw nb::value_error("a count does not fit in 32 bits");
  return static_cast<std::uint32_t>(value);
}

std::vector<std::uint32_t> narrow(const In<std::int64_t>& values) {
  std::vector<std::uint32_t> result(values.size());
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = narrow(values.data()[i]);
  return result;
}

std::vector<std::uint32_t> copy(const In<std::uint32_t>& values) {
  return {values.data(), values.data() + values.size()};
}

// begin[i]: how many of the ascending `context` are below i.
std::vector<std::uint32_t> begins(const In<std::uint32_t>& context, std::size_t contexts) {
  std::vector<std::uint32_t> begin(contexts + 1);
  for (std::size_t i = 0; i < context.size(); ++i) {
    const std::uint32_t at = context.data()[i];
    if (at >= contexts) throw nb::value_error("a context is not in the level below");
    if (i > 0 && at < context.data()[i - 1]) throw nb::value_error("contexts are not ascending");
    ++begin[at + 1];
  }
  for (std::size_t i = 0; i < contexts; ++i) begin[i + 1] += begin[i];
  return begin;
}

void add_level(Counts& counts, nb::handle arrays) {
  if (nb::len(arrays) != 4)
    throw nb::value_error("a level is the arrays context, word, suffix and count");
  const auto context = as<In<std::uint32_t>>(arrays[0]);
  const auto word = as<In<std::uint32_t>>(arrays[1]);
  const auto suffix = as<In<std::uint32_t>>(arrays[2]);
  const auto count = as<In<std::int64_t>>(arrays[3]);
  const std::size_t n = word.size();
  if (n > 0xFFFFFFFF || context.size() != n || suffix.size() != n || count.size() != n)
    throw nb::value_error("the arrays of a level differ in length");
  const Level* below = counts.levels.empty() ? nullptr : &counts.levels.back();
  Level level;
  level.begin = begins(context, below == nullptr ? 1 : below->size());
  level.suffix = copy(suffix);
  level.count = narrow(count);
  level.label.resize(n);
  if (below == nullptr) counts.words = copy(word);
  for (std::uint32_t i = 0; i < n; ++i) {
    if (below == nullptr) {
      level.label[i] = i;
    } else {
      if (suffix.data()[i] >= below->size())
        throw nb::value_error("a suffix is not in the level below");
      level.label[i] = below->label[suffix.data()[i]];
      if (counts.words[level.label[i]] != word.data()[i])
        throw nb::value_error("a suffix ends in another word than its n-gram");
    }
  }
  counts.levels.push_back(std::move(level));
}

Counts from_arrays(std::uint32_t size, std::uint32_t bos, std::uint32_t eos, nb::handle levels,
                   std::optional<nb::handle> cut, std::optional<nb::handle> whole) {
  Counts counts;
  counts.specials = {size, bos, eos};
  if (nb::len(levels) > max_order) throw nb::value_error("the order is not 1 to 5");
  for (nb::handle level : levels) add_level(counts, level);
  if (cut.has_value() != whole.has_value())
    throw nb::value_error("pruned counts have both cut and whole, others neither");
  if (cut) {
    counts.pruned = true;
    for (nb::handle masses : *cut) counts.cut.push_back(narrow(as<In<std::int64_t>>(masses)));
    const auto table = as<In<std::int64_t, 2>>(*whole);
    if (table.shape(1) != bins + 1) throw nb::value_error("whole is int64[order, 6]");
    for (std::size_t k = 0; k < table.shape(0); ++k) {
      auto& row = counts.whole.emplace_back();
      for (std::size_t r = 0; r < row.size(); ++r) row[r] = narrow(table(k, r));
    }
  }
  check(counts);
  return counts;
}

template <class T>
nb::object to_numpy(std::vector<T> values, std::initializer_list<std::size_t> shape) {
  auto* kept = new std::vector<T>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::cast(Out<T>(kept->data(), shape, owner));
}

template <class T>
nb::object to_numpy(std::vector<T> values) {
  const std::size_t n = values.size();
  return to_numpy(std::move(values), {n});
}

std::vector<std::int64_t> widen(const std::vector<std::uint32_t>& values) {
  return {values.begin(), values.end()};
}

nb::tuple to_arrays(const Counts& counts, const Level& level) {
  std::vector<std::uint32_t> context(level.size()), word(level.size());
  for (std::uint32_t c = 0; c + 1 < level.begin.size(); ++c)
    for (std::uint32_t i = level.begin[c]; i < level.begin[c + 1]; ++i) context[i] = c;
  for (std::size_t i = 0; i < word.size(); ++i) word[i] = counts.words[level.label[i]];
  return nb::make_tuple(to_numpy(std::move(context)), to_numpy(std::move(word)),
                        to_numpy(level.suffix), to_numpy(widen(level.count)));
}

nb::tuple arrays(const Counts& counts) {
  nb::list levels;
  for (const Level& level : counts.levels) levels.append(to_arrays(counts, level));
  if (!counts.pruned) return nb::make_tuple(levels, nb::none(), nb::none());
  nb::list cut;
  for (const auto& masses : counts.cut) cut.append(to_numpy(widen(masses)));
  std::vector<std::int64_t> whole;
  for (const auto& row : counts.whole) whole.insert(whole.end(), row.begin(), row.end());
  return nb::make_tuple(levels, cut,
                        to_numpy(std::move(whole), {counts.whole.size(), std::size_t{bins + 1}}));
}

nb::tuple ngrams(const Counts& counts) {
  nb::list result;
  for (const Level& level : counts.levels) result.append(level.size());
  // the context <s> is not an n-gram; it is the only entry with a count of 0
  std::size_t words = 0;
  for (const std::uint32_t count : counts.levels.front().count) words += count > 0;
  result[0] = words;
  return nb::tuple(result);
}

std::uint64_t tokens(const Counts& counts) {
  std::uint64_t sum = 0;
  for (const std::uint32_t count : counts.levels.front().count) sum += count;
  return sum;
}

Counts count_text(const In<std::uint32_t>& tokens, const In<std::int64_t>& begins, int order,
                  std::uint32_t size, std::uint32_t bos, std::uint32_t eos) {
  const nb::gil_scoped_release released;
  const Text text{tokens.data(), tokens.size(), begins.data(), begins.size()};
  return count(text, order, {size, bos, eos});
}

}  // namespace

void bind_counts(nb::module_& module) {
  nb::class_<Counts>(module, "Counts")
      .def_static("from_arrays", &from_arrays, nb::arg("size"), nb::arg("bos"), nb::arg("eos"),
                  nb::arg("levels"), nb::arg("cut").none(), nb::arg("whole").none())
      .def("arrays", &arrays)
      .def_prop_ro("order", &Counts::order)
      .def_prop_ro("ngrams", &ngrams)
      .def_prop_ro("tokens", &tokens)
      .def_prop_ro("specials", [](const Counts& counts) {
        const Specials& specials = counts.specials;
        return nb::make_tuple(specials.size, specials.bos, specials.eos);
      });
  module.def("count", &count_text, nb::arg("tokens").noconvert(), nb::arg("begins").noconvert(),
             nb::arg("order"), nb::arg("size"), nb::arg("bos"), nb::arg("eos"));
}

}  // namespace perslm
