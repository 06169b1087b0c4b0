// A request to score candidates, read from the bytes that a caller sent.
//
// Only plain requests are read: all that is needed is there, once, in the form that perslm.Client
// writes, and nothing else. Of anything else it is only told that it is not plain: the readers of
// service/codec.py and service/grpc.py take everything that is allowed, and say what is wrong with
// the rest. What is read here is to the id what they read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "levels.hpp"

namespace perslm {

struct Query {
  std::string_view user, vocabulary;  // in the bytes that were read; whether UTF-8 is not checked
  std::size_t n = 0, k = 0;           // both above 0
  std::vector<std::uint32_t> ids;     // the ends of the histories, which alone can matter
  std::vector<std::int64_t> begins;   // [n + 1]: where each begins in ids
  std::vector<std::uint32_t> candidates;  // [n, k]
  std::vector<std::uint32_t> positions;   // [n] or, if the request has none, empty
  std::int64_t timeout_ms = -1;           // none
};

// Both tell whether it is a plain request of at most max_histories.
bool read_msgpack(const std::uint8_t* data, std::size_t size, std::size_t max_histories,
                  Query& query);
bool read_protobuf(const std::uint8_t* data, std::size_t size, std::size_t max_histories,
                   Query& query);

}  // namespace perslm
