#include "bindings.hpp"

namespace perslm {

void bind_model(nanobind::module_&) {}

}  // namespace perslm
