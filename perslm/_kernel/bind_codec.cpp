#include "bindings.hpp"

namespace perslm {

void bind_codec(nanobind::module_&) {}

}  // namespace perslm
