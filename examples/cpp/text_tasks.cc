// A library of C++ tasks that a Python program calls by name: see text_tools.py.
#include <sheaf/sheaf.h>

#include <sstream>

namespace text {

std::map<std::string, int64_t> count_words(const std::string& text) {
  std::map<std::string, int64_t> counts;
  std::istringstream words(text);
  for (std::string word; words >> word;) ++counts[word];
  return counts;
}


class Totals {
 public:
  void add(const std::map<std::string, int64_t>& counts) {
    for (const auto& [word, n] : counts) totals_[word] += n;
  }
  int64_t of(const std::string& word) const {
    auto found = totals_.find(word);
    if (found == totals_.end()) throw std::out_of_range("never seen: " + word);
    return found->second;
  }

 private:
  std::map<std::string, int64_t> totals_;
};

}  // namespace text

SHEAF_REMOTE(text::count_words);
SHEAF_ACTOR(text::Totals, (), add, of)
