// The part of ObjectTable that knows of objects whose task can be run again by others.
#include "objstore/object_table.h"

namespace sheaf::objstore {

void ObjectTable::set_lineage(const ObjectId& id, bool any, bool known) {
  if (!any) {
    if (Entry* e = find_mutable(id)) e->has_lineage = false;
    return;
  }
  Entry& e = entry(id);
  e.has_lineage = true;
  e.known = e.known || known;
  consider(id, e);   // maybe nobody holds it
}

bool ObjectTable::expose(const ObjectId& id) {
  Entry* e = find_mutable(id);
  return e != nullptr && !e->foreign && !std::exchange(e->exposed, true);
}

bool ObjectTable::has_kept_value(const ObjectId& id) const {
  const Entry* e = find(id);
  if (e == nullptr || e->replaceable) return false;
  return e->state == ValueState::kInline || e->state == ValueState::kError;
}

void ObjectTable::not_made(const ObjectId& id, Actions& out) {
  Entry* e = find_mutable(id);
  if (e == nullptr || !e->replaceable || !std::exchange(e->maker_told, false)) return;
  resolve(id, *e, out);
}

void ObjectTable::cannot_be_made(const ObjectId& id, LossCause cause, Actions& out) {
  Entry* e = find_mutable(id);
  if (e == nullptr || !e->replaceable) return;
  e->replaceable = e->maker_told = false;
  e->bytes = encode_error_(cause, id);
  e->size = e->bytes.size();
  resolve(id, *e, out);
}

}  // namespace sheaf::objstore
