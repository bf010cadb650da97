// The object store without messages: what the daemon does for an extent, what a process does for its slab, and for a
// read. `bench_store [--json] [seconds] [rounds]`.
#include <memory>
#include <vector>

#include "objstore/pins.h"
#include "objstore/slab.h"
#include "objstore/store.h"
#include "perf/report.h"

namespace {

using namespace sheaf;             // NOLINT: a small main
using namespace sheaf::objstore;   // NOLINT
using bench::Clock;
using bench::Report;

constexpr ProcessId kProcess = 7;
constexpr uint32_t kPinSlots = 1024;
constexpr double kToUs = 1e6;

// The daemon's store, and one process that uses it.
struct Bench {
  Arena arena = std::move(Arena::create(512 << 20)).value();
  std::unique_ptr<std::byte[]> pin_memory{new std::byte[pin_table_bytes(kPinSlots) + 64]()};
  std::unique_ptr<Store> store;
  uint64_t next = 1;

  Bench() {
    StoreOptions options;
    options.arena = &arena;
    options.notify = [](ProcessId, const ObjectEvent&) {};
    options.space_ready = [](ProcessId, uint64_t, Result<Locator>) {};
    options.encode_error = [](LossCause, const ObjectId&) { return std::string(); };
    options.wake = [] {};
    store = std::move(Store::create(options)).value();
    store->process_joined(kProcess, pin_block(), kPinSlots);
  }
  PinTableBlock* pin_block() {
    auto address = (reinterpret_cast<uintptr_t>(pin_memory.get()) + 63) / 64 * 64;
    return reinterpret_cast<PinTableBlock*>(address);
  }
  ObjectId new_id() { return ObjectId::make(kProcess, next++); }

  Locator allocate(uint64_t bytes) {
    auto answer = store->alloc_extent(kProcess, 1, bytes, std::chrono::milliseconds(0), Clock::now());
    SHEAF_CHECK(answer && *answer);
    return **answer;
  }
  void seal(const ObjectId& id, const Locator& locator) {
    seal_header(arena.write_base(), locator, id);
    SHEAF_CHECK(store->seal(kProcess, id, locator, 0, {}).is_ok());
  }
  void drop(const ObjectId& id) {
    store->hold(kProcess, 0, {}, std::span(&id, 1));
    while (store->quiesce()) {}
  }
};

double allocation(const Report& report, size_t bytes) {
  auto body = [bytes](size_t n) {
    for (size_t i = 0; i < n; ++i) {
      void* volatile p = std::malloc(bytes);
      std::free(p);
    }
  };
  return report.measure(body).median * kToUs;
}

void extents(const Report& report, Bench& b) {
  constexpr uint64_t kBytes = 64 << 10;
  auto body = [&](size_t n) {
    for (size_t i = 0; i < n; ++i) {
      ObjectId id = b.new_id();
      b.seal(id, b.allocate(kBytes));
      b.drop(id);
    }
  };
  double floor = allocation(report, kBytes);
  report.row("store: allocate, seal, drop an extent", "us", bench::scaled(report.measure(body), kToUs),
             "malloc and free", floor);
}

void slabs(const Report& report, Bench& b) {
  constexpr uint64_t kBytes = 1024;
  SlabWriter writer(b.arena.write_base(), 0);
  auto body = [&](size_t n) {
    for (size_t i = 0; i < n; ++i) {
      auto locator = writer.reserve(kBytes);
      while (!locator) {
        auto slab = b.store->lease_slab(kProcess, 1, Clock::now());
        SHEAF_CHECK(slab && *slab);
        writer.adopt((*slab)->offset, (*slab)->length, (*slab)->generation);
        locator = writer.reserve(kBytes);
      }
      ObjectId id = b.new_id();
      writer.seal(*locator, id);
      SHEAF_CHECK(b.store->seal(kProcess, id, *locator, 0, {}).is_ok());
      b.drop(id);
    }
  };
  report.row("store: allocate, seal, drop 1 KB in a slab", "us", bench::scaled(report.measure(body), kToUs),
             "malloc and free", allocation(report, kBytes));
}

void reads(const Report& report, Bench& b) {
  ObjectId id = b.new_id();
  Locator locator = b.allocate(1 << 20);
  b.seal(id, locator);
  PinTable pins(b.pin_block(), kPinSlots, b.arena.read_base(), b.arena.bytes());
  auto body = [&](size_t n) {
    for (size_t i = 0; i < n; ++i) {
      auto pin = pins.pin(locator, id);
      SHEAF_CHECK(pin.has_value());
      pins.unpin(*pin);
    }
  };
  report.row("store: pin and unpin for a get", "us", bench::scaled(report.measure(body), kToUs), "malloc and free",
             allocation(report, 64));
  b.drop(id);
}

}  // namespace

int main(int argc, char** argv) {
  Report report(argc, argv);
  Bench b;
  extents(report, b);
  slabs(report, b);
  reads(report, b);
  SHEAF_CHECK(b.store->close().is_ok());
}
