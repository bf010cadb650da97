// The defect that a run has chosen, in programs built from altered sources (SheafMutants.cmake).
// main() sets it before any machine runs; none of these programs has a second thread.
#pragma once

#include <string_view>

namespace sheaf::sim {

inline std::string_view chosen_defect;

inline bool is_chosen(std::string_view defect) { return defect == chosen_defect; }

}  // namespace sheaf::sim

#define SHEAF_DEFECT(name) (::sheaf::sim::is_chosen(name))
