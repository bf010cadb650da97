// Task Bench on Sheaf's C++ tasks: the driver unfolds the graph, references carry the dependencies.
#include <stdexcept>
#include <thread>
#include <vector>

#include "perf/taskbench_serve.h"
#include "runtime/sheaf.h"

namespace taskbench {

// Which point a task is, and how long it computes.
struct Point {
  int32_t pattern = 0;
  int64_t width = 0, step = 0, point = 0, iterations = 0;
  template <class A>
  void fields(A& a) { a(pattern, width, step, point, iterations); }
};

Output run_point(const Point& p, std::initializer_list<const Output*> inputs) {
  Shape shape{static_cast<Pattern>(p.pattern), p.width, p.step + 1};
  if (!inputs_are_right(shape, p.step, p.point, inputs.begin(), static_cast<int>(inputs.size()))) {
    throw std::runtime_error("a task found wrong inputs");
  }
  return {p.step, p.point, compute(p.iterations)};
}

Output point0(Point p) { return run_point(p, {}); }
Output point1(Point p, Output a) { return run_point(p, {&a}); }
Output point2(Point p, Output a, Output b) { return run_point(p, {&a, &b}); }
Output point3(Point p, Output a, Output b, Output c) { return run_point(p, {&a, &b, &c}); }
Output point4(Point p, Output a, Output b, Output c, Output d) { return run_point(p, {&a, &b, &c, &d}); }
Output point5(Point p, Output a, Output b, Output c, Output d, Output e) {
  return run_point(p, {&a, &b, &c, &d, &e});
}
SHEAF_REMOTE(point0);
SHEAF_REMOTE(point1);
SHEAF_REMOTE(point2);
SHEAF_REMOTE(point3);
SHEAF_REMOTE(point4);
SHEAF_REMOTE(point5);

using Ref = sheaf::ObjectRef<Output>;

class Driver {
 public:
  double run(const Shape& shape, int64_t iterations) {
    std::vector<Ref> all;
    all.reserve(static_cast<size_t>(count_tasks(shape)));
    auto start = Clock::now();
    size_t row_before = 0;
    for (int64_t t = 0; t < shape.steps; ++t) {
      size_t row = all.size();
      for (int64_t i = 0; i < shape.width_at(t); ++i) {
        int64_t in[kMaxInputs];
        int n = shape.inputs(t, i, in);
        const Ref* inputs[kMaxInputs];
        for (int k = 0; k < n; ++k) inputs[k] = &all[row_before + static_cast<size_t>(in[k])];
        Point p{static_cast<int32_t>(shape.pattern), shape.width, t, i, iterations};
        all.push_back(submit(p, inputs, n));
      }
      row_before = row;
    }
    std::vector<Output> outputs = sheaf::get(all);   // throws what a task threw
    return seconds_since(start);
  }

 private:
  Ref submit(const Point& p, const Ref* const* in, int n) {
    switch (n) {
      case 0: return zero_.remote(p);
      case 1: return one_.remote(p, *in[0]);
      case 2: return two_.remote(p, *in[0], *in[1]);
      case 3: return three_.remote(p, *in[0], *in[1], *in[2]);
      case 4: return four_.remote(p, *in[0], *in[1], *in[2], *in[3]);
      default: return five_.remote(p, *in[0], *in[1], *in[2], *in[3], *in[4]);
    }
  }

  decltype(sheaf::task(point0)) zero_ = sheaf::task(point0);
  decltype(sheaf::task(point1)) one_ = sheaf::task(point1);
  decltype(sheaf::task(point2)) two_ = sheaf::task(point2);
  decltype(sheaf::task(point3)) three_ = sheaf::task(point3);
  decltype(sheaf::task(point4)) four_ = sheaf::task(point4);
  decltype(sheaf::task(point5)) five_ = sheaf::task(point5);
};

}  // namespace taskbench

int main() {
  sheaf::Options options;
  options.num_cpus = std::max(1u, std::thread::hardware_concurrency());
  options.object_store_memory = 256 << 20;
  sheaf::init(options);
  {
    taskbench::Driver driver;
    taskbench::serve([&](const taskbench::Shape& shape, int64_t iterations) {
      try {
        return driver.run(shape, iterations);
      } catch (const std::exception& e) {
        std::fprintf(stderr, "%s\n", e.what());
        return -1.0;
      }
    });
  }
  sheaf::shutdown();
}
