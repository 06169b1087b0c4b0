// Each part of the kernel binds itself to Python in a file of its own.
#pragma once

#include <nanobind/nanobind.h>

namespace perslm {

void bind_counts(nanobind::module_& module);  // bind_counts.cpp
void bind_codec(nanobind::module_& module);   // bind_codec.cpp
void bind_model(nanobind::module_& module);   // bind_model.cpp
void bind_query(nanobind::module_& module);   // bind_query.cpp

}  // namespace perslm
