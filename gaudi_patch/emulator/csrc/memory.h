#pragma once

#include "card.h"
#include "types.h"

#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <strings.h>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace hpu_emulator {

constexpr size_t kAlignment = 128; // device cache line; LMCache and vllm-gaudi align their pools to it
constexpr size_t kPageBytes = 4096;
constexpr size_t kFreedPoisonBytes = size_t{1} << 20;
constexpr size_t kQuarantineBytes = size_t{16} << 20;
// Enough for storing eight chunks of an 8B model: the rows and the joined rows, 256 MiB each, and some reserve.  With
// less, every such store uses fresh memory of the host, and page faults take a third of its time.
constexpr size_t kCacheBytes = size_t{1} << 30;

// Memory.  A device storage's data pointer owns a Block, and the Block owns a CPU StorageImpl over the same bytes.  CPU
// aliases share this StorageImpl, so queued work keeps the bytes alive after Python has dropped the tensor, as with a
// stream-ordered allocator.  The accounting below counts only what the program holds.

struct MemoryStats {
  std::atomic<int64_t> live{0};
  std::atomic<int64_t> peak{0}; // since reset_peak_memory, for torch.hpu.max_memory_allocated
  std::atomic<int64_t> window_peak{0}; // since the counters' reset
  std::atomic<int64_t> window_base{0};
  std::atomic<int64_t> allocations{0}, frees{0}, largest{0};
  std::atomic<int64_t> total_allocations{0}, total_frees{0}; // not reset

  static void raise_to(std::atomic<int64_t>& target, int64_t value) {
    int64_t seen = target.load();
    while (value > seen && !target.compare_exchange_weak(seen, value)) {
    }
  }
  void allocated(int64_t n) {
    const int64_t now = live.fetch_add(n) + n;
    raise_to(peak, now);
    raise_to(window_peak, now);
    raise_to(largest, n);
    ++allocations;
    ++total_allocations;
  }
  void freed(int64_t n) {
    live -= n;
    ++frees;
    ++total_frees;
  }
};

inline MemoryStats& memory() {
  static auto* stats = new MemoryStats;
  return *stats;
}

inline std::atomic<bool> poison_enabled{true};

inline bool int64_supported() { // backend/helpers: IsInt64Supported
  const char* value = std::getenv("PT_ENABLE_INT64_SUPPORT");
  return value && (std::strcmp(value, "1") == 0 || strcasecmp(value, "true") == 0);
}

// Device memory.  A freed block is poisoned and quarantined, so that a stale address reads poison instead of crashing
// or, worse, reading old data.  Later it is reused, which avoids the page faults of fresh memory.
class Pool {
 public:
  void* take(size_t n) {
    const size_t size = rounded(n);
    void* ptr = nullptr;
    bool poisoned = false;
    {
      std::lock_guard<std::mutex> guard(mutex_);
      auto found = free_.find(size);
      if (found != free_.end() && !found->second.empty()) {
        std::tie(ptr, poisoned) = found->second.back();
        found->second.pop_back();
        cached_ -= size;
      }
    }
    if (!ptr) {
      TORCH_CHECK_WITH(
          OutOfMemoryError, posix_memalign(&ptr, kAlignment, size) == 0, "hpu emulator: cannot allocate ", n, " bytes");
    }
    if (poison_enabled && !poisoned) {
      std::memset(ptr, kPoison, n);
    }
    return ptr;
  }

  void give_back(void* ptr, size_t n) {
    const size_t size = rounded(n);
    const bool poisoned = poison_enabled;
    if (poisoned) {
      std::memset(ptr, kPoison, std::min(size, kFreedPoisonBytes));
    }
    std::lock_guard<std::mutex> guard(mutex_);
    quarantine_.emplace_back(ptr, size, poisoned && size <= kFreedPoisonBytes);
    quarantined_ += size;
    while (quarantined_ > kQuarantineBytes) {
      const auto [old, length, filled] = quarantine_.front();
      quarantine_.pop_front();
      quarantined_ -= length;
      if (cached_ + length > kCacheBytes) {
        std::free(old);
      } else {
        free_[length].emplace_back(old, filled);
        cached_ += length;
      }
    }
  }

 private:
  // Rounds up to eighths of the next power of two, so that a freed block also serves requests of a similar size.
  static size_t rounded(size_t n) {
    size_t step = kAlignment;
    while (step * 8 < n) {
      step *= 2;
    }
    return (n + step - 1) / step * step;
  }

  std::mutex mutex_;
  // The flag of each block says whether poison fills all of it.
  std::deque<std::tuple<void*, size_t, bool>> quarantine_;
  std::unordered_map<size_t, std::vector<std::pair<void*, bool>>> free_;
  size_t quarantined_ = 0, cached_ = 0;
};

inline Pool& pool() {
  static auto* p = new Pool;
  return *p;
}

struct Allocation {
  void* ptr;
  size_t nbytes;
};

inline void free_allocation(void* context) {
  std::unique_ptr<Allocation> allocation(static_cast<Allocation*>(context));
  pool().give_back(allocation->ptr, allocation->nbytes);
}

struct Block {
  c10::intrusive_ptr<StorageImpl> host;
  int64_t nbytes;
};

// The live blocks by address.  PyTorch sometimes wraps a bare address of device memory (at::from_blob, in pickling for
// example).  Such a storage has no Block of its own, and its block is looked up here.
struct LiveBlocks {
  std::mutex mutex;
  std::map<uintptr_t, Block*> by_address;
};

inline LiveBlocks& live_blocks() {
  static auto* blocks = new LiveBlocks;
  return *blocks;
}

