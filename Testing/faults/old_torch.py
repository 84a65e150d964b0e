"""The worker, with a torch and a NumPy that take back what is newer than torch 2.2 and NumPy 1.26.

Seen in the sources of torch 2.2.2, the last that macOS on x86_64 gets. Each of these was used by the worker once, or is
what a program meets that takes new names for granted.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

#: functions of NumPy 2
NEW_IN_NUMPY = (
    "acos acosh asin asinh astype atan atan2 atanh bitwise_count bitwise_invert bitwise_left_shift bitwise_right_shift "
    "concat cumulative_prod cumulative_sum isdtype matrix_transpose matvec permute_dims pow strings trapezoid "
    "unique_all unique_counts unique_inverse unique_values unstack vecdot vecmat"
)
#: arrays of other types are refused by torch 2.2
KNOWN_TYPES = "float64 float32 float16 complex64 complex128 int64 int32 int16 int8 uint8 bool"


def take_back() -> None:
    """Make torch and NumPy as they were."""
    for name in NEW_IN_NUMPY.split():
        vars(np).pop(name, None)
    vars(torch).pop("OutOfMemoryError", None)
    vars(torch.cpu).pop("_is_avx512_bf16_supported", None)  # tells of bfloat16 from 2.4 on

    is_enabled, is_supported = torch.is_autocast_enabled, torch.cuda.is_bf16_supported
    torch.is_autocast_enabled = lambda: is_enabled("cuda")
    torch.is_autocast_cpu_enabled = lambda: is_enabled("cpu")
    torch.cuda.is_bf16_supported = lambda: is_supported()

    class Autocast(torch.autocast):
        """Knows fewer devices, even where it is to do nothing."""

        def __init__(self, device_type, dtype=None, enabled=True, cache_enabled=None):
            if device_type not in ("cuda", "cpu", "xpu", "hpu"):
                raise RuntimeError(f"User specified an unsupported autocast device_type '{device_type}'")
            super().__init__(device_type, dtype, enabled, cache_enabled)

    torch.autocast = torch.amp.autocast = Autocast
    for name in ("from_numpy", "as_tensor", "tensor"):
        setattr(torch, name, _refusing(getattr(torch, name)))


def _refusing(make):
    def make_tensor(data, *arguments, **options):
        if isinstance(data, np.ndarray) and data.dtype.name not in KNOWN_TYPES.split():
            raise TypeError(f"can't convert np.ndarray of type numpy.{data.dtype}. The only supported types are: ...")
        return make(data, *arguments, **options)

    return make_tensor


if __name__ == "__main__":
    take_back()
    from SESegmentationLib.refine import recalibration
    from SESegmentationLib.worker.process import serve

    # two steps are enough to see that it can learn
    recalibration.RecalibrationSettings = partial(recalibration.RecalibrationSettings, volumetric_steps=2)
    serve()
