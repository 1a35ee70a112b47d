#pragma once

#include "op_info.h"
#include "scheduler.h"
#include "tensors.h"
#include "values.h"

#include <vector>

namespace hpu_emulator {

// Shapes from PyTorch's Meta kernels, cached by signature: a call of a Python meta kernel costs 80 us.
struct Shape {
  at::DimVector sizes, strides;
  ScalarType dtype = ScalarType::Undefined;
};

struct Inference {
  bool known = false; // false: the shape depends on data, or there is no Meta kernel
  std::vector<std::vector<Shape>> results; // per return: one entry, or one per element of a list
  std::vector<bool> is_list;
  std::vector<std::vector<Shape>> writes; // per OpInfo::write_args: the future shapes of the outputs
};

inline Shape shape_of(const Tensor& tensor) {
  return {at::DimVector(tensor.sizes()), at::DimVector(tensor.strides()), tensor.scalar_type()};
}

inline Inference infer(const OperatorHandle& op, const OpInfo& info, c10::ArrayRef<IValue> args) {
  Inference inference;
  if (!info.inferable) {
    return inference;
  }
  if (info.name == "index" && info.out_args.back()) {
    // index is structured and already has an output of the right shape: boolean indices went through nonzero to get it.
    // Its Meta kernel does not accept a boolean index.
    inference.results.emplace_back();
    inference.is_list.push_back(false);
    inference.writes.push_back({shape_of(args.back().toTensor())});
    inference.known = true;
    return inference;
  }
  PlainDispatch plain;
  Stack stack;
  const auto to_meta = [](const Tensor& tensor) {
    if (!is_device(tensor)) {
      return tensor; // a 0-dim CPU tensor: its type category counts
    }
    auto meta = at::empty_strided(
        tensor.sizes(), tensor.strides(), at::TensorOptions().dtype(tensor.dtype()).device(c10::kMeta));
    if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) {
      meta.unsafeGetTensorImpl()->set_wrapped_number(true);
    }
    return meta;
  };
  for (const auto& arg : args) {
    if (arg.isDevice() && arg.toDevice().type() == kDevice) {
      stack.emplace_back(c10::Device(c10::kMeta));
    } else if (arg.isGenerator()) {
      stack.emplace_back();
    } else {
      stack.push_back(map_tensors(arg, to_meta));
    }
  }
  const Stack metas = stack;
  try {
    op.redispatchBoxed(DispatchKeySet(DispatchKey::Meta), &stack);
  } catch (const std::exception&) {
    // No Meta kernel, a result that depends on data, or wrong arguments: the CPU kernel, run at once, tells which.
    return inference;
  }
  for (const auto& result : stack) {
    inference.results.emplace_back();
    inference.is_list.push_back(result.isTensorList());
    for_each_tensor(result, [&](const Tensor& t) { inference.results.back().push_back(shape_of(t)); });
    if (!result.isTensorList() && inference.results.back().empty()) {
      return inference; // an undefined tensor
    }
  }
  for (int i : info.write_args) {
    inference.writes.emplace_back();
    for_each_tensor(metas[i], [&](const Tensor& t) { inference.writes.back().push_back(shape_of(t)); });
  }
  inference.known = true;
  return inference;
}

} // namespace hpu_emulator
