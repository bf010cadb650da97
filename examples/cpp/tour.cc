// Tasks, objects, actors, errors and futures of the C++ API in one program.
#include <sheaf/sheaf.h>

#include <chrono>
#include <cstdio>
#include <numeric>
#include <stdexcept>

using namespace std::chrono_literals;

std::vector<double> samples(int64_t n) {
  std::vector<double> out(static_cast<size_t>(n));
  std::iota(out.begin(), out.end(), 0.0);
  return out;
}
double mean(sheaf::View<double> values) {   // read where they lie, not copied
  if (values.empty()) throw std::invalid_argument("no values");
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}
std::tuple<double, double> range(sheaf::View<double> values) { return {values[0], values[values.size() - 1]}; }
double mean_of_parts(const std::vector<sheaf::ObjectRef<std::vector<double>>>& parts) {
  double sum = 0;
  for (const auto& part : parts) sum += sheaf::get(sheaf::task(mean).remote(part));   // tasks may make tasks
  return sum / static_cast<double>(parts.size());
}
SHEAF_REMOTE(samples);
SHEAF_REMOTE(mean);
SHEAF_REMOTE(range);
SHEAF_REMOTE(mean_of_parts);

class Tally {
 public:
  explicit Tally(std::string label) : label_(std::move(label)) {}
  int add(int by) { return n_ += by; }
  std::string where() const { return label_ + " is actor " + sheaf::runtime_context().actor_id.substr(0, 4); }

 private:
  std::string label_;
  int n_ = 0;
};
SHEAF_ACTOR(Tally, (std::string), add, where)

int main() {
  sheaf::init({.num_cpus = 2});   // workers run this program up to here

  auto large = sheaf::task(samples).name("samples").remote(1'000'000);   // 8 MB that stay in shared memory
  std::printf("mean %.1f\n", sheaf::get(sheaf::task(mean).remote(large)));
  auto [low, high] = sheaf::task(range).remote_split(large);             // two values, two objects
  std::printf("range %.0f to %.0f\n", sheaf::get(low), sheaf::get(high));
  std::vector parts{large, sheaf::task(samples).remote(11), sheaf::put(std::vector<double>{1, 2, 3})};
  std::printf("mean of parts %.2f\n", sheaf::get(sheaf::task(mean_of_parts).remote(parts)));

  auto [ready, pending] = sheaf::wait(parts, 3, 10s);
  std::printf("%zu ready, %zu pending\n", ready.size(), pending.size());

  try {
    sheaf::get(sheaf::task(mean).max_retries(0).remote(std::vector<double>()));
  } catch (const sheaf::TaskError& e) {
    std::printf("%s: %s\n", e.type().c_str(), e.text().c_str());
  }

  auto tally = sheaf::actor<Tally>().name("hits").num_cpus(0).max_restarts(1).remote("tally");
  for (int i = 1; i <= 9; ++i) tally.task(&Tally::add).remote(i);
  auto same = sheaf::get_actor<Tally>("hits");
  std::future<int> total = sheaf::get_future(same.task(&Tally::add).remote(10));
  std::printf("total %d\n", total.get());
  tally.kill();

  auto group = sheaf::placement_group({{{"CPU", 1}}, {{"CPU", 1}}}, sheaf::PlacementStrategy::kPack);
  auto in_bundle = sheaf::task(mean).placement_group(group, 1);
  if (group.wait(10s)) std::printf("in a bundle: %.1f\n", sheaf::get(in_bundle.remote(large)));
  group.remove();
  sheaf::shutdown();
}
