// Task Bench on plain MPI: each rank owns a block of columns, one message for each input from another rank.
// Rank 0 takes the requests; the others sleep between graphs instead of polling, as peers run in turn with them.
#define OMPI_SKIP_MPICXX 1   // the C++ bindings of old: not used, and full of warnings
#include <mpi.h>
#include <unistd.h>

#include <vector>

#include "perf/taskbench_serve.h"

namespace taskbench {
namespace {

class Ranks {
 public:
  Ranks() {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
  }
  bool is_first() const { return rank_ == 0; }

  // Rank 0 says what comes; the others learn it. False: the end.
  bool agree(int64_t (&request)[4]) {
    MPI_Request pending;
    MPI_Ibcast(request, 4, MPI_INT64_T, 0, MPI_COMM_WORLD, &pending);
    for (int done = 0;;) {
      MPI_Test(&pending, &done, MPI_STATUS_IGNORE);
      if (done) return request[1] > 0;
      usleep(200);
    }
  }

  double run(const Shape& shape, int64_t iterations) {
    std::vector<Output> before(static_cast<size_t>(shape.width)), now(before.size());
    int wrong = 0, any_wrong = 0;
    MPI_Barrier(MPI_COMM_WORLD);
    auto start = Clock::now();
    for (int64_t t = 0; t < shape.steps; ++t) {
      exchange(shape, t, before);
      for (int64_t i = 0; i < shape.width_at(t); ++i) {
        if (owner(shape, i) != rank_) continue;
        int64_t in[kMaxInputs];
        int n = shape.inputs(t, i, in);
        const Output* inputs[kMaxInputs];
        for (int k = 0; k < n; ++k) inputs[k] = &before[static_cast<size_t>(in[k])];
        if (!inputs_are_right(shape, t, i, inputs, n)) wrong = 1;
        now[static_cast<size_t>(i)] = {t, i, compute(iterations)};
      }
      std::swap(before, now);
    }
    MPI_Allreduce(&wrong, &any_wrong, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    double seconds = seconds_since(start);
    return any_wrong ? -1.0 : seconds;
  }

 private:
  int owner(const Shape& shape, int64_t point) const { return static_cast<int>(point * size_ / shape.width); }

  // Brings what this rank's points of row `t` need into `row`, and sends what others need of ours.
  void exchange(const Shape& shape, int64_t t, std::vector<Output>& row) {
    pending_.clear();
    received_.clear();
    received_.reserve(row.size() * kMaxInputs);
    for (int64_t i = 0; i < shape.width_at(t); ++i) {
      int64_t in[kMaxInputs];
      int n = shape.inputs(t, i, in);
      int here = owner(shape, i);
      for (int k = 0; k < n; ++k) {
        int from = owner(shape, in[k]);
        if (from == here || (from != rank_ && here != rank_)) continue;
        MPI_Request request;
        int tag = static_cast<int>(i * kMaxInputs + k);
        if (here == rank_) {
          received_.push_back({in[k], {}});
          MPI_Irecv(&received_.back().second, sizeof(Output), MPI_BYTE, from, tag, MPI_COMM_WORLD, &request);
        } else {
          MPI_Isend(&row[static_cast<size_t>(in[k])], sizeof(Output), MPI_BYTE, here, tag, MPI_COMM_WORLD, &request);
        }
        pending_.push_back(request);
      }
    }
    MPI_Waitall(static_cast<int>(pending_.size()), pending_.data(), MPI_STATUSES_IGNORE);
    for (auto& [point, output] : received_) row[static_cast<size_t>(point)] = output;
  }

  int rank_ = 0, size_ = 1;
  std::vector<MPI_Request> pending_;
  std::vector<std::pair<int64_t, Output>> received_;
};

}  // namespace
}  // namespace taskbench

int main(int argc, char** argv) {
  using taskbench::Shape;
  MPI_Init(&argc, &argv);
  taskbench::Ranks ranks;
  int64_t request[4] = {0, 0, 0, 0};
  if (ranks.is_first()) {
    taskbench::serve([&](const Shape& shape, int64_t iterations) {
      int64_t said[4] = {static_cast<int64_t>(shape.pattern), shape.width, shape.steps, iterations};
      ranks.agree(said);
      return ranks.run(shape, iterations);
    });
    ranks.agree(request);
  } else {
    while (ranks.agree(request)) {
      ranks.run({static_cast<taskbench::Pattern>(request[0]), request[1], request[2]}, request[3]);
    }
  }
  MPI_Finalize();
}
