// Makes HPU the only accelerator of the process, also on a CUDA build of PyTorch and regardless of earlier queries.
//
// PyTorch looks up each backend's hooks by name on the first query, and keeps the object. This has two consequences.
// If pinned memory was requested before this library was loaded, the HPU hooks are fixed to the base class, "no HPU".
// And on a CUDA build, ATen asserts that only one accelerator was built in, whether present or not: every pinned
// allocation fails with "Cannot have both HPU and cuda" (ATen/DeviceAccelerator.cpp). The objects have no members, so
// an object of another class can replace them in place: our hooks for HPU, and for CUDA the base class, which a build
// without CUDA also has.
#pragma once

#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/detail/HPUHooksInterface.h>

#include <new>
#include <utility>

namespace hpu_emulator {

template <typename Hooks, typename Interface, typename... Arguments>
void replace_hooks(const Interface& present, Arguments&&... arguments) {
  static_assert(sizeof(Hooks) == sizeof(void*) && sizeof(Interface) == sizeof(void*), "hooks with members");
  // The old object owns nothing, so its destructor need not run.
  new (const_cast<Interface*>(&present)) Hooks(std::forward<Arguments>(arguments)...);
}

} // namespace hpu_emulator
