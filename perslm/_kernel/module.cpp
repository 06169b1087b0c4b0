// The extension module perslm._kernel._native, put together.
#include "bindings.hpp"

NB_MODULE(_native, module) {
  module.doc() = "The kernel of perslm; import it through perslm._backend.";
  perslm::bind_counts(module);
  perslm::bind_codec(module);
  perslm::bind_model(module);
  perslm::bind_query(module);
}
