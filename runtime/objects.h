// What follows from a change of an object: dependents become runnable, waiters wake, the daemon learns of it.
//
// Every method needs the runtime's lock. Nothing here waits.
#pragma once

#include <unordered_map>
#include <vector>

#include "runtime/entry_table.h"
#include "runtime/runtime.h"

namespace sheaf::runtime {

class Objects {
 public:
  explicit Objects(Runtime::Impl& rt);

  EntryTable& table() { return table_; }
  Entry& at(Slot slot) { return table_.at(slot); }

  Slot create() { return table_.create_own(); }
  // One count for the caller. `held`: the daemon already counts us that often (a hand-off).
  Slot import(const ObjectId& id, uint16_t held = 0);
  void retain(Slot slot) { ++table_.at(slot).refs; }
  void release(Slot slot) {
    if (--table_.at(slot).refs == 0) destroy(slot);
  }

  // The value arrived. `contained` are references inside it; each already carries a hold made for us by the sender.
  void set_bytes(Slot slot, ValueState state, Bytes bytes, std::span<const ObjectId> contained = {});
  void set_arena(Slot slot, const objstore::Locator& locator, std::span<const ObjectId> contained = {});
  void set_error(Slot slot, const protocol::ErrorRecord& error);
  // It was ready, and its bytes are gone from where they were, or on another node: pending again, and asked for.
  void set_moved(Slot slot);
  bool is_here(const objstore::Locator& locator) const;
  // Where the bytes are, as far as we know; null when they travel in messages.
  const objstore::Locator* location(Slot slot);
  // Some value's bytes have been on another node.
  bool knows_other_nodes() const { return knows_other_nodes_; }

  // The daemon waits for the object's maker, who may have to run a task.
  void set_rebuilding(Slot slot);
  // Tells the daemon that an object of ours, which is not in the table any more, cannot be made again.
  void give_up(const ObjectId& id, Bytes error);

  // The daemon sent the value of an entry that it had been asked for (already stored in it).
  void fetched(Slot slot) { became_ready(slot); }

  // A reference is about to leave this process: the daemon must know the object before anybody asks for it.
  void publish(Slot slot);
  // The owner of an object that we made again for a process that is gone gets its value.
  void tell_owner(Slot slot);
  // Asks the daemon for foreign, lost and spilled objects that are still pending; batched until flush().
  void subscribe(Slot slot);
  // Sends queued subscriptions, and hold counts. `all`: also those that may wait for company (plain drops).
  void flush(bool all);

  // `task` waits for the value.
  void add_dependent(Slot slot, Task* task);
  void notify(Slot slot);
  // A stream has a new item: event loops that wait for its generator look again.
  void signal_stream(Slot generator);
  std::vector<Slot> take_notified() { return std::exchange(notified_, {}); }
  void adopt_contained(Slot slot, std::span<const Slot> nested);
  // Count one more hold on behalf of `process`, for a reference that goes to it.
  void hold_for(ProcessId process, const ObjectId& id);

 private:
  void keep_spare(std::unique_ptr<EntryExtra> extra);
  void destroy(Slot slot);
  void erase_one(Slot slot);
  void became_ready(Slot slot);
  void attach_contained(Entry& e, std::span<const ObjectId> contained);
  void change_hold(const ObjectId& id, int delta);

  Runtime::Impl& rt_;
  EntryTable table_;
  std::unordered_map<ObjectId, int> hold_changes_;
  bool knows_other_nodes_ = false;
  bool hold_added_ = false;                   // some queued change must precede our next reply
  std::vector<ObjectId> subscriptions_;
  std::vector<ObjectId> located_;             // further subscriptions, to values on other nodes: at locations_
  std::vector<objstore::Locator> locations_;
  std::vector<Slot> notified_;
  std::vector<Slot> dying_;                   // counts at zero, not erased yet
  bool destroying_ = false;
  std::vector<std::unique_ptr<EntryExtra>> spare_;   // empty, of entries whose value was waited for by tasks
};

}  // namespace sheaf::runtime
