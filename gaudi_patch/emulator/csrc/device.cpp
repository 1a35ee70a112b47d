// An emulated Habana "hpu" device for stock PyTorch.
//
// Tensors use PyTorch's own HPU dispatch key and host memory.  Every operator runs on zero-copy CPU aliases, but an
// adversarial scheduler decides *when*: it follows the laziest schedule that the rules of the device allow.  A program
// with all the required waits gets the right answer; any other gets poison.
//
// "bridge" in the comments is HabanaAI/gaudi-pytorch-bridge, release 1.19.0.  The device follows its rules but uses
// none of its code.  README.md, one directory up, lists what is emulated and what is not.
//
// This file registers the device with PyTorch: allocator, hooks, guard, kernels, and torch.ops.hpu_emulator, the
// control interface for device.py.

#include "copies.h"
#include "generator.h"
#include "hooks.h"
#include "lock.h"
#include "memory.h"
#include "operators.h"
#include "scheduler.h"
#include "special_operators.h"
#include "tensors.h"

#include <ATen/detail/HPUHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <chrono>
#include <string>
#include <vector>

namespace hpu_emulator {
namespace {

void check_index(c10::Device device) {
  // One device per process: backend/habana_device/HPUGuardImpl.h:41-52.
  TORCH_CHECK(device.index() <= 0, "habana active device: ", static_cast<int>(device.index()), " != 0");
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override {
    return kDevice;
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    check_index(device);
    return current_device();
  }
  c10::Device getDevice() const override {
    return current_device();
  }
  void setDevice(c10::Device device) const override {
    check_index(device);
  }
  void uncheckedSetDevice(c10::Device /*device*/) const noexcept override {}
  c10::Stream getStream(c10::Device /*device*/) const noexcept override {
    return stream(current_stream);
  }
  c10::Stream getDefaultStream(c10::Device /*device*/) const override {
    return stream(0);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool /*high_priority*/) const override {
    return getNewStream(device, 0);
  }
  c10::Stream getNewStream(c10::Device device, int /*priority*/) const override {
    check_index(device);
    Lock lock;
    return stream(runtime().new_stream());
  }
  c10::Stream exchangeStream(c10::Stream next) const noexcept override {
    Lock lock;
    const auto previous = current_stream;
    runtime().set_stream(next.id());
    return stream(previous);
  }
  bool queryStream(const c10::Stream& s) const override {
    Lock lock;
    return runtime().query_stream(s.id());
  }
  void synchronizeStream(const c10::Stream& s) const override {
    Lock lock;
    runtime().synchronize_stream(s.id());
  }
  void recordDataPtrOnStream(const c10::DataPtr& /*data*/, const c10::Stream& /*stream*/) const override {}
  void synchronizeDevice(c10::DeviceIndex /*index*/) const override {
    Lock lock;
    runtime().synchronize();
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return 1;
  }
  void record(void** event, const c10::Stream& s, c10::DeviceIndex /*index*/, c10::EventFlag /*flag*/) const override {
    Lock lock;
    if (!*event) {
      *event = new Event;
    }
    runtime().record_event(*static_cast<Event*>(*event), s.id());
  }
  void block(void* event, const c10::Stream& s) const override {
    Lock lock;
    if (event) {
      runtime().wait_event(*static_cast<Event*>(event), s.id());
    }
  }
  bool queryEvent(void* event) const override {
    Lock lock;
    return !event || runtime().query_event(*static_cast<Event*>(event));
  }
  void synchronizeEvent(void* event) const override {
    Lock lock;
    if (event) {
      runtime().synchronize_event(*static_cast<Event*>(event));
    }
  }
  void destroyEvent(void* event, c10::DeviceIndex /*index*/) const noexcept override {
    delete static_cast<Event*>(event);
  }
  double elapsedTime(void* start, void* end, c10::DeviceIndex /*index*/) const override {
    Lock lock;
    const auto finish = [](void* event) {
      TORCH_CHECK(
          event && static_cast<Event*>(event)->record,
          "Both events must be recorded before calculating elapsed time.");
      const auto& recorded = *static_cast<Event*>(event);
      runtime().run(recorded.stream, recorded.sequence);
      return recorded.record->time;
    };
    const auto first = finish(start);
    return std::chrono::duration<double, std::milli>(finish(end) - first).count();
  }

 private:
  static c10::Stream stream(int64_t id) {
    return c10::Stream(c10::Stream::UNSAFE, current_device(), id);
  }
};

} // namespace
} // namespace hpu_emulator

