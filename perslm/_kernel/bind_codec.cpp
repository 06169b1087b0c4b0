// The codec as Python calls it.
#include <nanobind/stl/string.h>

#include "bindings.hpp"
#include "codec.hpp"

namespace nb = nanobind;

namespace perslm {
namespace {

nb::bytes encode_bytes(const Counts& counts) {
  std::vector<std::uint8_t> payload;
  {
    nb::gil_scoped_release release;
    payload = encode(counts);
  }
  return nb::bytes(payload.data(), payload.size());
}

Counts decode_bytes(nb::bytes payload, int order, std::uint32_t size, std::uint32_t bos,
                    std::uint32_t eos, bool pruned) {
  if (order < 1 || order > max_order) throw nb::value_error("the order is not 1 to 5");
  const auto* data = static_cast<const std::uint8_t*>(payload.data());
  const std::size_t length = payload.size();
  nb::gil_scoped_release release;
  return decode(data, length, order, {size, bos, eos}, pruned);
}

}  // namespace

void bind_codec(nb::module_& module) {
  nb::exception<BadPayload>(module, "BadPayload", PyExc_ValueError);
  module.def("encode", &encode_bytes, nb::arg("counts"));
  module.def("decode", &decode_bytes, nb::arg("payload"), nb::arg("order"), nb::arg("size"),
             nb::arg("bos"), nb::arg("eos"), nb::arg("pruned"));
}

}  // namespace perslm
