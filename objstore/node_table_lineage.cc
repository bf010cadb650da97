// The part of NodeTable that makes objects again whose submitter, or owner, has died.
//
// Output commit: what a reference of ours needs to outlive this node is told to node 1 and counts
// as a registration that is not confirmed, so that nothing that carries the reference leaves before
// node 1 has it (see settled()). What travels to node 1 itself needs no wait.
#include <utility>

#include "objstore/node_table.h"

namespace sheaf::objstore {

// ---- Records ------------------------------------------------------------------------------------

void NodeTable::record(TaskRecord record, Actions& out) {
  LineageTable::Row* row = lineage_.add(std::move(record));
  if (row == nullptr) return;
  table_.hold(kDaemonProcess, row->record.arguments, {}, out);
  bool exposed = false;
  for (const ObjectId& id : row->record.returns) {
    table_.set_lineage(id, true);
    exposed = exposed || table_.find(id)->exposed;
  }
  if (!exposed || !has_sink()) return;
  sink_task(*row);
  expose(row->record.arguments);
}

void NodeTable::let_go(const LineageTable::Row& row, Actions& out) {
  table_.hold(kDaemonProcess, {}, row.record.arguments, out);
  if (row.sunk) to_forget_.tasks.push_back(row.record.returns.front());
}

void NodeTable::handle_lineage(Action& action, Actions& out) {
  if (auto* lost = std::get_if<MakeAgain>(&action)) {
    make_again(lost->id, out);
  } else if (auto* made = std::get_if<MadeAgain>(&action)) {
    ask_again(lineage_.made(made->id), out);
  } else if (auto* gone = std::get_if<LineageGone>(&action)) {
    ask_again(lineage_.made(gone->id), out);
    if (auto row = lineage_.gone(gone->id)) let_go(*row, out);
    if (sunk_values_.erase(gone->id) > 0) to_forget_.values.push_back(gone->id);
  }
}

// Values that travel in messages need no task: its arguments go.
void NodeTable::value_came(const ObjectId& id, Actions& out) {
  const ObjectTable::Entry* e = table_.find(id);
  if (e == nullptr || e->foreign || !table_.has_kept_value(id)) return;
  LineageTable::Row* row = lineage_.find(id);
  if (row == nullptr) {
    if (e->exposed && has_sink() && !sunk_values_.contains(id)) sink_value(id, *e);
    return;
  }
  for (const ObjectId& other : row->record.returns) {
    if (table_.find(other) != nullptr && !table_.has_kept_value(other)) return;
  }
  LineageTable::Row done = lineage_.retire(id);
  for (const ObjectId& other : done.record.returns) {
    table_.set_lineage(other, false);
    const ObjectTable::Entry* with_value = table_.find(other);
    if (with_value != nullptr && with_value->exposed && has_sink()) sink_value(other, *with_value);
  }
  let_go(done, out);
}

// ---- Losses -------------------------------------------------------------------------------------

void NodeTable::make_again(const ObjectId& id, Actions& out) {
  const LineageTable::Row* row = lineage_.find(id);
  Ids lost;
  if (row != nullptr) {
    for (const ObjectId& one : row->record.returns) {
      const ObjectTable::Entry* e = table_.find(one);
      if (e != nullptr && e->replaceable) lost.push_back(one);
    }
  }
  switch (lineage_.lost(id, lost)) {
    case LineageTable::Need::kNothing: return;
    case LineageTable::Need::kNothingHelps:
      return table_.cannot_be_made(id, row ? LossCause::kRunsUsedUp : LossCause::kNodeDied, out);
    case LineageTable::Need::kMaker: break;
  }
  // Who submitted it may still know more: its own tasks that wait for the object, and the value.
  ProcessId submitter = id.process();
  if (table_.is_live(submitter) && !row->tried.contains(submitter))
    return maker_found(id, submitter, out);
  out.push_back(FindMaker{id, row->record.job, row->tried});
}

void NodeTable::ask_again(const Ids& ids, Actions& out) {
  for (const ObjectId& id : ids) table_.not_made(id, out);
}

void NodeTable::maker_found(const ObjectId& id, ProcessId maker, Actions& out) {
  const LineageTable::Row* row = lineage_.find(id);
  if (row == nullptr || !row->seeking) return;
  for (const ObjectId& hopeless : lineage_.found(id, maker))
    table_.cannot_be_made(hopeless, LossCause::kNoMaker, out);
  if (maker != kNoProcess) out.push_back(HandTask{maker, row->record});
}

void NodeTable::maker_gone(ProcessId maker, Actions& out) {
  ask_again(lineage_.maker_gone(maker), out);
}

void NodeTable::made(const ObjectId& id, ValueState state, std::string bytes,
                     std::span<const ObjectId> contained, Actions& out) {
  expose(contained);
  Published message{id, state, std::move(bytes), {contained.begin(), contained.end()}};
  if (table_.is_foreign(id)) tell(owner_of(id), std::move(message), out);
  else on(self_, message, out);
}

// What makers on other nodes had from the dead one may never have reached us: they run it again.
void NodeTable::makers_lost(ProcessId daemon, Actions& out) {
  for (ProcessId maker : lineage_.makers()) {
    if (maker >> 32 == daemon >> 32) maker_gone(maker, out);
  }
  for (const LineageTable::Row* row : lineage_.under_way())
    out.push_back(HandTask{row->maker, row->record});
}

// ---- The sink -----------------------------------------------------------------------------------

void NodeTable::expose(std::span<const ObjectId> ids) {
  if (!has_sink()) return;
  Ids work(ids.begin(), ids.end());
  while (!work.empty()) {
    ObjectId id = work.back();
    work.pop_back();
    if (!table_.expose(id)) continue;
    const ObjectTable::Entry* e = table_.find(id);
    work.insert(work.end(), e->contained.begin(), e->contained.end());
    if (LineageTable::Row* row = lineage_.find(id)) {
      sink_task(*row);
      work.insert(work.end(), row->record.arguments.begin(), row->record.arguments.end());
    } else if (table_.has_kept_value(id)) {
      sink_value(id, *e);
    }
  }
}

void NodeTable::sink_task(LineageTable::Row& row) {
  if (!std::exchange(row.sunk, true)) to_remember_.tasks.push_back(row.record);
}

void NodeTable::sink_value(const ObjectId& id, const ObjectTable::Entry& e) {
  if (!sunk_values_.insert(id).second) return;
  table_.set_lineage(id, true);
  to_remember_.values.push_back({id, e.state, e.bytes, e.contained});
}

// Node 1 has a new life, which knows nothing.
void NodeTable::sink_anew() {
  for (const auto& [number, row] : lineage_.rows()) {
    if (row.sunk) to_remember_.tasks.push_back(row.record);
  }
  for (const ObjectId& id : std::exchange(sunk_values_, {})) {
    if (const ObjectTable::Entry* e = table_.find(id)) sink_value(id, *e);
  }
}

void NodeTable::flush_lineage(Actions& out) {
  ProcessId sink = head();
  if (sink == kNoProcess) return;
  if (!to_remember_.tasks.empty() || !to_remember_.values.empty()) {
    unconfirmed_[++last_number_] = {sink, 0};
    to_remember_.number = last_number_;
    tell(sink, std::exchange(to_remember_, {}), out);
  }
  if (!to_forget_.tasks.empty() || !to_forget_.values.empty())
    tell(sink, std::exchange(to_forget_, {}), out);
}

void NodeTable::on(ProcessId from, Remember& m, Actions& out) {
  Registered done{m.number};
  lineage_.remember(from, std::move(m));
  tell(from, done, out);
}

void NodeTable::on(ProcessId from, Forget& m, Actions&) { lineage_.forget(from, m); }

// We are the head, and `home` is dead. All of it is held at once, before the barrier lets anybody
// free anything; what nobody has registered for when it closes, goes.
void NodeTable::take_over(ProcessId home, Actions& out) {
  Remember kept = lineage_.take_over(home);
  for (TaskRecord& task : kept.tasks) {
    LineageTable::Row* row = lineage_.add(std::move(task));
    if (row == nullptr) continue;
    table_.hold(kDaemonProcess, row->record.arguments, {}, out);
    for (const ObjectId& id : row->record.returns) table_.set_lineage(id, true, true);
  }
  for (KeptValue& value : kept.values) {
    table_.publish(kDaemonProcess, value.id, value.state, std::move(value.bytes), value.contained,
                   out);
    table_.hold(kDaemonProcess, {}, {&value.id, 1}, out);
  }
}

}  // namespace sheaf::objstore
