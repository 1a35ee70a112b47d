# mypy: ignore-errors
"""Inference set-up. On a Gaudi it sets environment flags and marks constants; the emulator ignores both."""

import os


def hpu_set_env(model=None):
    return model


def hpu_set_inference_env(model=None):
    os.environ["PT_HPU_INFERENCE_MODE"] = "1"
    return model


hpu_inference_set_env = hpu_set_inference_env


def hpu_reset_env():
    os.environ.pop("PT_HPU_INFERENCE_MODE", None)


def hpu_teardown_inference_env():
    hpu_reset_env()


def hpu_initialize(model=None, mark_only_scales_as_const=False, optimizer=None, args=None):
    return model


def hpu_inference_initialize(model=None, mark_only_scales_as_const=False, optimizer=None, args=None):
    return model
