#include "objstore/lineage_table.h"

#include <string>

namespace sheaf::objstore {

LineageTable::Row* LineageTable::add(TaskRecord record) {
  if (record.returns.empty()) return nullptr;
  for (const ObjectId& id : record.returns) {
    if (by_return_.contains(id)) return nullptr;
  }
  uint64_t number = ++last_number_;
  Row& row = rows_[number];
  for (const ObjectId& id : record.returns) row.alive += by_return_.emplace(id, number).second;
  row.record = std::move(record);
  return &row;
}

uint64_t LineageTable::number_of_row(const ObjectId& id) const {
  auto it = by_return_.find(id);
  return it == by_return_.end() ? 0 : it->second;
}

LineageTable::Row* LineageTable::find(const ObjectId& id) {
  uint64_t number = number_of_row(id);
  return number == 0 ? nullptr : &rows_.at(number);
}

LineageTable::Row LineageTable::take(uint64_t number) {
  (void)release(number);
  auto node = rows_.extract(number);
  for (const ObjectId& id : node.mapped().record.returns) by_return_.erase(id);
  return std::move(node.mapped());
}

std::optional<LineageTable::Row> LineageTable::gone(const ObjectId& id) {
  uint64_t number = number_of_row(id);
  if (number == 0) return std::nullopt;
  Row& row = rows_.at(number);
  row.awaited.erase(id);
  row.later.erase(id);
  by_return_.erase(id);
  if (--row.alive > 0) return std::nullopt;
  return take(number);
}

LineageTable::Row LineageTable::retire(const ObjectId& id) { return take(number_of_row(id)); }

// ---- Losses -------------------------------------------------------------------------------------

LineageTable::Need LineageTable::lost(const ObjectId& id, std::span<const ObjectId> lost) {
  Row* row = find(id);
  if (row == nullptr) return Need::kNothingHelps;
  if (row->busy()) {
    if (!row->awaited.contains(id)) row->later.insert(id);
    return Need::kNothing;
  }
  if (row->record.runs_left == 0 || row->runs >= kRunsMax) return Need::kNothingHelps;
  row->awaited.insert(lost.begin(), lost.end());
  row->seeking = true;
  return Need::kMaker;
}

std::vector<ObjectId> LineageTable::release(uint64_t number) {
  Row& row = rows_.at(number);
  if (auto of_maker = by_maker_.find(row.maker); of_maker != by_maker_.end()) {
    of_maker->second.erase(number);
    if (of_maker->second.empty()) by_maker_.erase(of_maker);
  }
  row.seeking = false;
  row.maker = kNoProcess;
  std::set<ObjectId> all = std::exchange(row.awaited, {});
  all.merge(std::exchange(row.later, {}));
  return {all.begin(), all.end()};
}

std::vector<ObjectId> LineageTable::found(const ObjectId& id, ProcessId maker) {
  Row* row = find(id);
  if (row == nullptr || !row->seeking) return {};
  if (maker == kNoProcess) {
    row->tried.clear();
    return release(number_of_row(id));
  }
  row->seeking = false;
  row->maker = maker;
  by_maker_[maker].insert(number_of_row(id));
  ++row->runs;
  if (row->record.runs_left > 0) --row->record.runs_left;
  return {};
}

std::vector<ObjectId> LineageTable::made(const ObjectId& id) {
  Row* row = find(id);
  if (row == nullptr || !row->busy()) return {};
  if (row->awaited.erase(id) == 0) row->later.erase(id);
  if (!row->awaited.empty()) return {};
  row->tried.clear();
  return release(number_of_row(id));
}

std::vector<ObjectId> LineageTable::maker_gone(ProcessId maker) {
  std::vector<ObjectId> again;
  auto of_maker = by_maker_.find(maker);
  if (of_maker == by_maker_.end()) return again;
  for (uint64_t number : std::set<uint64_t>(of_maker->second)) {
    rows_.at(number).tried.insert(maker);
    for (const ObjectId& id : release(number)) again.push_back(id);
  }
  return again;
}

std::vector<ProcessId> LineageTable::makers() const {
  std::vector<ProcessId> out;
  for (const auto& [maker, numbers] : by_maker_) out.push_back(maker);
  return out;
}

std::vector<const LineageTable::Row*> LineageTable::under_way() const {
  std::vector<const Row*> out;
  for (const auto& [maker, numbers] : by_maker_) {
    for (uint64_t number : numbers) out.push_back(&rows_.at(number));
  }
  return out;
}

// ---- The sink -----------------------------------------------------------------------------------

void LineageTable::remember(ProcessId home, Remember told) {
  Home& h = homes_[home];
  for (TaskRecord& task : told.tasks) {
    if (!task.returns.empty()) h.tasks.insert_or_assign(task.returns.front(), std::move(task));
  }
  for (KeptValue& value : told.values) {
    bool valid = value.state == ValueState::kInline || value.state == ValueState::kError;
    if (valid) h.values.insert_or_assign(value.id, std::move(value));
  }
}

void LineageTable::forget(ProcessId home, const Forget& told) {
  auto it = homes_.find(home);
  if (it == homes_.end()) return;
  for (const ObjectId& id : told.tasks) it->second.tasks.erase(id);
  for (const ObjectId& id : told.values) it->second.values.erase(id);
  if (it->second.tasks.empty() && it->second.values.empty()) homes_.erase(it);
}

Remember LineageTable::take_over(ProcessId home) {
  Remember all;
  auto node = homes_.extract(home);
  if (node.empty()) return all;
  for (auto& [id, task] : node.mapped().tasks) all.tasks.push_back(std::move(task));
  for (auto& [id, value] : node.mapped().values) all.values.push_back(std::move(value));
  return all;
}

size_t LineageTable::kept_for_others() const {
  size_t n = 0;
  for (const auto& [process, home] : homes_) n += home.tasks.size() + home.values.size();
  return n;
}

}  // namespace sheaf::objstore
