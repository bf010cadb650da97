// View<T>: numbers that are read where they lie, in the shared memory of the object store.
//
// What a std::vector<T> of numbers was written as can be read as a View<T>: without a copy when it is large enough to lie
// in the arena (more than 8 KB), else as a copy of its own. The view keeps the bytes in place, also after the last
// reference to the object and after the task that received it. Immutable; copies share.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

namespace sheaf {

template <class T>
class View {
 public:
  View() = default;
  // A view of memory that `keep` owns.
  View(std::span<const T> data, std::shared_ptr<const void> keep) : data_(data), keep_(std::move(keep)) {}
  explicit View(std::vector<T> values) {
    auto owned = std::make_shared<std::vector<T>>(std::move(values));
    data_ = *owned;
    keep_ = std::move(owned);
  }

  const T* data() const { return data_.data(); }
  size_t size() const { return data_.size(); }
  bool empty() const { return data_.empty(); }
  const T& operator[](size_t i) const { return data_[i]; }
  auto begin() const { return data_.begin(); }
  auto end() const { return data_.end(); }
  operator std::span<const T>() const { return data_; }   // NOLINT: a view is a span with an owner
  std::vector<T> to_vector() const { return {data_.begin(), data_.end()}; }

 private:
  std::span<const T> data_;
  std::shared_ptr<const void> keep_;
};

}  // namespace sheaf
