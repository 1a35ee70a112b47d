// Makes HPU the process's one accelerator, on a CUDA build of PyTorch too, and whatever was asked of PyTorch before.
//
// PyTorch looks the hooks of each backend up by name once, at the first question, and keeps the object. Two things
// follow. Whoever asked for pinned memory before this library was loaded has fixed the HPU hooks to the base class,
// "no HPU". And on a CUDA build ATen asserts that there is one accelerator among those that were built in, not among
// those that are there, so that every pinned allocation ends in "Cannot have both HPU and cuda"
// (ATen/DeviceAccelerator.cpp). The objects have no members: another class takes the place of what is there, our hooks
// for HPU, and for CUDA the base class, which is what a build without CUDA has.
#pragma once

#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/detail/HPUHooksInterface.h>

#include <new>
#include <utility>

namespace hpu_emulator {

template <typename Hooks, typename Interface, typename... Arguments>
void replace_hooks(const Interface& present, Arguments&&... arguments) {
  static_assert(sizeof(Hooks) == sizeof(void*) && sizeof(Interface) == sizeof(void*), "hooks with members");
  // No destructor runs: what was there owns nothing.
  new (const_cast<Interface*>(&present)) Hooks(std::forward<Arguments>(arguments)...);
}

} // namespace hpu_emulator
