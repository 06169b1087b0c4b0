// Requests to score candidates, and the answers to them, as Python calls them.
#include <optional>

#include "bindings.hpp"
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

// Bytes to be written to before anybody else sees them.
nb::bytes room(size_t size) {
  PyObject* const made = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size));
  if (made == nullptr) throw nb::python_error();
  return nb::steal<nb::bytes>(made);
}

template <class T>
T* numbers(const nb::bytes& bytes) {
  return reinterpret_cast<T*>(PyBytes_AS_STRING(bytes.ptr()));
}

nb::tuple answer(const Request& request, const Model& model) {
  const Query& query = request.query;
  const size_t values = query.n * query.k;
  const nb::bytes states = room(query.n * sizeof(uint32_t));
  const nb::bytes logprobs = room(values * sizeof(float));
  {
    std::optional<nb::gil_scoped_release> released;
    if (values > worth_releasing) released.emplace();
    const std::unique_ptr<uint32_t[]> next(new uint32_t[values]);
    model.states({query.ids.data(), query.ids.size(), TokenIds::uint32}, query.begins.data(),
                 query.n, numbers<uint32_t>(states));
    model.score(numbers<uint32_t>(states), query.n,
                {query.candidates.data(), values, TokenIds::uint32}, numbers<float>(logprobs),
                next.get());
  }
  return nb::make_tuple(states, logprobs);
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
      .def("answer", &answer);
}

}  // namespace perslm
