// Spill files: objects on node-local disk, many to a file, each behind a header with its id, length
// and CRC-32C.
//
// The loop thread decides where bytes go; one or two I/O threads write and read them. A completion
// is queued and `wake` is called; the loop then collects it with poll(). A checksum that does not
// match is kCorrupt and the bytes are never delivered. A full disk is kOutOfMemory and leaves
// nothing behind. A file is deleted when its last object is; the directory at close(). Everything
// except `wake` runs on the control loop.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "core/ids.h"
#include "core/status.h"
#include "objstore/object_table.h"

namespace sheaf::objstore {

struct SpillOptions {
  std::string directory;                        // made with mode 0700; must not exist, or be empty
  uint64_t file_bytes = 100ull << 20;           // a file takes no more objects from here on
  unsigned threads = 2;
  std::function<void()> wake;                   // any thread: make the loop call poll()
  uint64_t max_bytes = 0;                       // payload on disk at most, 0 = what the disk takes
};

// In front of each object's bytes in a spill file; little-endian.
struct SpillRecord {
  uint64_t magic;         // kSpillMagic
  ObjectId id;            // offset 8
  uint64_t length;        // 24
  uint32_t checksum;      // 32: CRC-32C of the payload
  uint32_t head_checksum; // 36: CRC-32C of the bytes above
};
static_assert(sizeof(SpillRecord) == 40);
inline constexpr uint64_t kSpillMagic = 0x3150534641454853;  // "SHEAFSP1"

class SpillFiles {
 public:
  static Result<std::unique_ptr<SpillFiles>> create(SpillOptions options);
  ~SpillFiles();   // as close()

  using WriteDone = std::function<void(Result<SpillPlace>)>;
  using ReadDone = std::function<void(Status)>;
  // `data` must stay in place and unchanged until `done`.
  void write(const ObjectId& id, const std::byte* data, uint64_t length, WriteDone done);
  // Reads place.length bytes to `into`, which must stay until `done`. kCorrupt: do not use them.
  void read(const ObjectId& id, const SpillPlace& place, std::byte* into, ReadDone done);
  void remove(const SpillPlace& place);
  // Runs the callbacks of what has completed. Returns how many.
  size_t poll();
  // Cuts short what is in flight (its callbacks are not run), deletes all files and the directory.
  Status close();

  size_t in_flight() const { return in_flight_; }
  size_t file_count() const { return files_.size(); }
  uint64_t bytes_on_disk() const { return bytes_on_disk_; }

 private:
  struct File { int fd; std::string path; uint64_t end = 0; uint32_t live = 0; uint32_t busy = 0; };
  struct Job;
  struct Shared;
  explicit SpillFiles(SpillOptions options);
  Result<uint64_t> file_with_room(uint64_t length);
  void submit(Job job);
  void finish(Job& job);
  void give_up(const SpillPlace& place);
  void drop_if_unused(uint64_t file);

  SpillOptions options_;
  std::map<uint64_t, File> files_;
  uint64_t last_file_ = 0;
  uint64_t current_file_ = 0;    // takes further objects; 0 = none
  uint64_t bytes_on_disk_ = 0;
  size_t in_flight_ = 0;
  bool closed_ = false;
  std::unique_ptr<Shared> shared_;
};

}  // namespace sheaf::objstore
