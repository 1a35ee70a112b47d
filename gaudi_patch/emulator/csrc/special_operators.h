#pragma once

#include "operators.h"

#include <ATen/autocast_mode.h>

namespace hpu_emulator {

// Operators that reach the device under another name, and autocast.

// PyTorch has one convolution entry for devices that it does not know; run it as the general operator.
inline void convolution(const OperatorHandle& /*op*/, Stack* stack) {
  static const auto general = c10::Dispatcher::singleton().findSchemaOrThrow("aten::convolution", "");
  fallback(general, stack);
}

inline void convolution_backward(const OperatorHandle& /*op*/, Stack* stack) {
  static const auto general = c10::Dispatcher::singleton().findSchemaOrThrow("aten::convolution_backward", "");
  // (grad_output, input, weight, stride, padding, dilation, transposed, output_padding, groups, output_mask).  The
  // general operator has one more argument after the weight: the bias's sizes.
  const auto first = stack->end() - 10;
  const auto& weight = first[2].toTensor();
  const bool transposed = first[6].toBool();
  const int64_t channels = transposed ? weight.size(1) * first[8].toInt() : weight.size(0);
  stack->insert(first + 3, IValue(c10::List<int64_t>({channels})));
  fallback(general, stack);
}

// Autocast with the bridge's default lists (hpu_ops/autocast_helpers.h:34-125).  Its third list is omitted: operators
// that run in the widest type of their arguments, which is what type promotion does anyway.
inline void autocast(const OperatorHandle& op, Stack* stack) {
  enum class Cast { kNone, kLower, kLowerFirst, kFloat };
  static const std::unordered_set<std::string> lower{
      "addmm", "addbmm", "baddbmm", "bmm", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
      "conv_transpose3d", "dot", "dropout", "feature_dropout", "leaky_relu", "linear", "matmul", "mean", "mm", "mul",
      "mv", "softmax", "log_softmax", "scaled_dot_product_attention"};
  static const std::unordered_set<std::string> lower_first{"layer_norm", "group_norm", "instance_norm", "batch_norm"};
  static const std::unordered_set<std::string> full{
      "acos", "addcdiv", "asin", "atan2", "bilinear", "binary_cross_entropy", "binary_cross_entropy_with_logits",
      "cdist", "cosh", "cosine_embedding_loss", "cosine_similarity", "cross_entropy_loss", "dist", "div", "divide",
      "embedding", "embedding_bag", "erfinv", "exp", "expm1", "hinge_embedding_loss", "huber_loss", "kl_div", "l1_loss",
      "log", "log10", "log1p", "log2", "logsumexp", "margin_ranking_loss", "mse_loss", "multi_margin_loss",
      "multilabel_margin_loss", "nll_loss", "pdist", "poisson_nll_loss", "pow", "reciprocal", "renorm", "rsqrt", "sinh",
      "smooth_l1_loss", "soft_margin_loss", "softplus", "tan", "topk", "triplet_margin_loss", "true_divide"};
  static auto* casts = new ska::flat_hash_map<const c10::FunctionSchema*, Cast>;
  c10::impl::ExcludeDispatchKeyGuard no_autocast(DispatchKey::AutocastHPU);
  const auto& schema = op.schema();
  Cast cast;
  {
    Lock lock;
    auto known = casts->find(&schema);
    if (known == casts->end()) {
      const auto name = schema.name().substr(schema.name().find("::") + 2);
      const bool writes = schema.is_mutable();
      const auto found = writes ? Cast::kNone
          : lower.count(name)   ? Cast::kLower
          : lower_first.count(name) ? Cast::kLowerFirst
          : full.count(name)    ? Cast::kFloat
                                : Cast::kNone;
      known = casts->emplace(&schema, found).first;
    }
    cast = known->second;
  }
  if (cast != Cast::kNone) {
    const auto type = cast == Cast::kFloat ? at::kFloat : at::autocast::get_autocast_dtype(kDevice);
    const auto count = static_cast<ptrdiff_t>(schema.arguments().size());
    const auto last = cast == Cast::kLowerFirst ? stack->end() - count + 1 : stack->end();
    for (auto arg = stack->end() - count; arg != last; ++arg) {
      *arg = map_tensors(*arg, [&](const Tensor& t) {
        const bool eligible = is_device(t) && t.is_floating_point() && t.scalar_type() != at::kDouble;
        return eligible && t.scalar_type() != type ? t.to(type) : t;
      });
    }
  }
  op.callBoxed(stack);
}

} // namespace hpu_emulator
