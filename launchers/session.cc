#include "launchers/session.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <vector>

#include "core/read_file.h"

namespace sheaf::launchers {

namespace {

constexpr time_t kUnfinishedSessionAge = 60;
constexpr time_t kJournalAge = 24 * 60 * 60;  // for how long a head that was killed may come back
constexpr mode_t kWritableByOthers = 022;
constexpr int kRootAttempts = 5;

Status refused(const std::string& path, std::string_view why) {
  return {StatusCode::kPermissionDenied,
          fmt::format("{} {}: it may be another user's trap; remove it, or set "
                      "SHEAF_TMPDIR to a directory of your own",
                      path, why)};
}

Result<Fd> open_directory(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) {
    if (errno == ELOOP || errno == ENOTDIR) return refused(path, "is not a directory");
    return Status::from_errno(path, errno);
  }
  return fd;
}

std::string new_session_id() {
  uint32_t noise = 0;
  if (getrandom(&noise, sizeof noise, 0) != sizeof noise) noise = static_cast<uint32_t>(getpid());
  time_t now = time(nullptr);
  tm utc{};
  gmtime_r(&now, &utc);
  char stamp[32];
  strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", &utc);
  return fmt::format("{}-{}-{:04x}", stamp, getpid(), noise & 0xffff);
}

// The free lock of a session whose daemon is gone; nothing when it is held or cannot be opened.
Fd take_lock(const std::string& directory) {
  Fd fd(::open((directory + "/lock").c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (fd && flock(fd.get(), LOCK_EX | LOCK_NB) != 0) fd.reset();
  return fd;
}

// "pid" or "start_time" of a cluster.json that we wrote ourselves.
uint64_t number_after(const std::string& text, std::string_view name) {
  size_t at = text.find(fmt::format("\"{}\":", name));
  return at == std::string::npos ? 0 : strtoull(text.c_str() + at + name.size() + 3, nullptr, 10);
}

bool is_stale(const std::string& directory) {
  struct stat st{};
  if (lstat(directory.c_str(), &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid())
    return false;
  std::string text = read_file(directory + "/cluster.json");
  if (text.empty()) return time(nullptr) - st.st_mtime > kUnfinishedSessionAge;
  uint64_t pid = number_after(text, "pid");
  if (pid != 0 && process_start_time(static_cast<pid_t>(pid)) == number_after(text, "start_time"))
    return false;
  struct stat journal {};
  return stat((directory + "/journal.db").c_str(), &journal) != 0 ||
         time(nullptr) - journal.st_mtime > kJournalAge;
}

bool remove_tree_at(int parent, const char* name) {
  if (unlinkat(parent, name, 0) == 0 || errno == ENOENT) return true;
  int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return false;
  DIR* dir = fdopendir(fd);
  if (dir == nullptr) {
    close(fd);
    return false;
  }
  bool all = true;
  while (dirent* e = readdir(dir)) {
    if (std::strcmp(e->d_name, ".") == 0 || std::strcmp(e->d_name, "..") == 0) continue;
    if (!remove_tree_at(fd, e->d_name)) all = false;
  }
  closedir(dir);
  return unlinkat(parent, name, AT_REMOVEDIR) == 0 && all;
}

}  // namespace

std::string default_session_root() {
  if (const char* dir = getenv("SHEAF_TMPDIR"); dir != nullptr && *dir != '\0') return dir;
  if (const char* dir = getenv("XDG_RUNTIME_DIR"); dir != nullptr && *dir == '/') {
    struct stat st{};
    if (stat(dir, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid())
      return fmt::format("{}/sheaf", dir);
  }
  return fmt::format("/tmp/sheaf-{}", geteuid());
}

Status make_private_directory(const std::string& path, mode_t forbidden) {
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
    return Status::from_errno("cannot make " + path, errno);
  SHEAF_ASSIGN(Fd fd, open_directory(path));
  struct stat st{};
  if (fstat(fd.get(), &st) != 0) return Status::from_errno(path, errno);
  if (st.st_uid != geteuid()) return refused(path, "belongs to another user");
  if ((st.st_mode & forbidden) != 0) return refused(path, "is open to other users");
  return {};
}

bool remove_tree(const std::string& path) { return remove_tree_at(AT_FDCWD, path.c_str()); }

uint64_t process_start_time(pid_t pid) {
  std::string text = read_file(fmt::format("/proc/{}/stat", pid));
  size_t at = text.rfind(')');  // the name may hold anything, parentheses included
  if (at == std::string::npos) return 0;
  constexpr int kFieldsAfterName = 19;  // the state is field 3, the start time 22
  const char* p = text.c_str() + at + 1;
  for (int i = 0; i < kFieldsAfterName && p != nullptr; ++i) p = std::strchr(p + 1, ' ');
  if (p == nullptr) return 0;
  if (text[at + 2] == 'Z' || text[at + 2] == 'X') return 0;  // dead, only not collected yet
  return strtoull(p, nullptr, 10);
}

Result<SessionDirectory> SessionDirectory::create(const SessionOptions& options) {
  SessionDirectory session;
  std::string root = options.root.empty() ? default_session_root() : options.root;
  if (options.directory.empty()) {
    session.path_ = root + "/" + new_session_id();
    int error = ENOENT;
    for (int i = 0; error == ENOENT && i < kRootAttempts;
         ++i) {  // a leaving cluster may remove the root meanwhile
      SHEAF_TRY(make_private_directory(root, kWritableByOthers));
      error = mkdir(session.path_.c_str(), 0700) == 0 ? 0 : errno;
    }
    if (error != 0) return Status::from_errno("cannot make " + session.path_, error);
  } else {
    session.path_ = options.directory;
  }
  SHEAF_TRY(make_private_directory(session.path_));
  session.lock_ = take_lock(session.path_);
  if (!session.lock_)
    return Status(StatusCode::kAlreadyExists, "a cluster is running in " + session.path_);
  // What an earlier daemon in this directory left and nobody may mistake for ours. Its cluster.json
  // says by its pid that it is not, and how to start it again, should this attempt fail.
  for (const char* name : {"/sheafd.sock", "/bells", "/spill"})
    remove_tree(session.path_ + name);
  session.resumed_ = access(session.journal_path().c_str(), F_OK) == 0;
  for (const char* name : {"/logs", "/bells"})
    SHEAF_TRY(make_private_directory(session.path_ + name));
  return session;
}

Status SessionDirectory::publish(const std::string& cluster_json) {
  std::string name = path_ + "/cluster.json", draft = name + ".new";
  Fd fd(::open(draft.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd) return Status::from_errno(draft, errno);
  if (::write(fd.get(), cluster_json.data(), cluster_json.size()) !=
      static_cast<ssize_t>(cluster_json.size())) {
    return Status::from_errno(draft, errno);
  }
  if (rename(draft.c_str(), name.c_str()) != 0) return Status::from_errno(name, errno);
  return {};
}

void SessionDirectory::remove(bool keep_logs) {
  if (path_.empty()) return;
  if (keep_logs) {
    for (const char* name : {"/cluster.json", "/sheafd.sock", "/bells", "/spill"})
      remove_tree(path_ + name);
    unlink((path_ + "/lock").c_str());
  } else {
    remove_tree(path_);
    // The root, when we were the last and it is of our making.
    std::string root = path_.substr(0, path_.rfind('/'));
    if (root.find("/sheaf", root.rfind('/')) != std::string::npos) rmdir(root.c_str());
  }
  lock_.reset();
  path_.clear();
}

int remove_stale_sessions(const std::string& root) {
  // Look first: a root that is not safely ours is none of our business here.
  auto fd = open_directory(root);
  struct stat st{};
  if (!fd || fstat(fd->get(), &st) != 0 || st.st_uid != geteuid() || (st.st_mode & 077) != 0)
    return 0;
  DIR* dir = fdopendir(fd->release());
  if (dir == nullptr) return 0;
  std::vector<std::string> found;
  while (dirent* e = readdir(dir)) {
    if (e->d_name[0] != '.') found.push_back(root + "/" + e->d_name);
  }
  closedir(dir);
  int removed = 0;
  for (const std::string& path : found) {
    if (access((path + "/lock").c_str(), F_OK) != 0 || !is_stale(path)) continue;
    Fd lock = take_lock(path);
    if (lock && is_stale(path) && remove_tree(path)) ++removed;
  }
  return removed;
}

}  // namespace sheaf::launchers
