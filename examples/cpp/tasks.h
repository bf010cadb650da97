// The remote functions of the examples.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace examples {

using Index = std::map<std::string, std::vector<std::string>>;   // word -> files, in the order they were read

int64_t square(int64_t x);
// The index of these files.
Index map_files(const std::vector<std::string>& paths);
// One index of several; the files of a word keep the order of the parts.
Index reduce_indices(const std::vector<Index>& parts);

}  // namespace examples
