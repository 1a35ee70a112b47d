#pragma once

#include "lock.h"
#include "scheduler.h"
#include "tensors.h"
#include "transfer.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <sstream>
#include <utility>

namespace hpu_emulator {

// Copies.

inline Runtime& runtime() {
  return Runtime::get();
}

// Enqueues a device-to-device copy, which is an operator like any other.
inline void enqueue_copy(const Tensor& to, const Tensor& from, const char* name) {
  auto& r = runtime();
  static const std::hash<std::string> hash_name;
  Hash signature;
  signature.mix(hash_name(name));
  mix_tensor(signature, to);
  mix_tensor(signature, from);
  count_view_write(to);
  if (to.scalar_type() == from.scalar_type()) { // a cast does not count as a copy
    ++r.counters.d2d_copies;
    r.counters.d2d_bytes += bytes_of(to);
  }
  r.counters.device_traffic_bytes += bytes_of(from) + bytes_of(to);
  if (r.tracing) {
    r.graph.text += std::string(name) + "(" + describe(to) + ", " + describe(from) + "); ";
  }
  const std::pair<const StorageImpl*, int64_t> operands[] = {
      {host_of(to), to.storage_offset()}, {host_of(from), from.storage_offset()}};
  const StorageImpl* written[] = {host_of(to)};
  r.enqueue(name, signature, operands, written, [to = host_alias(to), from = host_alias(from)] {
    PlainDispatch plain;
    to.copy_(from);
  });
}

inline void count_copy(bool to_device, const Tensor& host, int64_t nbytes, bool non_blocking) {
  auto& r = runtime();
  auto& c = r.counters;
  const bool pinned = is_direct(host);
  ++(to_device ? c.h2d_copies : c.d2h_copies);
  (to_device ? c.h2d_bytes : c.d2h_bytes) += nbytes;
  if (pinned) {
    ++c.pinned_copies;
    c.pinned_bytes += nbytes;
  } else {
    ++c.unpinned_copies;
    c.bounce_bytes += nbytes;
    c.nonblocking_unpinned_copies += non_blocking ? 1 : 0;
  }
  // A device-to-host copy to unpinned memory is documented to block, but the 1.19 sources run it in the background
  // (backend/helpers/tensor_utils.cpp:411-446).  Here it counts as blocking and runs in the background.
  c.blocking_copies += !non_blocking || (!to_device && !pinned) ? 1 : 0;
  if (r.tracing) {
    std::ostringstream fields;
    fields << ",\"bytes\":" << nbytes << ",\"pinned\":" << (pinned ? "true" : "false")
           << ",\"non_blocking\":" << (non_blocking ? "true" : "false") << ",\"stream\":" << current_stream;
    r.traced(to_device ? "h2d" : "d2h", fields.str());
  }
}

// Runs the copy as late as its contract allows.  A blocking copy runs at once, before earlier work of its stream, if no
// queued work uses its device memory: the DMA engine need not wait for unrelated work.
inline void schedule_copy(bool untouched, bool non_blocking, Job job, bool held = false) {
  auto& r = runtime();
  if (!non_blocking && untouched) {
    job();
    return;
  }
  Work work;
  work.jobs.push_back(std::move(job));
  work.held = held;
  const auto sequence = r.push(std::move(work));
  if (!non_blocking) {
    r.run(current_stream, sequence);
    r.raise_device_error();
  }
}

// Returns whether a copy of this host memory runs in a thread that no wait covers.
inline bool is_late(const Tensor& host, bool non_blocking) {
  const auto& options = runtime().options;
  return non_blocking && options.bounces == Options::kLate && options.schedule != Options::kSync && !is_pinned(host) &&
      !is_converted(host);
}

inline bool untouched(const StorageImpl* host) {
  return c10::raw::intrusive_ptr::use_count(const_cast<StorageImpl*>(host)) == 1; // only its Block refers to it
}

inline void check_int32_range(const Tensor& host) {
  if (runtime().options.int64_as_int32 && host.scalar_type() == at::kLong && host.numel() > 0) {
    PlainDispatch plain;
    const auto low = host.min().item<int64_t>();
    const auto high = host.max().item<int64_t>();
    // habana_kernels/lazy_kernels.cpp:281-299
    TORCH_CHECK(
        low >= std::numeric_limits<int32_t>::min() && high <= std::numeric_limits<int32_t>::max(),
        "Error when trying to cast Long to Int, Input values range [", low, ", ", high, "] exceeds Int range [",
        std::numeric_limits<int32_t>::min(), ", ", std::numeric_limits<int32_t>::max(), "]");
  }
}

inline int64_t dma_bytes(const Tensor& tensor) {
  const bool halved = runtime().options.int64_as_int32 && tensor.scalar_type() == at::kLong;
  return halved ? bytes_of(tensor) / 2 : bytes_of(tensor);
}

inline void copy_to_contiguous_device(const Tensor& to, const Tensor& from, bool non_blocking) {
  auto& r = runtime();
  check_int32_range(from);
  const auto* host = host_of(to);
  if (r.writes_pending(host)) {
    r.launch("h2d"); // habana_kernels/lazy_kernels.cpp:1000-1004
  } else if (r.reads_pending(host)) {
    // The bridge does not cut here, but keeping the program's order requires it; hence a cause of its own.
    r.launch("h2d_into_input");
  }
  count_copy(/*to_device=*/true, from, dma_bytes(from), non_blocking);
  const bool pinned = is_direct(from);
  r.land_on_device(host);
  for (auto& late : r.late_hosts) { // device.cpp:1273-1274
    if (late.target.defined() && late.target.const_data_ptr() == from.const_data_ptr()) {
      r.land_on_host(late);
      late.target = at::Tensor();
    }
  }
  const auto landed = [](const Runtime::LateHost& late) { return !late.target.defined(); };
  r.late_hosts.erase(std::remove_if(r.late_hosts.begin(), r.late_hosts.end(), landed), r.late_hosts.end());
  if (is_late(from, non_blocking)) {
    r.forget_late();
    r.late_devices[host].push_back([to = host_alias(to), from] { transfer(to, from, /*to_device=*/true, false); });
    return;
  }
  const bool free_now = untouched(host);
  if (!non_blocking) {
    schedule_copy(free_now, false, [to = host_alias(to), from, pinned] {
      transfer(to, from, /*to_device=*/true, pinned);
    });
    return;
  }
  // The source is read when the copy runs, not now, which exposes a source overwritten too early.
  const auto* begin = static_cast<const char*>(from.const_data_ptr());
  const auto extent = at::detail::computeStorageNbytes(from.sizes(), from.strides(), from.element_size());
  r.host_reads.emplace_back(begin, extent);
  schedule_copy(free_now, true, [to = host_alias(to), from, begin, extent, pinned] {
    auto& reads = runtime().host_reads;
    const auto found = std::find(reads.begin(), reads.end(), std::make_pair(begin, extent));
    if (found != reads.end()) {
      reads.erase(found);
    }
    transfer(to, from, /*to_device=*/true, pinned);
  });
}

inline void copy_host_to_device(const Tensor& to, const Tensor& from, bool non_blocking) {
  auto& r = runtime();
  const bool through_view = r.options.lazy && is_marked_view(to);
  if (to.is_contiguous() && to.scalar_type() == from.scalar_type() && !through_view) {
    copy_to_contiguous_device(to, from, non_blocking);
    return;
  }
  // A view (lazy_kernels.cpp:1112-1133), a strided tensor or another dtype needs a plain copy, then an operator.
  const auto staged = new_contiguous(from.sizes(), from.scalar_type());
  copy_to_contiguous_device(staged, from, non_blocking);
  enqueue_copy(to, staged, through_view || !to.is_contiguous() ? "strided_insert" : "cast");
}

inline void poison_host(const Tensor& host) {
  if (!poison_enabled) {
    return;
  }
  const auto* begin = static_cast<const char*>(host.const_data_ptr());
  const auto extent = at::detail::computeStorageNbytes(host.sizes(), host.strides(), host.element_size());
  for (const auto& [other, length] : runtime().host_reads) {
    if (other < begin + extent && begin < other + length) {
      return; // an earlier queued copy still has to read it, which is legal in stream order
    }
  }
  if (host.is_contiguous()) {
    std::memset(host.mutable_data_ptr(), kPoison, bytes_of(host));
  } else {
    auto filler = at::empty(host.sizes(), host.options().pinned_memory(false));
    std::memset(filler.mutable_data_ptr(), kPoison, bytes_of(filler));
    host.copy_(filler);
  }
}

inline void copy_device_to_host(const Tensor& to, const Tensor& source, bool non_blocking) {
  auto& r = runtime();
  Tensor from = source;
  if (from.scalar_type() != to.scalar_type()) {
    const auto cast = new_contiguous(from.sizes(), to.scalar_type());
    enqueue_copy(cast, from, "cast");
    from = cast;
  } else if (!from.is_contiguous()) {
    const auto packed = new_contiguous(from.sizes(), from.scalar_type());
    enqueue_copy(packed, from, "as_strided");
    from = packed;
  }
  bool lost = false;
  int64_t misplaced_by = 0;
  if (r.options.noncontiguous_d2h != Options::kCopy) {
    // Lazy: lazy_kernels.cpp:858 rebinds `self` to a contiguous copy and never writes back.  Eager:
    // habana_eager/ops/copy_from.cpp:188-202 resets the destination's storage offset.
    lost = r.options.lazy && !to.is_contiguous();
    misplaced_by = !r.options.lazy && to.is_contiguous() && !source.is_contiguous() ? to.storage_offset() : 0;
    TORCH_CHECK(
        r.options.noncontiguous_d2h != Options::kRefuse || (!lost && misplaced_by == 0),
        "hpu emulator: this copy to the host is lost or misplaced by the bridge: ",
        lost ? "the destination is not contiguous"
             : "the source is not contiguous and the destination has a storage offset");
  }
  const auto* host = host_of(from);
  if (r.writes_pending(host)) {
    r.launch("d2h"); // lazy_kernels.cpp:693-710; a copy of an input of the pending graph does not cut it
  }
  count_copy(/*to_device=*/false, to, dma_bytes(from), non_blocking);
  r.land_on_device(host);
  const bool free_now = untouched(host);
  non_blocking = non_blocking && !is_converted(to); // converted on the host after a blocking copy
  if (non_blocking && !lost) {
    poison_host(to);
  }
  Tensor target = to;
  if (misplaced_by != 0) {
    target = to.as_strided(to.sizes(), to.strides(), 0);
  }
  if (is_late(to, non_blocking) && !lost) {
    r.forget_late();
    const auto buffer = at::empty(target.sizes(), target.options().pinned_memory(false));
    Work work;
    work.jobs.push_back([buffer, from = host_alias(from)] { transfer(buffer, from, /*to_device=*/false, true); });
    const auto sequence = r.push(std::move(work));
    r.late_hosts.push_back({target, buffer, current_stream, sequence});
    return;
  }
  const bool held = non_blocking && r.options.held_d2h && r.options.lazy;
  schedule_copy(
      free_now, non_blocking,
      [target, from = host_alias(from), lost, pinned = is_direct(to)] {
        if (!lost) {
          transfer(target, from, /*to_device=*/false, pinned);
        }
      },
      held);
}

inline Tensor& copy_(Tensor& self, const Tensor& src, bool non_blocking) {
  TORCH_CHECK(self.defined() && src.defined(), "copy_: undefined tensor");
  if (self.is_same(src)) {
    return self;
  }
  const auto from = src.sizes() == self.sizes() ? src : src.expand(self.sizes());
  if (self.numel() == 0) {
    return self;
  }
  Lock lock;
  PlainDispatch plain;
  if (is_device(self) && is_device(from)) {
    enqueue_copy(self, from, self.scalar_type() == from.scalar_type() ? "copy_" : "cast");
  } else if (is_device(self)) {
    TORCH_CHECK(from.is_cpu(), "hpu: cannot copy from ", from.device());
    copy_host_to_device(self, from, non_blocking);
  } else {
    TORCH_CHECK(self.is_cpu(), "hpu: cannot copy to ", self.device());
    copy_device_to_host(self, from, non_blocking);
  }
  return self;
}

inline Tensor copy_from(const Tensor& self, const Tensor& destination, bool non_blocking) {
  Tensor target = destination;
  return copy_(target, self, non_blocking);
}

inline Tensor copy_from_and_resize(const Tensor& self, const Tensor& destination) {
  destination.resize_(self.sizes());
  return copy_from(self, destination, false);
}

inline at::Scalar local_scalar_dense(const Tensor& self) {
  Lock lock;
  PlainDispatch plain;
  auto& r = runtime();
  if (r.writes_pending(host_of(self))) {
    r.launch("item");
  }
  auto value = at::empty({1}, at::TensorOptions().dtype(self.dtype()).device(c10::kCPU));
  copy_device_to_host(value, self.as_strided({1}, {1}, self.storage_offset()), false);
  return at::_local_scalar_dense(value);
}

} // namespace hpu_emulator
