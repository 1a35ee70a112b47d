#pragma once

// Names and constants used throughout the device.

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/stack.h>
#include <c10/core/DeviceType.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/StorageImpl.h>

#include <cstddef>

namespace hpu_emulator {

using at::IValue;
using at::Tensor;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::OperatorHandle;
using c10::ScalarType;
using c10::StorageImpl;
using Stack = torch::jit::Stack;

constexpr auto kDevice = c10::DeviceType::HPU;
constexpr int kPoison = 0xDB; // far out of range as an index, large and negative as a float

} // namespace hpu_emulator
