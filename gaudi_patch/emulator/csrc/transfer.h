#pragma once

#include "scheduler.h"
#include "tensors.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace hpu_emulator {

// Copies between host and device.  A DMA engine bypasses the processor's caches, and so does `dma` if the processor
// supports it.  In the bridge, one thread copies unpinned host memory through the bridge's own pinned buffer, which it
// keeps for the next copy (backend/synapse_helpers/device.cpp:1157-1190, 1412-1490; host_memory.cpp).  Here the bytes
// take the same path, so that pinning saves time and does not only change a counter.

constexpr size_t kBounceKept = size_t{256} << 20; // a larger buffer (a model's weights) is freed at once

inline void dma(void* to, const void* from, size_t n) {
#ifdef __SSE2__
  constexpr size_t kLine = 64;
  auto* target = static_cast<char*>(to);
  const auto* source = static_cast<const char*>(from);
  const size_t head = std::min(n, (kLine - reinterpret_cast<uintptr_t>(target) % kLine) % kLine);
  std::memcpy(target, source, head);
  size_t at = head;
  for (; at + kLine <= n; at += kLine) {
    for (size_t part = 0; part < kLine; part += sizeof(__m128i)) {
      const auto value = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + at + part));
      _mm_stream_si128(reinterpret_cast<__m128i*>(target + at + part), value);
    }
  }
  std::memcpy(target + at, source + at, n - at);
  _mm_sfence();
#else
  std::memcpy(to, from, n);
#endif
}

// One buffer is enough: the scheduler's lock lets one job run at a time.
class BounceBuffer {
 public:
  void* reserve(size_t n) {
    if (n > size_) {
      buffer_.reset(); // first, so that the two buffers never coexist
      buffer_.reset(std::malloc(n));
      size_ = buffer_ ? n : 0;
    }
    TORCH_CHECK_WITH(OutOfMemoryError, buffer_, "hpu emulator: cannot allocate a bounce buffer of ", n, " bytes");
    return buffer_.get();
  }
  void settle() {
    if (size_ > kBounceKept) {
      buffer_.reset();
      size_ = 0;
    }
  }

 private:
  struct Free {
    void operator()(void* pointer) const {
      std::free(pointer);
    }
  };
  std::unique_ptr<void, Free> buffer_;
  size_t size_ = 0;
};

inline bool plain_bytes(const Tensor& tensor) {
  return tensor.is_contiguous() && !tensor.is_conj() && !tensor.is_neg();
}

// Copies between two CPU tensors, one over the memory of each side.
inline void transfer(const Tensor& to, const Tensor& from, bool to_device, bool pinned) {
  if (to.scalar_type() != from.scalar_type() || !plain_bytes(to) || !plain_bytes(from)) {
    PlainDispatch plain;
    to.copy_(from);
    return;
  }
  const size_t n = bytes_of(from);
  void* target = to.mutable_data_ptr();
  const void* source = from.const_data_ptr();
  if (pinned || n == 0) {
    dma(target, source, n);
    return;
  }
  static auto* bounce = new BounceBuffer; // leaked: work may run at the end of the process
  void* buffer = bounce->reserve(n);
  if (to_device) {
    std::memcpy(buffer, source, n);
    dma(target, buffer, n);
  } else {
    dma(buffer, source, n);
    std::memcpy(target, buffer, n);
  }
  bounce->settle();
}

} // namespace hpu_emulator
