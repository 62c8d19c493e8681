// SPDX-License-Identifier: Apache-2.0
#include "storage/file_system.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "base/os_error.h"
#include "base/try.h"

namespace varve::storage {
namespace {

struct Magic {
  std::uint32_t value;
  const char* name;
};

// statfs(2) and linux/magic.h; those that have no constant there come from each file system's own source.
constexpr Magic kMagics[] = {
    {EXT4_SUPER_MAGIC, "ext4"},
    {XFS_SUPER_MAGIC, "xfs"},
    {BTRFS_SUPER_MAGIC, "btrfs"},
    {TMPFS_MAGIC, "tmpfs"},
    {RAMFS_MAGIC, "ramfs"},
    {OVERLAYFS_SUPER_MAGIC, "overlayfs"},
    {NFS_SUPER_MAGIC, "nfs"},
    {FUSE_SUPER_MAGIC, "fuse"},
    {F2FS_SUPER_MAGIC, "f2fs"},
    {SMB_SUPER_MAGIC, "smb"},
    {CIFS_SUPER_MAGIC, "cifs"},
    {SMB2_SUPER_MAGIC, "smb2"},
    {V9FS_MAGIC, "9p"},
    {CEPH_SUPER_MAGIC, "ceph"},
    {MSDOS_SUPER_MAGIC, "vfat"},
    {OCFS2_SUPER_MAGIC, "ocfs2"},
    {AFS_SUPER_MAGIC, "afs"},
    {SQUASHFS_MAGIC, "squashfs"},
    {ISOFS_SUPER_MAGIC, "iso9660"},
    {0x2FC12FC1, "zfs"},
    {0x0BD00BD0, "lustre"},
    {0x47504653, "gpfs"},
    {0x19830326, "beegfs"},
    {0xCA451A4E, "bcachefs"},
    {0x01161970, "gfs2"},
    {0x2011BAB0, "exfat"},
    {0x20030528, "orangefs"},
};

std::string type_of(std::uint32_t magic) {
  for (const Magic& known : kMagics)
    if (known.value == magic) return known.name;
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", magic);
  return text;
}

struct Mount {
  std::string type;
  std::string options;  // of the super block
};

struct CloseFile {
  void operator()(FILE* file) const { std::fclose(file); }
};
struct Free {
  void operator()(char* memory) const { std::free(memory); }
};

/// The line of a device in /proc/self/mountinfo (proc(5)): "ID PARENT MAJOR:MINOR ROOT POINT OPTIONS ... - TYPE SOURCE
/// SUPER". Empty when there is none (no /proc, or btrfs, whose subvolumes have device numbers of their own).
Mount find_mount(dev_t device) {
  const std::unique_ptr<FILE, CloseFile> file(std::fopen("/proc/self/mountinfo", "re"));
  if (file == nullptr) return {};
  Mount found;
  char* memory = nullptr;
  std::size_t capacity = 0;
  while (getline(&memory, &capacity, file.get()) > 0) {
    unsigned major_number = 0;
    unsigned minor_number = 0;
    if (std::sscanf(memory, "%*d %*d %u:%u", &major_number, &minor_number) != 2) continue;
    const char* separator = std::strstr(memory, " - ");
    if (makedev(major_number, minor_number) != device || separator == nullptr) continue;
    char* state = nullptr;
    std::string fields(separator + 3);
    const char* type = strtok_r(fields.data(), " \n", &state);
    strtok_r(nullptr, " \n", &state);  // source
    const char* options = strtok_r(nullptr, " \n", &state);
    if (type != nullptr) found.type = type;
    if (options != nullptr) found.options = std::string(",") + options + ",";
    break;
  }
  const std::unique_ptr<char, Free> release(memory);
  return found;
}

bool survives_power_loss(std::uint32_t magic) { return magic != TMPFS_MAGIC && magic != RAMFS_MAGIC; }

/// Whether the layer that an overlay writes to does, as far as it can be seen: a container often can't.
bool upper_layer_survives(const std::string& options) {
  const std::string_view key = ",upperdir=";
  const auto at = options.find(key);
  if (at == std::string::npos) return true;
  const auto begin = at + key.size();
  const std::string path = options.substr(begin, options.find(',', begin) - begin);
  struct statfs upper {};
  return statfs(path.c_str(), &upper) != 0 || survives_power_loss(static_cast<std::uint32_t>(upper.f_type));
}

}  // namespace

Result<FileSystemTraits> describe_file_system(const Directory& directory) {
  const std::string what = "look at the file system of " + directory.path() + " failed";
  if (directory.fd() < 0) return forked_error(what);
  struct statfs basic {};
  struct statvfs space {};
  struct stat status {};
  if (fstatfs(directory.fd(), &basic) != 0 || fstatvfs(directory.fd(), &space) != 0 ||
      fstat(directory.fd(), &status) != 0)
    return os_error(what, errno);
  const auto magic = static_cast<std::uint32_t>(basic.f_type);
  FileSystemTraits traits;
  traits.type = type_of(magic);
  traits.free_bytes = static_cast<std::uint64_t>(space.f_bavail) * space.f_frsize;
  traits.durable = survives_power_loss(magic);
  // ext2, ext3 and ext4 share a number, and so does everything behind FUSE ("fuse.sshfs").
  if (magic == EXT4_SUPER_MAGIC || magic == FUSE_SUPER_MAGIC) {
    const Mount mount = find_mount(status.st_dev);
    const bool plausible = mount.type.starts_with("ext") || mount.type.starts_with("fuse");
    if (plausible) traits.type = mount.type;
  }
  // An overlay mounted `volatile` leaves out every sync (Documentation/filesystems/overlayfs.rst). Newer kernels list
  // it as "fsync=volatile", however it was mounted.
  if (magic == OVERLAYFS_SUPER_MAGIC) {
    const std::string options = find_mount(status.st_dev).options;
    for (const char* option : {",volatile,", ",fsync=volatile,"})
      if (options.find(option) != std::string::npos) traits.durable = false;
    if (!upper_layer_survives(options)) traits.durable = false;
  }
  return traits;
}

bool probe_direct(const Directory& directory) {
  Result<UniqueFd> file = directory.temporary_file();
  if (!file || fcntl(file->get(), F_SETFL, O_DIRECT) != 0) return false;
  struct Block {
    alignas(kIoAlignment) char bytes[kIoAlignment];
  };
  const auto written = std::make_unique<Block>();
  const auto back = std::make_unique<Block>();
  std::memset(written->bytes, 0x5a, kIoAlignment);
  std::memset(back->bytes, 0, kIoAlignment);
  return pwrite(file->get(), written->bytes, kIoAlignment, 0) == static_cast<ssize_t>(kIoAlignment) &&
         pread(file->get(), back->bytes, kIoAlignment, 0) == static_cast<ssize_t>(kIoAlignment) &&
         std::memcmp(written->bytes, back->bytes, kIoAlignment) == 0;
}

}  // namespace varve::storage
