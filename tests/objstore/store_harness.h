// A Store with an arena of its own, a recording of its callbacks, and a loop that turns it.
// Single-threaded.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "objstore/store.h"
#include "tests/objstore/scratch_dir.h"

namespace sheaf::objstore {

class StoreHarness {
 public:
  static constexpr uint64_t kMiB = 1 << 20;
  static constexpr uint32_t kSlots = 256;

  explicit StoreHarness(uint64_t arena_bytes, bool spilling = true,
                        std::string spill_directory = "",
                        std::chrono::milliseconds unknown_grace = std::chrono::milliseconds(50),
                        const std::function<void(StoreOptions&)>& adjust = {})
      : arena_(make_arena(arena_bytes)) {
    StoreOptions options;
    options.arena = &arena_;
    options.node = 1;
    if (spilling)
      options.spill_directory = spill_directory.empty() ? dir_.path() + "/spill" : spill_directory;
    options.spill_file_bytes = 4 * kMiB;
    options.unknown_grace = unknown_grace;
    options.space_wait = std::chrono::milliseconds(300);
    options.notify = [this](ProcessId p, const ObjectEvent& e) { events[p].push_back(e); };
    options.space_ready = [this](ProcessId, uint64_t request, Result<Locator> r) {
      answers.emplace(request, std::move(r));
    };
    options.encode_error = [](LossCause cause, const ObjectId&) {
      return "loss " + std::to_string(static_cast<int>(cause));
    };
    options.wake = [this] { woken_.store(true); };
    if (adjust) adjust(options);
    auto made = Store::create(std::move(options));
    EXPECT_TRUE(made) << made.status().to_string();
    store = std::move(*made);
  }

  static TimePoint now() { return std::chrono::steady_clock::now(); }
  std::byte* base() { return arena_.write_base(); }
  Arena& arena() { return arena_; }
  std::string spill_directory() const { return dir_.path() + "/spill"; }

  // A client with a pin table in this process.
  PinTable& join(ProcessId p) {
    auto& memory = tables_[p];
    memory.resize(pin_table_bytes(kSlots) / 8 + 8);
    auto* block = reinterpret_cast<PinTableBlock*>(
        (reinterpret_cast<uint64_t>(memory.data()) + 63) / 64 * 64);
    store->process_joined(p, block, kSlots);
    return *pins_
                .emplace(p, std::make_unique<PinTable>(block, kSlots, arena_.read_base(),
                                                       arena_.bytes()))
                .first->second;
  }

  // Turns the loop until `done`, for 20 s at most.
  template <class F>
  bool until(F&& done) {
    auto end = now() + std::chrono::seconds(20);
    for (;;) {
      while (store->quiesce()) {}
      store->poll(now());
      if (done()) return true;
      if (now() > end) return false;
      auto due = store->next_wakeup(now());
      for (int i = 0; i < 20 && !woken_.exchange(false); ++i) {
        if (due && *due <= now()) break;
        std::this_thread::sleep_for(std::chrono::microseconds(250));
      }
    }
  }
  void turn() { until([n = 0]() mutable { return ++n == 3; }); }

  static std::byte pattern(const ObjectId& id, uint64_t i) {
    return static_cast<std::byte>((id.lo * 131 + i * 7 + (i >> 8)) & 0xff);
  }
  void fill(const Locator& l, const ObjectId& id) {
    for (uint64_t i = 0; i < l.length; ++i) base()[l.offset + kHeaderBytes + i] = pattern(id, i);
  }
  bool intact(const Locator& l, const ObjectId& id) {
    if (!header_matches(arena_.read_base(), l, id)) return false;
    for (uint64_t i = 0; i < l.length; ++i) {
      if (arena_.read_base()[l.offset + kHeaderBytes + i] != pattern(id, i)) return false;
    }
    return true;
  }
  // Allocates (waiting if need be), writes and seals an object that `p` then holds.
  Result<Locator> put(ProcessId p, const ObjectId& id, uint64_t bytes, int wait_ms = 1000) {
    uint64_t request = ++last_request_;
    auto answer = store->alloc_extent(p, request, bytes, std::chrono::milliseconds(wait_ms), now());
    if (!answer) {
      until([&] { return answers.contains(request); });
      auto it = answers.find(request);
      if (it == answers.end()) return Status(StatusCode::kInternal, "never answered");
      answer.emplace(std::move(it->second));
    }
    if (!*answer) return answer->status();
    fill(**answer, id);
    seal_header(base(), **answer, id);
    SHEAF_TRY(store->seal(p, id, **answer, 0, {}));
    return **answer;
  }
  // What a get() finds; waits for it.
  ObjectEvent get(ProcessId p, const ObjectId& id, bool restore = true) {
    events[p].clear();
    store->subscribe(p, std::vector{id}, restore, now());
    until([&] { return !events[p].empty(); });
    return events[p].empty() ? ObjectEvent{} : events[p].back();
  }
  void drop(ProcessId p, const ObjectId& id) { store->hold(p, 0, {}, std::vector{id}); }

  std::map<ProcessId, std::vector<ObjectEvent>> events;
  std::map<uint64_t, Result<Locator>> answers;

 private:
  static Arena make_arena(uint64_t bytes) {
    auto arena = Arena::create(bytes, {.commit_step_bytes = 2 * kMiB, .initial_prefault_bytes = 0,
                                       .prefault_ahead_bytes = 0});
    if (!arena) std::abort();
    return std::move(*arena);
  }

  ScratchDir dir_;
  Arena arena_;
  std::map<ProcessId, std::vector<uint64_t>> tables_;
  std::map<ProcessId, std::unique_ptr<PinTable>> pins_;
  std::atomic<bool> woken_{false};
  uint64_t last_request_ = 1000;

 public:
  std::unique_ptr<Store> store;   // goes first
};

}  // namespace sheaf::objstore
