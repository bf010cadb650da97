// The user's library of these tests: functions and actors that the drivers link and the workers load.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "runtime/sheaf.h"

namespace testlib {

int64_t square(int64_t x);
int64_t add(int64_t a, int64_t b);
int64_t sum(const std::vector<int64_t>& values);
std::string repeat(const std::string& text, int times);
std::vector<double> ramp(int64_t n);             // 0, 1, 2, ...
double total(sheaf::View<double> values);
int64_t length_of_ref(sheaf::ObjectRef<std::string> ref);
std::vector<sheaf::ObjectRef<int64_t>> make_refs(int n);
int64_t sum_of_refs(const std::vector<sheaf::ObjectRef<int64_t>>& refs);
int64_t fibonacci(int n);                        // by nested tasks
int64_t depth(int n);                            // a chain of n tasks, each waiting for the next
int pid_of_worker();
void nothing();
int fail(const std::string& text);
int fail_oddly();
int flaky(const std::string& file, int failures);   // throws until `file` has so many lines
int die(int signal);
int die_once(const std::string& file);           // kills its worker unless `file` exists
int64_t slow_square(int64_t x, int ms);
bool sleep_until_cancelled(int ms_max);
void count_to(sheaf::Stream<int64_t>& out, int64_t n);
void count_and_fail(sheaf::Stream<int64_t>& out, int64_t n);
void large_items(sheaf::Stream<std::vector<double>>& out, int n, int64_t size);
// Waits for a file; holds its worker meanwhile.
int wait_for_file(const std::string& file);
std::string cross_check(const std::vector<std::byte>& bytes, bool flag, double number, const std::string& text);

class Counter {
 public:
  explicit Counter(int64_t start) : n_(start) {}
  int64_t add(int64_t by) { return n_ += by; }
  int64_t get() const { return n_; }
  int pid() const;
  std::vector<int64_t> log(int64_t v);           // all values so far, in the order of their calls
  int die();
  int fail(const std::string& text);
  int64_t sleep_and_add(int ms, int64_t by);
  void leave();
  void count(sheaf::Stream<int64_t>& out, int64_t n);

 private:
  int64_t n_;
  std::vector<int64_t> log_;
};

class Broken {
 public:
  Broken();
  int get() { return 0; }
};

// Methods meet each other: needs as many threads as participants.
class Barrier {
 public:
  explicit Barrier(int participants) : participants_(participants) {}
  bool meet(int ms_max);

 private:
  int participants_;
  std::atomic<int> arrived_{0};
};

int64_t use_counter(sheaf::ActorHandle<Counter> counter, int64_t by);

}  // namespace testlib

SHEAF_ACTOR(testlib::Counter, (int64_t), add, get, pid, log, die, fail, sleep_and_add, leave, count)
SHEAF_ACTOR(testlib::Broken, (), get)
SHEAF_ACTOR(testlib::Barrier, (int), meet)
