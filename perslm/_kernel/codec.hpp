// Counts to a payload and back, as FORMAT.md specifies. Headers, sections and checksums are
// perslm/blob.py's; the stack of bits is in rans.hpp, models of numbers in numbers.hpp.
#pragma once

#include <cstdint>
#include <vector>

#include "levels.hpp"
#include "rans.hpp"

namespace perslm {

// The payload of `counts`; the same counts give the same bytes. Throws std::invalid_argument if
// they are none that sequences can have.
std::vector<std::uint8_t> encode(const Counts& counts);

// What `encode` made a payload of. Throws BadPayload, whatever else the bytes are; takes time and
// memory in proportion to their number.
Counts decode(const std::uint8_t* data, std::size_t size, int order, Specials specials,
              bool pruned);

}  // namespace perslm
