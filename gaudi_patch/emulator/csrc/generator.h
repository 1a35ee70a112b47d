#pragma once

#include "memory.h"

#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/GeneratorImpl.h>

#include <mutex>
#include <utility>

namespace hpu_emulator {

// Generators.  An operator draws its seed when issued, so that seeding never waits for the queue.

struct Generator final : c10::GeneratorImpl {
  Generator() : Generator(at::detail::createCPUGenerator()) {}
  explicit Generator(at::Generator source)
      : c10::GeneratorImpl(current_device(), DispatchKeySet(DispatchKey::HPU)), source_(std::move(source)) {}

  void set_current_seed(uint64_t seed) override {
    source_.set_current_seed(seed);
  }
  void set_offset(uint64_t /*offset*/) override {
    TORCH_CHECK(false, "hpu generators have no offset");
  }
  uint64_t get_offset() const override {
    TORCH_CHECK(false, "hpu generators have no offset");
  }
  uint64_t current_seed() const override {
    return source_.current_seed();
  }
  uint64_t seed() override {
    return source_.seed();
  }
  void set_state(const c10::TensorImpl& state) override {
    source_.unsafeGetGeneratorImpl()->set_state(state);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return source_.unsafeGetGeneratorImpl()->get_state();
  }
  uint64_t draw() {
    auto* source = at::check_generator<at::CPUGeneratorImpl>(source_);
    std::lock_guard<std::mutex> guard(source->mutex_);
    return source->random64();
  }
  static c10::DeviceType device_type() {
    return kDevice;
  }

 private:
  Generator* clone_impl() const override {
    return new Generator(source_.clone());
  }
  at::Generator source_;
};

inline const at::Generator& default_generator() {
  static auto* generator = new at::Generator(at::make_generator<Generator>());
  return *generator;
}

} // namespace hpu_emulator
