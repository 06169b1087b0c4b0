// Requests to score candidates, and the answers to them, as Python calls them.
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>

#include "backoff.hpp"
#include "bindings.hpp"
#include "buffers.hpp"
#include "model.hpp"
#include "query.hpp"

namespace nb = nanobind;

namespace perslm {
namespace {

using std::size_t;
using std::uint32_t;

// Scores that take longer than to hand the GIL over and get it back.
constexpr size_t worth_releasing = 1 << 13;

struct Request {
  nb::object user, vocabulary;
  Query query;
};

nb::object text(std::string_view utf8) {
  PyObject* const decoded =
      PyUnicode_DecodeUTF8(utf8.data(), static_cast<Py_ssize_t>(utf8.size()), nullptr);
  if (decoded == nullptr) PyErr_Clear();
  return nb::steal(decoded);
}

template <class Read>
nb::object request(Read read, nb::bytes body, size_t max_histories) {
  Request found;
  if (!read(static_cast<const std::uint8_t*>(body.data()), body.size(), max_histories,
            found.query)) {
    return nb::none();
  }
  found.user = text(found.query.user);
  found.vocabulary = text(found.query.vocabulary);
  if (!found.user.is_valid() || !found.vocabulary.is_valid()) return nb::none();
  found.query.user = found.query.vocabulary = {};
  return nb::cast(std::move(found));
}

// The float32 arrays λ [n] and ln p [n, k] behind what a format writes before each of them.
// Without a weight, λ is the model's own, by state, which factors, if any, move to positions.
nb::bytes answer(const Request& request, const Model& model, std::optional<float> weight,
                 nb::handle factors, nb::bytes before, nb::bytes between) {
  const Query& query = request.query;
  std::optional<Array<const double>> by;
  if (!factors.is_none() && !query.positions.empty()) {
    by.emplace(factors, "factors");
    if (by->size() == 0) by->refuse(" is empty");
  }
  const size_t values = query.n * query.k, weights_size = query.n * sizeof(float);
  const size_t size = before.size() + weights_size + between.size() + values * sizeof(float);
  PyObject* const made = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size));
  if (made == nullptr) throw nb::python_error();
  const nb::bytes answered = nb::steal<nb::bytes>(made);
  char* at = PyBytes_AS_STRING(made);  // which nobody else has seen yet
  const auto append = [&at](const void* bytes, size_t n) {
    std::memcpy(at, bytes, n);
    at += n;
  };
  append(before.data(), before.size());
  char* const weights = at;
  at += weights_size;
  append(between.data(), between.size());
  {
    std::optional<nb::gil_scoped_release> released;
    if (values > worth_releasing) released.emplace();
    const std::unique_ptr<uint32_t[]> states(new uint32_t[query.n + values]);
    const std::unique_ptr<float[]> logprobs(new float[query.n + values]);
    uint32_t* const next = states.get() + query.n;
    model.states({query.ids.data(), query.ids.size(), TokenIds::uint32}, query.begins.data(),
                 query.n, states.get());
    model.score(states.get(), query.n, {query.candidates.data(), values, TokenIds::uint32},
                logprobs.get(), next);
    append(logprobs.get(), values * sizeof(float));
    float* const weight_of = logprobs.get() + values;
    if (weight) {
      std::fill_n(weight_of, query.n, *weight);
    } else {
      model.weights(states.get(), query.n, weight_of);
      if (by) {
        const Places places{query.positions.data(), by->data(), by->size()};
        shift(&places, nullptr, query.n, weight_of);
      }
    }
    std::memcpy(weights, weight_of, weights_size);
  }
  return answered;
}

}  // namespace

void bind_query(nb::module_& module) {
  nb::class_<Request>(module, "Query")
      .def_static("from_msgpack",
                  [](nb::bytes body, size_t most) { return request(read_msgpack, body, most); })
      .def_static("from_protobuf",
                  [](nb::bytes body, size_t most) { return request(read_protobuf, body, most); })
      .def_ro("user", &Request::user)
      .def_ro("vocabulary", &Request::vocabulary)
      .def_prop_ro("n", [](const Request& request) { return request.query.n; })
      .def_prop_ro("k", [](const Request& request) { return request.query.k; })
      .def_prop_ro("timeout_ms", [](const Request& request) { return request.query.timeout_ms; })
      .def("answer", &answer, nb::arg("model"), nb::arg("weight").none(), nb::arg("factors").none(),
           nb::arg("before"), nb::arg("between"));
}

}  // namespace perslm
