// objects_checker: every state that a small cluster's object tables can reach, breadth first. See
// tests/checker/driver.h.
#include <vector>

#include "tests/checker/driver.h"
#include "tests/checker_objects/model.h"

namespace sheaf::objstore::checker {
namespace {

std::vector<Config> plans() {
  return {
      {.name = "hand-offs", .home = 1, .sends = 3},
      {.name = "owner-elsewhere", .home = 2, .sends = 3},
      {.name = "arguments", .home = 2, .sends = 1, .calls = 2, .keeps = 2},
      {.name = "holder-dies", .home = 1, .sends = 3, .crashes = 1},
      {.name = "holders-die", .home = 1, .sends = 3, .crashes = 2},
      {.name = "caller-dies", .home = 1, .sends = 1, .calls = 2, .keeps = 2, .crashes = 1},
      {.name = "copies", .home = 2, .maker = 3, .sends = 2, .gets = 2, .evictions = 1},
      {.name = "maker-dies", .home = 1, .maker = 3, .sends = 1, .gets = 2, .evictions = 1,
       .crashes = 1},
      {.name = "owner-dies", .home = 2, .maker = 3, .sends = 2, .gets = 1, .crashes = 1},
      {.name = "nested", .home = 2, .maker = 3, .inner_home = 1, .sends = 1, .decodes = 2},
      {.name = "nested-deaths", .home = 2, .maker = 3, .inner_home = 3, .sends = 1, .gets = 1,
       .decodes = 1, .crashes = 1},
      {.name = "broadcast", .home = 1, .maker = 1, .broadcast = true, .sends = 2, .gets = 2,
       .evictions = 1, .crashes = 1},
      {.name = "promotion", .home = 1, .maker = 3, .sends = 1, .gets = 1, .evictions = 1,
       .crashes = 1},
      {.name = "four-nodes", .nodes = 4, .home = 3, .sends = 2, .crashes = 1},
      {.name = "four-nodes-two-deaths", .nodes = 4, .home = 1, .sends = 2, .crashes = 2},
      {.name = "reports", .nodes = 4, .home = 2, .maker = 3, .sends = 1, .crashes = 1},
      {.name = "two-deaths", .home = 1, .maker = 2, .sends = 2, .gets = 1, .crashes = 2,
       .limit = 300000},
      {.name = "head-dies", .home = 1, .sends = 3, .heads = 1},
      {.name = "head-away", .home = 2, .sends = 2, .calls = 1, .heads = 1},
      {.name = "head-adopts", .home = 2, .maker = 3, .sends = 1, .gets = 1, .crashes = 1,
       .heads = 1},
  };
}

}  // namespace
}  // namespace sheaf::objstore::checker

int main(int argc, char** argv) {
  using namespace sheaf::objstore::checker;
  return sheaf::checker::check_plans<Model, Step>(argc, argv, plans(),
                                                  "NoDangling, OneOwner, NoLeak, NoHang");
}
