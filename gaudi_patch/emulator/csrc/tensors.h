#pragma once

#include "lock.h"
#include "memory.h"
#include "scheduler.h"

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <c10/core/ScalarTypeToTypeMeta.h>
#include <c10/core/TensorImpl.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace hpu_emulator {

// Tensors.

// Marks the result of a view operator.  The bridge distinguishes such tensors (a lazy tensor with stride_params), and
// turns a write through one into a strided_insert into its base (habana_kernels/lazy_kernels.cpp:403-445).
struct ViewMark final : c10::BackendMeta {};

inline const c10::intrusive_ptr<c10::BackendMeta>& view_mark() {
  static auto* mark = new c10::intrusive_ptr<c10::BackendMeta>(c10::make_intrusive<ViewMark>());
  return *mark;
}

inline bool is_marked_view(const Tensor& tensor) {
  return tensor.unsafeGetTensorImpl()->get_backend_meta() == view_mark().get();
}

inline bool is_device(const Tensor& tensor) {
  return tensor.device().type() == kDevice;
}

inline Tensor new_tensor(at::IntArrayRef sizes, at::IntArrayRef strides, ScalarType dtype) {
  const auto type = c10::scalarTypeToTypeMeta(dtype);
  const size_t nbytes = at::detail::computeStorageNbytes(sizes, strides, type.itemsize());
  auto storage = c10::make_intrusive<StorageImpl>(
      StorageImpl::use_byte_size_t(),
      static_cast<int64_t>(nbytes),
      device_allocator.allocate(nbytes),
      &device_allocator,
      /*resizable=*/true);
  auto tensor =
      at::detail::make_tensor<c10::TensorImpl>(c10::Storage(std::move(storage)), DispatchKeySet(DispatchKey::HPU), type);
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides);
  return tensor;
}

inline Tensor new_contiguous(at::IntArrayRef sizes, ScalarType dtype) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (auto i = static_cast<int64_t>(sizes.size()) - 1; i >= 0; --i) {
    strides[i] = stride;
    stride *= std::max<int64_t>(sizes[i], 1);
  }
  return new_tensor(sizes, strides, dtype);
}

// Makes a view with the base's storage *and key set*: without the latter, torch.inference_mode() fails with "Cannot
// set version_counter for inference tensor".
inline Tensor new_view(
    const Tensor& base,
    at::IntArrayRef sizes,
    at::IntArrayRef strides,
    int64_t offset,
    caffe2::TypeMeta type) {
  auto view = at::detail::make_tensor<c10::TensorImpl>(
      c10::TensorImpl::VIEW, c10::Storage(base.storage()), base.key_set(), type);
  auto* impl = view.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(sizes, strides, offset);
  impl->set_backend_meta(view_mark());
  return view;
}

// Returns a CPU tensor over the same bytes.
inline Tensor host_alias(const Tensor& tensor, std::optional<ScalarType> bits = std::nullopt) {
  const auto place = place_of(tensor.storage());
  const auto type = bits ? c10::scalarTypeToTypeMeta(*bits) : tensor.dtype();
  auto cpu = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(c10::intrusive_ptr<StorageImpl>::reclaim_copy(place.host)), DispatchKeySet(DispatchKey::CPU), type);
  auto* impl = cpu.unsafeGetTensorImpl();
  const auto itemsize = static_cast<int64_t>(type.itemsize());
  TORCH_CHECK(place.distance % itemsize == 0, "hpu emulator: device memory wrapped at an odd address");
  impl->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset() + place.distance / itemsize);
  impl->_set_conj(tensor.is_conj());
  impl->_set_neg(tensor.is_neg());
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) {
    impl->set_wrapped_number(true);
  }
  return cpu;
}

inline int64_t bytes_of(const Tensor& tensor) {
  return tensor.numel() * static_cast<int64_t>(tensor.element_size());
}

inline void mix_tensor(Hash& hash, const Tensor& tensor) {
  hash.mix(static_cast<uint64_t>(tensor.scalar_type()) | uint64_t{1} << 32);
  hash.mix(tensor.sizes());
  hash.mix(tensor.strides());
}

inline std::string describe(const Tensor& tensor) {
  std::ostringstream out;
  if (!tensor.defined()) {
    return "None";
  }
  out << c10::toString(tensor.scalar_type()) << tensor.sizes();
  if (!tensor.is_contiguous()) {
    out << ":" << tensor.strides();
  }
  if (tensor.storage_offset() != 0) {
    out << "+" << tensor.storage_offset();
  }
  return out.str();
}

// Counts a write through a view: the whole base is read and written, unless the graph compiler elides that.
inline void count_view_write(const Tensor& target) {
  if (is_marked_view(target)) {
    auto& counters = Runtime::get().counters;
    const auto nbytes = 2 * static_cast<int64_t>(target.storage().nbytes());
    ++counters.view_writes;
    counters.view_write_bytes += nbytes;
    counters.device_traffic_bytes += nbytes;
  }
}

