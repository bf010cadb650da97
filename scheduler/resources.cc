#include "scheduler/resources.h"

#include <fmt/format.h>

#include <algorithm>

#include "scheduler/topology.h"

namespace sheaf::scheduler {

namespace {
// Far above any machine (memory in bytes included) and far below overflow of sums.
constexpr ResourceAmount kMaxAmount = ResourceAmount{1} << 60;
}  // namespace

bool is_device_resource(std::string_view name) { return name == kGpu; }

Status validate_resources(ResourceMap& request) {
  for (auto it = request.begin(); it != request.end();) {
    const auto& [name, amount] = *it;
    if (name.empty()) return {StatusCode::kInvalidArgument, "a resource needs a name"};
    if (amount < 0 || amount > kMaxAmount) {
      return {StatusCode::kInvalidArgument, fmt::format("impossible amount of resource {}", name)};
    }
    if (is_device_resource(name) && amount > kResourceUnit && amount % kResourceUnit != 0) {
      return {StatusCode::kInvalidArgument,
              fmt::format("{} amounts above 1 must be whole numbers", name)};
    }
    it = amount == 0 ? request.erase(it) : std::next(it);
  }
  return Status::ok();
}

ResourceAmount amount_of(const ResourceMap& map, std::string_view name) {
  auto it = map.find(std::string(name));
  return it == map.end() ? 0 : it->second;
}

bool fits(const ResourceMap& request, const ResourceMap& available) {
  return std::all_of(request.begin(), request.end(), [&](const auto& need) {
    return need.second <= 0 || need.second <= amount_of(available, need.first);
  });
}

ResourceMap shortage(const ResourceMap& request, const ResourceMap& available) {
  ResourceMap lacking;
  for (const auto& [name, amount] : request) {
    const ResourceAmount have = std::max<ResourceAmount>(0, amount_of(available, name));
    if (amount > have) lacking[name] = amount - have;
  }
  return lacking;
}

void add(ResourceMap& to, const ResourceMap& what) {
  for (const auto& [name, amount] : what) to[name] += amount;
}

void subtract(ResourceMap& from, const ResourceMap& what) {
  for (const auto& [name, amount] : what) from[name] -= amount;
}

bool is_empty(const ResourceMap& map) {
  return std::all_of(map.begin(), map.end(), [](const auto& e) { return e.second == 0; });
}

std::string to_text(const ResourceMap& map) {
  std::string out = "{";
  for (const auto& [name, amount] : map) {
    if (out.size() > 1) out += ", ";
    out += fmt::format("{}: {}", name, static_cast<double>(amount) / kResourceUnit);
  }
  return out + "}";
}

Devices Allocation::devices() const {
  Devices out;
  for (const auto& [name, by_index] : shares) {
    for (const auto& [index, share] : by_index) out[name].push_back(index);
  }
  return out;
}

ResourcePool::ResourcePool(ResourceMap total) : total_(std::move(total)), available_(total_) {
  for (const auto& [name, amount] : total_) {
    if (!is_device_resource(name)) continue;
    for (uint32_t i = 0; i < amount / kResourceUnit; ++i) shares_[name][i] = kResourceUnit;
  }
  total_shares_ = shares_;
}

ResourcePool::ResourcePool(const Allocation& from)
    : total_(from.resources), available_(from.resources), shares_(from.shares),
      total_shares_(from.shares) {}

std::optional<std::map<uint32_t, ResourceAmount>> ResourcePool::pick(const std::string& name,
                                                                     ResourceAmount amount) const {
  auto devices = shares_.find(name);
  if (devices == shares_.end()) return std::nullopt;
  const bool fraction = amount < kResourceUnit;
  std::vector<uint32_t> free;
  // The fullest device that still has room for a fraction, so that whole ones stay whole.
  const std::pair<const uint32_t, ResourceAmount>* best = nullptr;
  for (const auto& device : devices->second) {
    const auto& [index, share] = device;
    if (fraction && share >= amount && share < (best ? best->second : kResourceUnit)) {
      best = &device;
    }
    if (share != kResourceUnit) continue;
    free.push_back(index);
  }
  if (best) return std::map<uint32_t, ResourceAmount>{{best->first, amount}};
  const auto count = static_cast<size_t>(fraction ? 1 : amount / kResourceUnit);
  if (free.size() < count) return std::nullopt;
  std::map<uint32_t, ResourceAmount> picked;
  for (uint32_t index : closest(free, count)) picked[index] = fraction ? amount : kResourceUnit;
  return picked;
}

std::vector<uint32_t> ResourcePool::closest(const std::vector<uint32_t>& free,
                                            size_t count) const {
  if (topology_) return choose_close(free, count, topology_->gpu_distance);
  return {free.begin(), free.begin() + static_cast<ptrdiff_t>(count)};
}

bool ResourcePool::feasible(const ResourceMap& request) const {
  ResourcePool empty;
  empty.total_ = empty.available_ = total_;
  empty.shares_ = total_shares_;
  return empty.can_take(request);
}

bool ResourcePool::can_take(const ResourceMap& request) const {
  if (!fits(request, available_)) return false;
  return std::all_of(request.begin(), request.end(), [&](const auto& need) {
    return need.second <= 0 || !is_device_resource(need.first) || pick(need.first, need.second);
  });
}

std::optional<Allocation> ResourcePool::take(const ResourceMap& request) {
  if (!fits(request, available_)) return std::nullopt;
  Allocation taken;
  for (const auto& [name, amount] : request) {
    if (amount <= 0 || !is_device_resource(name)) continue;
    auto picked = pick(name, amount);
    if (!picked) return std::nullopt;
    taken.shares[name] = std::move(*picked);
  }
  taken.resources = request;
  subtract(available_, request);
  for (const auto& [name, by_index] : taken.shares) {
    for (const auto& [index, share] : by_index) shares_[name][index] -= share;
  }
  return taken;
}

void ResourcePool::give_back(const Allocation& allocation) {
  add(available_, allocation.resources);
  for (const auto& [name, by_index] : allocation.shares) {
    for (const auto& [index, share] : by_index) {
      ResourceAmount& free = shares_[name][index];
      free += share;
      SHEAF_CHECK(free <= kResourceUnit);
    }
  }
  for (const auto& [name, amount] : allocation.resources) {
    SHEAF_CHECK(available_[name] <= amount_of(total_, name) || is_device_resource(name));
  }
}

void ResourcePool::lend(std::string_view name, ResourceAmount amount) {
  available_[std::string(name)] += amount;
}

void ResourcePool::take_back(std::string_view name, ResourceAmount amount) {
  available_[std::string(name)] -= amount;
}

void ResourcePool::change_total(const ResourceMap& total) {
  ResourceMap wanted = total;
  for (const auto& [name, amount] : total_) {
    if (!is_device_resource(name)) wanted.try_emplace(name, 0);
    else wanted[name] = std::max(amount, amount_of(total, name));
  }
  for (const auto& [name, amount] : wanted) {
    const ResourceAmount before = amount_of(total_, name);
    available_[name] += amount - before;
    if (!is_device_resource(name)) continue;
    for (auto i = static_cast<uint32_t>(before / kResourceUnit); i < amount / kResourceUnit; ++i) {
      shares_[name][i] = total_shares_[name][i] = kResourceUnit;
    }
  }
  total_ = std::move(wanted);
}

bool ResourcePool::unused() const {
  return std::all_of(available_.begin(), available_.end(),
                     [&](const auto& e) { return e.second == amount_of(total_, e.first); }) &&
         shares_ == total_shares_;
}

namespace {

// "in(a, b)" against a value; nothing when the text is not of that form.
std::optional<bool> in_list(std::string_view text, const std::string* value) {
  if (!text.starts_with("in(") || !text.ends_with(")")) return std::nullopt;
  text = text.substr(3, text.size() - 4);
  while (value && !text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    std::string_view item = text.substr(0, comma);
    while (item.starts_with(' ')) item.remove_prefix(1);
    while (item.ends_with(' ')) item.remove_suffix(1);
    if (item == *value) return true;
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return false;
}

bool label_matches(std::string_view want, const std::string* value) {
  const bool negated = want.starts_with('!');
  if (negated) want.remove_prefix(1);
  const bool holds = in_list(want, value).value_or(value && *value == want);
  return holds != negated;
}

}  // namespace

bool labels_match(const Labels& selector, const Labels& labels) {
  return std::all_of(selector.begin(), selector.end(), [&](const auto& wanted) {
    auto it = labels.find(wanted.first);
    return label_matches(wanted.second, it == labels.end() ? nullptr : &it->second);
  });
}

}  // namespace sheaf::scheduler
