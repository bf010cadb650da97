#include "tasks.h"

#include <sheaf/sheaf.h>

#include <cctype>
#include <fstream>
#include <set>

namespace examples {

int64_t square(int64_t x) { return x * x; }

Index map_files(const std::vector<std::string>& paths) {
  Index index;
  for (const std::string& path : paths) {
    std::ifstream in(path, std::ios::binary);
    std::set<std::string> words;
    std::string word;
    for (char c; in.get(c);) {
      auto u = static_cast<unsigned char>(c);
      if (u < 128 && (std::isalpha(u) || c == '_')) {
        word.push_back(static_cast<char>(std::tolower(u)));
        continue;
      }
      if (word.size() >= 3) words.insert(word);
      word.clear();
    }
    if (word.size() >= 3) words.insert(word);
    for (const std::string& w : words) index[w].push_back(path);
  }
  return index;
}

Index reduce_indices(const std::vector<Index>& parts) {
  Index index;
  for (const Index& part : parts) {
    for (const auto& [word, paths] : part) {
      auto& all = index[word];
      all.insert(all.end(), paths.begin(), paths.end());
    }
  }
  return index;
}

SHEAF_REMOTE(square);
SHEAF_REMOTE(map_files);

}  // namespace examples