namespace at {

// PyTorch looks up the hooks by exactly this class name; with another name, only some of the device works.
struct HPUHooks final : HPUHooksInterface {
  explicit HPUHooks(HPUHooksArgs /*args*/) {}
  void init() const override {}
  bool hasHPU() const override {
    return true;
  }
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  bool hasPrimaryContext(DeviceIndex index) const override {
    return index <= 0;
  }
  DeviceIndex deviceCount() const override {
    return 1;
  }
  DeviceIndex getCurrentDevice() const override {
    return 0;
  }
  void setCurrentDevice(DeviceIndex index) const override {
    hpu_emulator::check_index({kHPU, index});
  }
  DeviceIndex exchangeDevice(DeviceIndex index) const override {
    hpu_emulator::check_index({kHPU, index});
    return 0;
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const override {
    return exchangeDevice(index);
  }
  bool isPinnedPtr(const void* data) const override {
    return hpu_emulator::pinned_blocks().contains(data);
  }
  Allocator* getPinnedMemoryAllocator() const override {
    return &hpu_emulator::pinned_allocator;
  }
  Device getDeviceFromPtr(void* /*data*/) const override {
    return hpu_emulator::current_device();
  }
  const Generator& getDefaultGenerator(DeviceIndex index) const override {
    hpu_emulator::check_index({kHPU, index});
    return hpu_emulator::default_generator();
  }
  Generator getNewGenerator(DeviceIndex index) const override {
    hpu_emulator::check_index({kHPU, index});
    return make_generator<hpu_emulator::Generator>();
  }
};

REGISTER_HPU_HOOKS(HPUHooks);

} // namespace at

namespace hpu_emulator {
namespace {

C10_REGISTER_GUARD_IMPL(HPU, Guard);

const bool only_accelerator = [] {
  replace_hooks<at::HPUHooks>(at::detail::getHPUHooks(), at::HPUHooksArgs{});
  replace_hooks<at::CUDAHooksInterface>(at::detail::getCUDAHooks());
  return true;
}();

const bool allocator_registered = [] {
  c10::SetAllocator(kDevice, &device_allocator);
  return true;
}();

TORCH_LIBRARY_IMPL(_, HPU, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(_, AutocastHPU, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&autocast>());
}

TORCH_LIBRARY_IMPL(aten, HPU, m) {
  m.impl("empty.memory_format", TORCH_FN(empty_memory_format));
  m.impl("empty_strided", TORCH_FN(empty_strided));
  m.impl("as_strided", TORCH_FN(as_strided));
  m.impl("copy_", TORCH_FN(copy_));
  m.impl("_copy_from", TORCH_FN(copy_from));
  m.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
  m.impl("_local_scalar_dense", TORCH_FN(local_scalar_dense));
  m.impl("resize_", TORCH_FN(resize_));
  m.impl("set_.source_Storage", TORCH_FN(set_storage));
  m.impl("set_.source_Storage_storage_offset", TORCH_FN(set_storage_offset));
  m.impl("set_.source_Tensor", TORCH_FN(set_tensor));
  m.impl("set_", TORCH_FN(set_nothing));
  m.impl("record_stream", TORCH_FN(record_stream));
  m.impl("convolution_overrideable", torch::CppFunction::makeFromBoxedFunction<&convolution>());
  m.impl("convolution_backward_overrideable", torch::CppFunction::makeFromBoxedFunction<&convolution_backward>());
  // For an unknown device, PyTorch would compose these from smaller operators, but the real device has kernels.
  m.impl("native_layer_norm", torch::CppFunction::makeFromBoxedFunction<&fallback>());
  m.impl("native_group_norm", torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

// PyTorch's is_pinned checks the storage's first byte.  The bridge's version checks the tensor's, and returns False
// without a device (habana_kernels/kernels_register.cpp:66-76).
bool is_pinned_here(const Tensor& self, std::optional<c10::Device> device) {
  if (!device || device->type() != kDevice) {
    return false;
  }
  card().acquire();
  return pinned_blocks().contains(self.const_data_ptr());
}

TORCH_LIBRARY_IMPL(aten, CPU, m) {
  m.impl("is_pinned", TORCH_FN(is_pinned_here));
}

void set_option(const std::string& name, int64_t value) {
  Lock lock;
  auto& options = runtime().options;
  if (name == "lazy") {
    options.lazy = value != 0;
  } else if (name == "schedule") {
    runtime().launch("synchronize");
    runtime().run_all();
    options.schedule = static_cast<Options::Schedule>(value);
  } else if (name == "strict") {
    options.strict = static_cast<Options::Strict>(value);
  } else if (name == "noncontiguous_d2h") {
    options.noncontiguous_d2h = static_cast<Options::NonContiguous>(value);
  } else if (name == "poison") {
    poison_enabled = value != 0;
  } else if (name == "int64_as_int32") {
    options.int64_as_int32 = value != 0;
  } else if (name == "tolerant_index") {
    options.tolerant_index = value != 0;
  } else if (name == "signature_offsets") {
    options.signature_offsets = value != 0;
  } else if (name == "bounces") {
    options.bounces = static_cast<Options::Bounces>(value);
  } else if (name == "sfg") {
    options.held_d2h = value != 0;
  } else if (name == "cards") {
    card().count = value;
  } else if (name == "pinned_bytes") {
    std::lock_guard<std::mutex> guard(pinned_blocks().mutex);
    pinned_blocks().limit = static_cast<size_t>(value);
  } else if (name == "eager_stream_join") {
    options.eager_stream_join = value != 0;
  } else {
    TORCH_CHECK(false, "hpu emulator: unknown option ", name);
  }
}

std::string read_counters() {
  Lock lock;
  return json(runtime().counters);
}

void reset_counters(bool signatures) {
  Lock lock;
  runtime().reset(signatures);
}

void set_tracing(bool on) {
  Lock lock;
  runtime().tracing = on;
}

std::string take_trace() {
  Lock lock;
  std::string out = "[";
  for (const auto& event : runtime().trace) {
    out += (out.size() > 1 ? "," : "") + event;
  }
  runtime().trace.clear();
  return out + "]";
}

void acquire() {
  card().acquire();
}

bool acquired() {
  return card().held();
}

void synchronize() {
  Lock lock;
  runtime().synchronize();
}

void mark_step(bool wait) {
  Lock lock;
  runtime().mark_step();
  if (wait) {
    runtime().run(current_stream);
    runtime().raise_device_error();
  }
}

void begin_compiled() {
  Lock lock;
  runtime().begin_compiled();
}

void end_compiled() {
  Lock lock;
  runtime().end_compiled();
}

int64_t pending() {
  Lock lock;
  return runtime().pending();
}

std::vector<int64_t> memory_stats() {
  const auto& m = memory();
  return {m.live, m.peak, m.allocations, m.frees, m.largest, m.total_allocations, m.total_frees};
}

void reset_peak_memory() {
  memory().peak = memory().live.load();
}

void reset_accumulated_memory() {
  memory().allocations = 0;
  memory().frees = 0;
}

double elapsed_time(int64_t start, int64_t end) {
  const auto* guard = c10::impl::getDeviceGuardImpl(kDevice);
  return guard->elapsedTime(reinterpret_cast<void*>(start), reinterpret_cast<void*>(end), 0);
}

at::Generator get_default_generator() {
  return default_generator();
}

TORCH_LIBRARY(hpu_emulator, m) {
  m.def("set_option(str name, int value) -> ()", &set_option);
  m.def("counters() -> str", &read_counters);
  m.def("reset_counters(bool signatures) -> ()", &reset_counters);
  m.def("set_tracing(bool on) -> ()", &set_tracing);
  m.def("take_trace() -> str", &take_trace);
  m.def("acquire() -> ()", &acquire);
  m.def("acquired() -> bool", &acquired);
  m.def("synchronize() -> ()", &synchronize);
  m.def("mark_step(bool wait) -> ()", &mark_step);
  m.def("begin_compiled() -> ()", &begin_compiled);
  m.def("end_compiled() -> ()", &end_compiled);
  m.def("pending() -> int", &pending);
  m.def("memory_stats() -> int[]", &memory_stats);
  m.def("reset_peak_memory() -> ()", &reset_peak_memory);
  m.def("reset_accumulated_memory() -> ()", &reset_accumulated_memory);
  m.def("elapsed_time(int start, int end) -> float", &elapsed_time);
  m.def("default_generator() -> Generator?", &get_default_generator);
}

} // namespace
} // namespace hpu_emulator
