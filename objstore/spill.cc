#include "objstore/spill.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "objstore/checksum.h"

namespace sheaf::objstore {
namespace {

constexpr uint64_t kChunk = 1 << 20;         // checksum and copy a piece while it is in the cache
constexpr uint64_t kPunchBytes = 64 << 10;   // smaller holes are not worth a system call

Status write_all(int fd, const std::byte* data, uint64_t size, uint64_t offset) {
  while (size > 0) {
    ssize_t n = pwrite(fd, data, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Status::from_errno("spilling", errno);
    data += n;
    size -= static_cast<uint64_t>(n);
    offset += static_cast<uint64_t>(n);
  }
  return {};
}

Status read_all(int fd, std::byte* into, uint64_t size, uint64_t offset) {
  while (size > 0) {
    ssize_t n = pread(fd, into, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      return Status(StatusCode::kCorrupt, fmt::format("restoring: {}", std::strerror(errno)));
    if (n == 0) return Status(StatusCode::kCorrupt, "restoring: the spill file ends too early");
    into += n;
    size -= static_cast<uint64_t>(n);
    offset += static_cast<uint64_t>(n);
  }
  return {};
}

uint32_t head_checksum(const SpillRecord& record) {
  return crc32c(&record, offsetof(SpillRecord, head_checksum));
}

}  // namespace

struct SpillFiles::Job {
  bool is_write;
  int fd;
  ObjectId id;
  SpillPlace place;
  const std::byte* from = nullptr;
  std::byte* into = nullptr;
  WriteDone write_done;
  ReadDone read_done;
  Status status;
};

// Between the loop and the I/O threads.
struct SpillFiles::Shared {
  std::mutex mutex;   // guards queue and done
  std::condition_variable work;
  std::deque<Job> queue;
  std::deque<Job> done;
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  std::function<void()> wake;

  Status write(const Job& job) {
    SpillRecord record{kSpillMagic, job.id, job.place.length, 0, 0};
    uint64_t at = job.place.offset + sizeof record;
    for (uint64_t done_bytes = 0; done_bytes < job.place.length;) {
      if (stop.load(std::memory_order_relaxed))
        return Status(StatusCode::kCancelled, "the store closes");
      uint64_t piece = std::min(kChunk, job.place.length - done_bytes);
      record.checksum = crc32c(job.from + done_bytes, piece, record.checksum);
      SHEAF_TRY(write_all(job.fd, job.from + done_bytes, piece, at + done_bytes));
      done_bytes += piece;
    }
    record.head_checksum = head_checksum(record);
    return write_all(job.fd, reinterpret_cast<const std::byte*>(&record), sizeof record,
                     job.place.offset);
  }

  Status read(const Job& job) {
    SpillRecord record;
    SHEAF_TRY(
        read_all(job.fd, reinterpret_cast<std::byte*>(&record), sizeof record, job.place.offset));
    if (record.magic != kSpillMagic || record.head_checksum != head_checksum(record) ||
        record.id != job.id || record.length != job.place.length) {
      return Status(StatusCode::kCorrupt,
                    fmt::format("object {}: bad spill record", to_hex(job.id)));
    }
    uint32_t checksum = 0;
    uint64_t at = job.place.offset + sizeof record;
    for (uint64_t done_bytes = 0; done_bytes < job.place.length;) {
      if (stop.load(std::memory_order_relaxed))
        return Status(StatusCode::kCancelled, "the store closes");
      uint64_t piece = std::min(kChunk, job.place.length - done_bytes);
      SHEAF_TRY(read_all(job.fd, job.into + done_bytes, piece, at + done_bytes));
      checksum = crc32c(job.into + done_bytes, piece, checksum);
      done_bytes += piece;
    }
    if (checksum == record.checksum) return {};
    return Status(StatusCode::kCorrupt,
                  fmt::format("object {}: its spilled bytes have changed", to_hex(job.id)));
  }

  void run() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    std::unique_lock lock(mutex);
    for (;;) {
      work.wait(lock, [&] { return stop.load() || !queue.empty(); });
      if (stop.load()) return;
      Job job = std::move(queue.front());
      queue.pop_front();
      lock.unlock();
      job.status = job.is_write ? write(job) : read(job);
      lock.lock();
      done.push_back(std::move(job));
      lock.unlock();
      if (wake) wake();
      lock.lock();
    }
  }
};

Result<std::unique_ptr<SpillFiles>> SpillFiles::create(SpillOptions options) {
  if (mkdir(options.directory.c_str(), 0700) != 0) {
    if (errno != EEXIST)
      return Status::from_errno("cannot make the spill directory " + options.directory, errno);
    DIR* dir = opendir(options.directory.c_str());
    if (dir == nullptr)
      return Status::from_errno("the spill directory " + options.directory, errno);
    bool empty = true;
    while (dirent* e = readdir(dir)) {
      empty = empty && (std::strcmp(e->d_name, ".") == 0 || std::strcmp(e->d_name, "..") == 0);
    }
    closedir(dir);
    if (!empty) {
      return Status(StatusCode::kAlreadyExists,
                    "the spill directory " + options.directory + " is in use");
    }
  }
  return std::unique_ptr<SpillFiles>(new SpillFiles(std::move(options)));
}

SpillFiles::SpillFiles(SpillOptions options) : options_(std::move(options)), shared_(new Shared) {
  shared_->wake = options_.wake;
}

SpillFiles::~SpillFiles() { (void)close().is_ok(); }

Result<uint64_t> SpillFiles::file_with_room(uint64_t length) {
  if (options_.max_bytes > 0 && bytes_on_disk_ + length > options_.max_bytes) {
    return Status(StatusCode::kOutOfMemory,
                  fmt::format("spilled objects may take {} bytes, and {} are in use",
                              options_.max_bytes, bytes_on_disk_));
  }
  auto current = files_.find(current_file_);
  if (current != files_.end() && current->second.end < options_.file_bytes) return current_file_;
  File file;
  file.path = fmt::format("{}/{:06}", options_.directory, last_file_ + 1);
  file.fd = open(file.path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file.fd < 0) return Status::from_errno("cannot make the spill file " + file.path, errno);
  uint64_t previous = std::exchange(current_file_, ++last_file_);
  files_.emplace(current_file_, std::move(file));
  drop_if_unused(previous);
  return current_file_;
}

void SpillFiles::write(const ObjectId& id, const std::byte* data, uint64_t length, WriteDone done) {
  Job job{true, -1, id, {}, data, nullptr, std::move(done), nullptr, {}};
  Result<uint64_t> number =
      closed_ ? Status(StatusCode::kCancelled, "the store closes") : file_with_room(length);
  if (!number) {  // complete it like any other, from poll()
    job.status = number.status();
    std::lock_guard lock(shared_->mutex);
    ++in_flight_;
    shared_->done.push_back(std::move(job));
    if (shared_->wake) shared_->wake();
    return;
  }
  File& file = files_.at(*number);
  job.fd = file.fd;
  job.place = {*number, file.end, length};
  file.end += sizeof(SpillRecord) + length;
  ++file.live;
  ++file.busy;
  bytes_on_disk_ += length;
  submit(std::move(job));
}

void SpillFiles::read(const ObjectId& id, const SpillPlace& place, std::byte* into, ReadDone done) {
  File& file = files_.at(place.file);
  ++file.busy;
  submit({false, file.fd, id, place, nullptr, into, nullptr, std::move(done), {}});
}

void SpillFiles::submit(Job job) {
  ++in_flight_;
  {
    std::lock_guard lock(shared_->mutex);
    shared_->queue.push_back(std::move(job));
  }
  if (shared_->threads.size() < std::min<size_t>(options_.threads, in_flight_)) {
    shared_->threads.emplace_back([s = shared_.get()] { s->run(); });
  }
  shared_->work.notify_one();
}

size_t SpillFiles::poll() {
  std::deque<Job> done;
  {
    std::lock_guard lock(shared_->mutex);
    done.swap(shared_->done);
  }
  for (Job& job : done) finish(job);
  return done.size();
}

void SpillFiles::finish(Job& job) {
  --in_flight_;
  if (auto it = files_.find(job.place.file); it != files_.end()) --it->second.busy;
  if (job.is_write) {
    if (!job.status && job.place.file != 0) {
      if (current_file_ == job.place.file) current_file_ = 0;  // its tail is in doubt
      give_up(job.place);
    }
    job.write_done(job.status ? Result<SpillPlace>(job.place) : Result<SpillPlace>(job.status));
  } else {
    drop_if_unused(job.place.file);
    job.read_done(job.status);
  }
}

void SpillFiles::remove(const SpillPlace& place) { give_up(place); }

// The bytes of one object go: with the file if they were its last, as a hole otherwise.
void SpillFiles::give_up(const SpillPlace& place) {
  auto it = files_.find(place.file);
  if (it == files_.end()) return;
  File& file = it->second;
  SHEAF_CHECK(file.live > 0 && bytes_on_disk_ >= place.length);
  --file.live;
  bytes_on_disk_ -= place.length;
  if (file.live > 0 && place.length >= kPunchBytes) {
    fallocate(file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(place.offset),
              static_cast<off_t>(sizeof(SpillRecord) + place.length));
  }
  drop_if_unused(place.file);
}

void SpillFiles::drop_if_unused(uint64_t number) {
  auto it = files_.find(number);
  if (it == files_.end() || it->second.live > 0 || it->second.busy > 0) return;
  ::close(it->second.fd);
  unlink(it->second.path.c_str());
  files_.erase(it);
  if (current_file_ == number) current_file_ = 0;
}

Status SpillFiles::close() {
  if (closed_) return {};
  closed_ = true;
  {
    std::lock_guard lock(shared_->mutex);
    shared_->stop.store(true);
  }
  shared_->work.notify_all();
  for (std::thread& t : shared_->threads) t.join();
  for (auto& [number, file] : files_) {
    ::close(file.fd);
    unlink(file.path.c_str());
  }
  files_.clear();
  bytes_on_disk_ = 0;
  if (rmdir(options_.directory.c_str()) != 0) {
    return Status::from_errno("cannot remove the spill directory " + options_.directory, errno);
  }
  return {};
}

}  // namespace sheaf::objstore
