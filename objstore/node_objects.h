// What the stores of a cluster's nodes say to each other.
//
// Between two daemons these travel in order and exactly once while both live, together with the
// records of their processes (a message told before a record was sent arrives before it). An
// object's owner is the daemon of the node that its id names, or node 1's once that one is dead. An
// encoded message is a byte, the alternative's index, and the struct: append alternatives only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/ids.h"
#include "core/status.h"
#include "core/variant.h"
#include "core/wire.h"
#include "objstore/locator.h"

namespace sheaf::objstore {

#define SHEAF_FIELDS(...) \
  template <class A>      \
  void fields(A& a) { a(__VA_ARGS__); }

// ---- References. Hold counts of a node at the owner, signed.

// The sender's node holds each of these once more. `number` counts its registrations, from 1.
struct Register {
  uint64_t number = 0;
  std::vector<ObjectId> ids;
  SHEAF_FIELDS(number, ids)
};
// The owner has counted it. Until then nothing that was said after it leaves the sender.
struct Registered {
  uint64_t number = 0;
  SHEAF_FIELDS(number)
};
struct HoldCount {
  ObjectId id;
  uint32_t count = 0;
  SHEAF_FIELDS(id, count)
};
// The sender's node holds these so many times less.
struct Drop {
  std::vector<HoldCount> holds;
  SHEAF_FIELDS(holds)
};
// Who keeps the objects of a HandOff while it is under way. kPinned: the sender has a hold until
// HandOffDone. kCounted: the sender owns them and has counted the receiver's node already.
// kToOwner: the receiver owns them, and the sender's Drop can only come later.
enum class HandOffKind : uint8_t { kPinned = 0, kCounted = 1, kToOwner = 2 };
// A reference to each of `ids` is on its way to `process` of the receiver's node, which holds it
// from now on.
struct HandOff {
  ProcessId process = 0;
  HandOffKind kind = HandOffKind::kPinned;
  std::vector<ObjectId> ids;
  SHEAF_FIELDS(process, kind, ids)
};
struct HandOffDone {
  std::vector<ObjectId> ids;
  SHEAF_FIELDS(ids)
};

// ---- Values

// To the owner: the bytes were made at the sender's, which keeps them until Release. `holder` gets
// a hold (0: nobody). `contained`: references inside the value. Generation 0 in `locator`: they are
// on the sender's disk.
struct Sealed {
  ObjectId id;
  Locator locator;
  ProcessId holder = 0;
  std::vector<ObjectId> contained;
  SHEAF_FIELDS(id, locator, holder, contained)
};
// To the owner: publish() of a process that is not of the owner's node.
struct Published {
  ObjectId id;
  ValueState state = ValueState::kPending;
  std::string bytes;
  std::vector<ObjectId> contained;
  SHEAF_FIELDS(id, state, bytes, contained)
};
// To the owner, or to a node that is said to have the bytes. Answered by Here, now or later, or by
// NotHere. `tried`: where the asker looked last without success (0 = nowhere).
struct Want {
  ObjectId id;
  bool restore = true;
  ProcessId tried = 0;
  SHEAF_FIELDS(id, restore, tried)
};
// As ObjectEvent. kPending: the bytes are lost and being made again; another Here follows.
struct Here {
  ObjectId id;
  ValueState state = ValueState::kPending;
  std::string bytes;
  Locator locator;
  SHEAF_FIELDS(id, state, bytes, locator)
};
// Only from a node that is not the owner.
struct NotHere {
  ObjectId id;
  SHEAF_FIELDS(id)
};
// To the owner: the sender has the bytes too, and may forget them at any time unless `kept`.
struct CopyMade {
  ObjectId id;
  Locator locator;
  bool kept = false;
  std::vector<ObjectId> contained;   // kept only
  SHEAF_FIELDS(id, locator, kept, contained)
};
// To the owner: not any more. `corrupt`: its disk has failed.
struct CopyGone {
  ObjectId id;
  bool corrupt = false;
  SHEAF_FIELDS(id, corrupt)
};
// From the owner. The copy may be forgotten at any time, from now on; with `forget`: now, whoever
// holds the object, as it is gone.
struct Release {
  ObjectId id;
  bool forget = false;
  SHEAF_FIELDS(id, forget)
};
// From the owner: the copy is the only one, so keep it. Answered by CopyGone when it is not there.
struct Keep {
  ObjectId id;
  SHEAF_FIELDS(id)
};
// From the owner: make a copy (put(replicas=)) and answer CopyMade with `kept`, or CopyGone.
struct MakeCopy {
  ObjectId id;
  Locator locator;
  SHEAF_FIELDS(id, locator)
};
// To the owner, which has sent the sender to a place to read from: it reads, to `locator`. Others
// may read from there what has come so far.
struct CopyStarted {
  ObjectId id;
  Locator locator;
  SHEAF_FIELDS(id, locator)
};
// To the owner: free() of a process that is not of the owner's node.
struct Free {
  std::vector<ObjectId> ids;
  SHEAF_FIELDS(ids)
};

// ---- Lineage: what makes objects again that outlive the process, or the node, that had them made.

// All that a process of the job needs to run the task once more. `task` is the runtime's.
struct TaskRecord {
  JobId job = 0;
  int32_t runs_left = 0;             // -1: as often as it takes
  std::vector<ObjectId> returns;     // at least one
  std::vector<ObjectId> arguments;   // whatever the task refers to
  std::string task;
  SHEAF_FIELDS(job, runs_left, returns, arguments, task)
};
// A value that travels in messages is its own lineage.
struct KeptValue {
  ObjectId id;
  ValueState state = ValueState::kInline;   // or kError
  std::string bytes;
  std::vector<ObjectId> contained;
  SHEAF_FIELDS(id, state, bytes, contained)
};
// To node 1, before references to these objects of the sender leave its node. Answered by
// Registered, as `number` counts on from the registrations.
struct Remember {
  uint64_t number = 0;
  std::vector<TaskRecord> tasks;
  std::vector<KeptValue> values;
  SHEAF_FIELDS(number, tasks, values)
};
// To node 1: nobody needs these any more. Tasks by their first return.
struct Forget {
  std::vector<ObjectId> tasks, values;
  SHEAF_FIELDS(tasks, values)
};

#undef SHEAF_FIELDS

struct ObjectMessage
    : std::variant<Register, Registered, Drop, HandOff, HandOffDone, Sealed, Published, Want, Here,
                   NotHere, CopyMade, CopyGone, Release, Keep, MakeCopy, Free, CopyStarted,
                   Remember, Forget> {
  SHEAF_VARIANT(ObjectMessage)
};

std::string encode(const ObjectMessage& message);
// kCorrupt for anything that is not a whole message.
Result<ObjectMessage> decode_object_message(wire::Bytes bytes);
// "Register"
std::string_view name_of(const ObjectMessage& message);

}  // namespace sheaf::objstore
