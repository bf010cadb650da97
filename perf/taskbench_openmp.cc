// Task Bench on OpenMP tasks: dependences on the cells of the grid.
#include <omp.h>

#include <atomic>
#include <vector>

#include "perf/taskbench_serve.h"

namespace taskbench {
namespace {

double run(const Shape& shape, int64_t iterations) {
  std::vector<Output> cells(static_cast<size_t>(shape.width * shape.steps));
  Output* grid = cells.data();
  std::atomic<bool> wrong{false};
  auto start = Clock::now();
#pragma omp parallel
#pragma omp single
  for (int64_t t = 0; t < shape.steps; ++t) {
    for (int64_t i = 0; i < shape.width_at(t); ++i) {
      int64_t in[kMaxInputs];
      int n = shape.inputs(t, i, in);
      Output* own = grid + t * shape.width + i;
      Output* before = grid + (t - 1) * shape.width;
#pragma omp task depend(iterator(k = 0 : n), in : before[in[k]]) depend(out : own[0]) \
    firstprivate(t, i, in, n, own, before) shared(shape, wrong)
      {
        const Output* inputs[kMaxInputs];
        for (int k = 0; k < n; ++k) inputs[k] = before + in[k];
        if (!inputs_are_right(shape, t, i, inputs, n)) wrong = true;
        *own = {t, i, compute(iterations)};
      }
    }
  }
  double seconds = seconds_since(start);
  return wrong ? -1.0 : seconds;
}

}  // namespace
}  // namespace taskbench

int main() { taskbench::serve(taskbench::run); }