inline void delete_block(void* context) {
  std::unique_ptr<Block> block(static_cast<Block*>(context));
  memory().freed(block->nbytes);
  std::lock_guard<std::mutex> guard(live_blocks().mutex);
  live_blocks().by_address.erase(reinterpret_cast<uintptr_t>(block->host->data()));
}

inline c10::Device current_device() {
  return {kDevice, 0};
}

inline c10::DataPtr allocate_block(size_t n) {
  void* ptr = nullptr;
  c10::DataPtr host_data(nullptr, c10::Device(c10::kCPU));
  if (n > 0) {
    ptr = pool().take(n);
    host_data = c10::DataPtr(ptr, new Allocation{ptr, n}, &free_allocation, c10::Device(c10::kCPU));
  }
  auto host = c10::make_intrusive<StorageImpl>(
      StorageImpl::use_byte_size_t(), static_cast<int64_t>(n), std::move(host_data), nullptr, /*resizable=*/false);
  memory().allocated(static_cast<int64_t>(n));
  auto* block = new Block{std::move(host), static_cast<int64_t>(n)};
  if (ptr) {
    std::lock_guard<std::mutex> guard(live_blocks().mutex);
    live_blocks().by_address[reinterpret_cast<uintptr_t>(ptr)] = block;
  }
  return {ptr, block, &delete_block, current_device()};
}

// The place of a storage's bytes: the CPU storage that owns them, and the distance in bytes from its start.
struct Place {
  StorageImpl* host;
  int64_t distance;
};

inline Place place_of(const c10::Storage& storage) {
  const auto& data = storage.data_ptr();
  if (data.get_deleter() == &delete_block) {
    return {static_cast<Block*>(data.get_context())->host.get(), 0};
  }
  const auto address = reinterpret_cast<uintptr_t>(data.get());
  std::lock_guard<std::mutex> guard(live_blocks().mutex);
  const auto& blocks = live_blocks().by_address;
  auto found = blocks.upper_bound(address);
  TORCH_CHECK(found != blocks.begin(), "hpu emulator: an hpu storage over memory that is not the device's");
  --found;
  const auto distance = static_cast<int64_t>(address - found->first);
  TORCH_CHECK(
      distance + static_cast<int64_t>(storage.nbytes()) <= found->second->nbytes,
      "hpu emulator: an hpu storage over memory that is not the device's, or was freed");
  return {found->second->host.get(), distance};
}

inline StorageImpl* host_of(const Tensor& tensor) {
  return place_of(tensor.storage()).host;
}

// Pinned memory is recognised only by the base address of an allocation, as in the bridge
// (backend/synapse_helpers/host_memory.cpp:114-131): a slice of a pinned buffer counts as unpinned.
struct PinnedBlocks {
  std::mutex mutex;
  std::unordered_map<const void*, size_t> bases;
  size_t held = 0;
  size_t limit = 0; // in bytes; 0: no limit

  bool contains(const void* ptr) {
    std::lock_guard<std::mutex> guard(mutex);
    return bases.count(ptr) != 0;
  }
};

inline PinnedBlocks& pinned_blocks() {
  static auto* blocks = new PinnedBlocks;
  return *blocks;
}

inline void free_pinned(void* ptr) {
  {
    std::lock_guard<std::mutex> guard(pinned_blocks().mutex);
    auto& bases = pinned_blocks().bases;
    const auto found = bases.find(ptr);
    if (found != bases.end()) {
      pinned_blocks().held -= found->second;
      bases.erase(found);
    }
  }
  std::free(ptr);
}

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    if (n == 0) {
      return {nullptr, c10::Device(c10::kCPU)};
    }
    card().acquire();
    auto& blocks = pinned_blocks();
    {
      std::lock_guard<std::mutex> guard(blocks.mutex);
      TORCH_CHECK(
          blocks.limit == 0 || blocks.held + n <= blocks.limit, "synHostMalloc failed to allocate ", n,
          " bytes: this process has pinned ", blocks.held, " of ", blocks.limit, " bytes");
      blocks.held += n;
    }
    void* ptr = nullptr;
    if (posix_memalign(&ptr, kPageBytes, n) != 0) {
      std::lock_guard<std::mutex> guard(blocks.mutex);
      blocks.held -= n;
      TORCH_CHECK_WITH(OutOfMemoryError, false, "hpu emulator: cannot pin ", n, " bytes");
    }
    if (poison_enabled) {
      std::memset(ptr, kPoison, n);
    }
    std::lock_guard<std::mutex> guard(blocks.mutex);
    blocks.bases.emplace(ptr, n);
    return {ptr, ptr, &free_pinned, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return &free_pinned;
  }
  void copy_data(void* dest, const void* src, size_t count) const override {
    default_copy_data(dest, src, count);
  }
};

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    card().acquire();
    return allocate_block(n);
  }
  void copy_data(void* dest, const void* src, size_t count) const override {
    default_copy_data(dest, src, count);
  }
};

inline PinnedAllocator pinned_allocator;
inline DeviceAllocator device_allocator;

inline bool is_pinned(const Tensor& host) {
  return host.is_contiguous() && pinned_blocks().contains(host.const_data_ptr());
}

// Returns whether the host converts this type, in the bridge's own memory, before or after the copy: int64 and float64
// (habana_eager/ops/copy_from.cpp:213-219, 376-384; habana_kernels/lazy_kernels.cpp:310-331).
inline bool is_converted(const Tensor& host) {
  return host.scalar_type() == ScalarType::Double || (host.scalar_type() == ScalarType::Long && !int64_supported());
}

// Returns whether the DMA engine accesses the host memory directly.
inline bool is_direct(const Tensor& host) {
  return is_pinned(host) && !is_converted(host);
}

} // namespace hpu_emulator
