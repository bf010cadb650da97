// The smallest C++ driver: a remote function, an actor, a cluster that lives as long as the program.
//
// Its own functions are the tasks, so workers run this program again, up to init(): call that first in main().
#include <sheaf/sheaf.h>

#include <cstdio>
#include <vector>

int square(int x) { return x * x; }
SHEAF_REMOTE(square);

class Counter {
 public:
  explicit Counter(int start) : value_(start) {}
  int add(int amount) { return value_ += amount; }

 private:
  int value_;
};
SHEAF_ACTOR(Counter, (int), add)

int main() {
  sheaf::init();
  std::vector<sheaf::ObjectRef<int>> refs;
  for (int i = 0; i < 4; ++i) refs.push_back(sheaf::task(square).remote(i));
  for (int value : sheaf::get(refs)) std::printf("%d ", value);   // 0 1 4 9
  auto counter = sheaf::actor<Counter>().remote(10);
  auto total = counter.task(&Counter::add).remote(refs[3]);       // a reference where an int is expected
  std::printf("%d\n", sheaf::get(total));                         // 19
  sheaf::shutdown();
}