inline Tensor empty_memory_format(
    at::IntArrayRef sizes,
    std::optional<ScalarType> dtype,
    std::optional<c10::Layout> layout,
    std::optional<c10::Device> device,
    std::optional<bool> pin_memory,
    std::optional<c10::MemoryFormat> format) {
  TORCH_CHECK(!layout || *layout == c10::kStrided, "hpu: only strided tensors are supported");
  TORCH_CHECK(!pin_memory || !*pin_memory, "Only dense CPU tensors can be pinned");
  TORCH_CHECK(
      !device || device->index() <= 0, "habana active device: ", static_cast<int>(device->index()), " != 0");
  return at::detail::empty_generic(
      sizes, &device_allocator, DispatchKeySet(DispatchKey::HPU), c10::dtype_or_default(dtype), format);
}

inline Tensor empty_strided(
    at::IntArrayRef sizes,
    at::IntArrayRef strides,
    std::optional<ScalarType> dtype,
    std::optional<c10::Layout> /*layout*/,
    std::optional<c10::Device> device,
    std::optional<bool> pin_memory) {
  TORCH_CHECK(!pin_memory || !*pin_memory, "Only dense CPU tensors can be pinned");
  TORCH_CHECK(
      !device || device->index() <= 0, "habana active device: ", static_cast<int>(device->index()), " != 0");
  return at::detail::empty_strided_generic(
      sizes, strides, &device_allocator, DispatchKeySet(DispatchKey::HPU), c10::dtype_or_default(dtype));
}

inline Tensor as_strided(
    const Tensor& self,
    at::IntArrayRef sizes,
    at::IntArrayRef strides,
    std::optional<int64_t> offset) {
  const auto start = offset.value_or(self.storage_offset());
  TORCH_CHECK(sizes.size() == strides.size(), "mismatch in length of strides and shape");
  TORCH_CHECK(start >= 0, "storage_offset must be non-negative, got: ", start);
  const auto needed = at::detail::computeStorageNbytes(sizes, strides, self.element_size(), start);
  TORCH_CHECK(
      needed <= self.storage().nbytes() || c10::multiply_integers(sizes) == 0,
      "setStorage: sizes ", sizes, ", strides ", strides, ", storage offset ", start, ", and itemsize ",
      self.element_size(), " requiring a storage size of ", needed, " are out of bounds for storage of size ",
      self.storage().nbytes());
  return new_view(self, sizes, strides, start, self.dtype());
}

// Resizes a storage.  Queued work holds the old bytes, so it runs first.
inline void resize_storage(StorageImpl* storage, size_t nbytes) {
  auto& runtime = Runtime::get();
  runtime.launch("resize");
  if (storage->data_ptr().get_deleter() == &delete_block) {
    runtime.land_on_device(place_of(c10::Storage(c10::intrusive_ptr<StorageImpl>::reclaim_copy(storage))).host);
  }
  runtime.run_all();
  auto fresh = device_allocator.allocate(nbytes);
  if (storage->nbytes() > 0 && nbytes > 0) {
    std::memcpy(fresh.get(), storage->data_ptr().get(), std::min(nbytes, storage->nbytes()));
  }
  storage->set_data_ptr_noswap(std::move(fresh));
  storage->set_nbytes(nbytes);
}

inline void ensure_storage(const Tensor& self) {
  const auto needed =
      at::detail::computeStorageNbytes(self.sizes(), self.strides(), self.element_size(), self.storage_offset());
  auto* storage = self.storage().unsafeGetStorageImpl();
  if (self.numel() > 0 && needed > storage->nbytes()) {
    TORCH_CHECK(storage->resizable(), "Trying to resize storage that is not resizable");
    resize_storage(storage, needed);
  }
}

inline const Tensor& resize_(const Tensor& self, at::IntArrayRef sizes, std::optional<c10::MemoryFormat> format) {
  if (self.sizes() != sizes) {
    Lock lock;
    self.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
    ensure_storage(self);
  }
  if (format && *format != c10::MemoryFormat::Preserve) {
    self.unsafeGetTensorImpl()->empty_tensor_restride(*format);
  }
  return self;
}

inline Tensor& set_storage_offset(
    Tensor& self,
    c10::Storage source,
    int64_t offset,
    at::IntArrayRef sizes,
    at::IntArrayRef strides) {
  TORCH_CHECK(
      source.device_type() == kDevice,
      "Attempted to set the storage of a tensor on device \"hpu:0\" to a storage on different device \"",
      source.device(), "\". This is no longer allowed; the devices must match.");
  Lock lock;
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  if (strides.data() == nullptr) {
    impl->set_sizes_contiguous(sizes);
    impl->set_storage_offset(offset);
  } else {
    impl->set_sizes_and_strides(sizes, strides, offset);
  }
  ensure_storage(self);
  return self;
}

inline Tensor& set_storage(Tensor& self, c10::Storage source) {
  const auto count = static_cast<int64_t>(source.nbytes() / self.element_size());
  return set_storage_offset(self, std::move(source), 0, {count}, {});
}

inline Tensor& set_tensor(Tensor& self, const Tensor& source) {
  if (!self.is_same(source)) {
    set_storage_offset(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
  }
  return self;
}

inline Tensor& set_nothing(Tensor& self) {
  return set_storage(self, new_contiguous({0}, self.scalar_type()).storage());
}

inline void record_stream(Tensor& /*self*/, c10::Stream /*stream*/) {
  // Nothing to record: queued work owns the memory that it uses, on every stream.
}

} // namespace hpu_emulator
