// The model as a Python object. It takes arrays as they are, of exactly the right dtype and shape,
// and fills those that it is given: perslm/model.py makes them.
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>

#include "bindings.hpp"
#include "buffers.hpp"
#include "mixture.hpp"
#include "model.hpp"

namespace nb = nanobind;

namespace perslm {
namespace {

using std::size_t;
using std::uint32_t;
using Ids = Copy<uint32_t>;
using Floats = Array<const float>;

void require(bool ok, const char* what) {
  if (!ok) throw nb::type_error(what);
}

TokenIds token_ids(const Buffer& ids) {
  if (ids.holds<std::int64_t>()) return {ids.data(), ids.size(), TokenIds::int64};
  if (ids.holds<uint32_t>()) return {ids.data(), ids.size(), TokenIds::uint32};
  if (ids.holds<std::int32_t>()) return {ids.data(), ids.size(), TokenIds::int32};
  ids.refuse(" has another dtype");
}

nb::tuple by_order(const std::vector<std::uint64_t>& values) {
  nb::list result;
  for (const auto value : values) result.append(value);
  return nb::tuple(result);
}

nb::tuple fell_back(const Model& model) {
  return by_order({model.fell_back().begin(), model.fell_back().end()});
}

void events(const Model& model, nb::handle out) {
  const Array<uint32_t> to(out, "out");
  require(to.size() == model.events().size(), "out needs a place for each event");
  std::copy(model.events().begin(), model.events().end(), to.data());
}

// A row for each order: the gate's coefficients, then the discount.
std::vector<Gate> gates(nb::handle rows) {
  const Array<const double> array(rows, "gates", 2);
  constexpr size_t width = gate_features + 1;
  require(array.shape(1) == width, "gates needs a column for each feature, and the discount");
  std::vector<Gate> result(array.shape(0));
  for (size_t k = 0; k < result.size(); ++k) {
    const double* const row = array.data() + k * width;
    std::copy_n(row, gate_features, result[k].coefficient.begin());
    result[k].discount = row[gate_features];
  }
  return result;
}

Size size_of(nb::handle numbers) {
  const Array<const double> array(numbers, "size");
  Size result;
  require(array.size() == result.size(), "size needs three numbers");
  std::copy_n(array.data(), result.size(), result.begin());
  return result;
}

// A page for each order, of buckets of counts by buckets of masses.
WeightTable weight_table(const Counts& counts, nb::handle pages) {
  const Array<const std::uint8_t> array(pages, "weights", 3);
  require(array.shape(0) == counts.levels.size() && array.shape(1) > 0 && array.shape(2) > 0,
          "weights needs a page for each order");
  return {{array.data(), array.data() + array.size()}, array.shape(1), array.shape(2)};
}

// Flat arrays of all levels, cut up by their sizes.
Smoothed smoothed(const Counts& counts, nb::handle logprobs, nb::handle values,
                  nb::handle log_backoffs, nb::handle weights, std::vector<int> fell_back) {
  const Floats logprob(logprobs, "logprobs"), log_backoff(log_backoffs, "log_backoffs");
  const Array<const uint32_t> value(values, "values");
  const Array<const std::uint8_t> weight(weights, "weights");
  size_t entries = 0;
  for (const Level& level : counts.levels) entries += level.size();
  const size_t contexts = entries - counts.levels.back().size();
  require(value.size() == entries, "values needs one for each n-gram");
  require(log_backoff.size() == contexts, "log_backoffs needs one for each context");
  require(weight.size() == 0 || weight.size() == contexts + 1, "weights needs one for each state");
  Smoothed result{{logprob.data(), logprob.data() + logprob.size()},
                  {},
                  {log_backoff.data(), log_backoff.data() + contexts},
                  {weight.data(), weight.data() + weight.size()},
                  std::move(fell_back)};
  const uint32_t* begin = value.data();
  for (const Level& level : counts.levels) {
    result.value.emplace_back(begin, begin + level.size());
    begin += level.size();
    for (const uint32_t at : result.value.back()) {
      require(at < logprob.size(), "a value is none of logprobs");
    }
  }
  require(std::is_sorted(result.logprob.begin(), result.logprob.end()), "logprobs must ascend");
  return result;
}

void check(const Model& model, nb::handle states) {
  const Ids given(states, "states");
  const nb::gil_scoped_release released;
  model.check(given.data(), given.size());
}

void states(const Model& model, nb::handle ids, nb::handle begins, nb::handle out) {
  const Buffer flat(ids, "ids", 1, false);
  const Copy<std::int64_t> begin(begins, "begins");
  const Array<uint32_t> to(out, "out");
  require(begin.size() == to.size() + 1, "begins needs one more than there are histories");
  const TokenIds tokens = token_ids(flat);
  const nb::gil_scoped_release released;
  model.states(tokens, begin.data(), to.size(), to.data());
}

nb::tuple step(const Model& model, uint32_t state, std::int64_t id) {
  if (id < 0) throw ArgumentError("a token id is negative");
  const auto known = static_cast<uint32_t>(id > UINT32_MAX ? UINT32_MAX : id);
  const Step result = model.step(state, known);
  return nb::make_tuple(result.logprob, result.next);
}

void weights(const Model& model, nb::handle states, nb::handle out) {
  const Ids from(states, "states");
  const Array<float> to(out, "out");
  require(to.size() == from.size(), "out needs a place for each state");
  const nb::gil_scoped_release released;
  model.weights(from.data(), from.size(), to.data());
}

void score(const Model& model, nb::handle states, nb::handle candidates, nb::handle logprobs,
           nb::handle next) {
  const Ids from(states, "states");
  const Buffer ids(candidates, "candidates", 2, false);
  const Array<float> to(logprobs, "logprobs", 2);
  const Array<uint32_t> behind(next, "next", 2);
  require(ids.shape(0) == from.size(), "candidates needs a row for each state");
  require(to.shape(0) == ids.shape(0) && to.shape(1) == ids.shape(1) &&
              behind.shape(0) == ids.shape(0) && behind.shape(1) == ids.shape(1),
          "logprobs and next need the shape of candidates");
  const TokenIds tokens = token_ids(ids);
  const nb::gil_scoped_release released;
  model.score(from.data(), from.size(), tokens, to.data(), behind.data());
}

void event_logprobs(const Model& model, nb::handle states, nb::handle out) {
  const Ids from(states, "states");
  const Array<float> to(out, "out", 2);
  require(to.shape(0) == from.size() && to.shape(1) == model.events().size(),
          "out needs a row for each state and a column for each event");
  const nb::gil_scoped_release released;
  model.event_logprobs(from.data(), from.size(), to.data());
}

void distribution(const Model& model, nb::handle states, nb::handle out) {
  const Ids from(states, "states");
  const Array<float> to(out, "out", 2);
  require(to.shape(0) == from.size() && to.shape(1) == model.vocabulary_size(),
          "out needs a row for each state and a column for each id");
  const nb::gil_scoped_release released;
  model.distribution(from.data(), from.size(), to.data());
}

void continuations(const Model& model, nb::handle states, nb::handle ids, nb::handle logprobs) {
  const Ids from(states, "states");
  const Array<uint32_t> words(ids, "ids", 2);
  const Array<float> to(logprobs, "logprobs", 2);
  require(words.shape(0) == from.size() && to.shape(0) == from.size() &&
              to.shape(1) == words.shape(1) && words.shape(1) <= model.events().size(),
          "ids and logprobs need a row for each state and at most a column for each event");
  const nb::gil_scoped_release released;
  model.continuations(from.data(), from.size(), words.shape(1), words.data(), to.data());
}

void mix(const Model& model, nb::handle states, nb::handle weights, nb::handle global,
         nb::handle out) {
  const Ids from(states, "states");
  const Floats weight(weights, "weights"), rows(global, "global_logprobs", 2);
  const Array<float> to(out, "out", 2);
  require(weight.size() == from.size() && rows.shape(0) == from.size() &&
              rows.shape(1) >= model.vocabulary_size(),
          "global_logprobs needs a row for each state and a column for each id");
  require(to.shape(0) == rows.shape(0) && to.shape(1) == rows.shape(1),
          "out needs the shape of global_logprobs");
  const nb::gil_scoped_release released;
  model.mix(from.data(), from.size(), weight.data(), rows.data(), rows.shape(1), to.data());
}

void uncertainties(nb::handle global, nb::handle out) {
  const Floats rows(global, "global_logprobs", 2);
  const Array<float> to(out, "out", 2);
  require(to.shape(0) == rows.shape(0) && to.shape(1) == 2, "out needs two columns");
  const size_t width = rows.shape(1);
  const nb::gil_scoped_release released;
  for (size_t i = 0; i < rows.shape(0); ++i) {
    const Uncertainty found = uncertainty(rows.data() + i * width, width);
    to.data()[2 * i] = found.top;
    to.data()[2 * i + 1] = found.entropy;
  }
}

// Moves weights where they are; `positions` and `uncertainty` are None if not known.
void shift_weights(nb::handle weights, nb::handle positions, nb::handle factors,
                   nb::handle uncertainty, nb::handle coefficients) {
  const Array<float> to(weights, "weights");
  const size_t n = to.size();
  std::optional<Ids> place;
  std::optional<Array<const double>> factor, by;
  std::optional<Array<const float>> row;
  std::optional<Places> places;
  std::optional<Rows> rows;
  if (!positions.is_none()) {
    place.emplace(positions, "positions");
    factor.emplace(factors, "factors");
    require(place->size() == n && factor->size() > 0, "positions needs one for each weight");
    places = Places{place->data(), factor->data(), factor->size()};
  }
  if (!uncertainty.is_none()) {
    row.emplace(uncertainty, "uncertainty", 2);
    by.emplace(coefficients, "coefficients");
    require(row->shape(0) == n && row->shape(1) == 2 && by->size() == row_features,
            "uncertainty needs two numbers for each weight");
    rows = Rows{row->data(), by->data()};
  }
  shift(places ? &*places : nullptr, rows ? &*rows : nullptr, n, to.data());
}

void mix_columns(nb::handle global, nb::handle weights, nb::handle columns, nb::handle personal,
                 nb::handle out) {
  const Floats rows(global, "global_logprobs", 2), weight(weights, "weights");
  const Floats known(personal, "personal_logprobs", 2);
  const Ids ids(columns, "columns");
  const Array<float> to(out, "out", 2);
  const size_t n = weight.size(), width = rows.shape(1);
  require(rows.shape(0) == n && known.shape(0) == n && known.shape(1) == ids.size(),
          "there must be a row for each weight, and a personal log-probability for each column");
  require(to.shape(0) == n && to.shape(1) == width, "out needs the shape of global_logprobs");
  const nb::gil_scoped_release released;
  const Columns where{ids.data(), ids.size(), ascends(ids.data(), ids.size())};
  for (size_t i = 0; i < where.size; ++i) {
    if (where.ids[i] >= width) throw ArgumentError("a column is not in the rows");
  }
  for (size_t i = 0; i < n; ++i) {
    mix_row(rows.data() + i * width, width, weight.data()[i], where, known.data() + i * where.size,
            to.data() + i * width);
  }
}

}  // namespace

void bind_model(nb::module_& module) {
  // what a model cannot take is an error of perslm's, not of the interpreter's
  static PyObject* const argument_error =
      nb::object(nb::module_::import_("perslm.errors").attr("ArgumentError")).release().ptr();
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const ArgumentError& error) {
      PyErr_SetString(argument_error, error.what());
    }
  });
  nb::class_<Model>(module, "Model")
      .def(nb::new_([](const Counts& counts) {
             const nb::gil_scoped_release released;
             return Model::compile(counts);
           }),
           nb::arg("counts"))
      .def(nb::new_([](const Counts& counts, nb::handle rows, nb::handle numbers) {
             const std::vector<Gate> by_order = gates(rows);
             const Size size = size_of(numbers);
             const nb::gil_scoped_release released;
             return Model::compile(counts, by_order, size);
           }),
           nb::arg("counts"), nb::arg("gates"), nb::arg("size"))
      .def_static(
          "weighted",
          [](const Counts& counts, nb::handle weights) {
            const WeightTable table = weight_table(counts, weights);
            const nb::gil_scoped_release released;
            return Model::compile(counts, &table);
          },
          nb::arg("counts"), nb::arg("weights"))
      .def_static(
          "smoothed",
          [](const Counts& counts, nb::handle logprobs, nb::handle values, nb::handle log_backoffs,
             nb::handle weights, std::vector<int> fell_back) {
            Smoothed model =
                smoothed(counts, logprobs, values, log_backoffs, weights, std::move(fell_back));
            const nb::gil_scoped_release released;
            return Model::compile(counts, std::move(model));
          },
          nb::arg("counts"), nb::arg("logprobs"), nb::arg("values"), nb::arg("log_backoffs"),
          nb::arg("weights"), nb::arg("fell_back"))
      .def_prop_ro("order", &Model::order)
      .def_prop_ro("start", &Model::start)
      .def_prop_ro("tokens", &Model::tokens)
      .def_prop_ro("vocabulary_size", &Model::vocabulary_size)
      .def_prop_ro("ngrams", [](const Model& model) { return by_order(model.ngrams()); })
      .def_prop_ro("fell_back", &fell_back)
      .def_prop_ro("nbytes", &Model::bytes)
      .def_prop_ro("event_count", [](const Model& model) { return model.events().size(); })
      .def("events", &events)
      .def("check", &check)
      .def("context_length", &Model::context_length)
      .def("states", &states)
      .def("weights", &weights)
      .def("step", &step)
      .def("score", &score)
      .def("event_logprobs", &event_logprobs)
      .def("distribution", &distribution)
      .def("continuations", &continuations)
      .def("mix", &mix);
  module.def("mix_columns", &mix_columns);
  module.def("uncertainty", &uncertainties);
  module.def("shift", &shift_weights, nb::arg("weights"), nb::arg("positions").none(),
             nb::arg("factors"), nb::arg("uncertainty").none(), nb::arg("coefficients"));
}

}  // namespace perslm
