"""Stateless functions on tensors; the only place that knows kernels."""

from torchsru.ops._backends import backends
from torchsru.ops._library import cpu_info
from torchsru.ops.scan import linear_recurrence
from torchsru.ops.sru import sru_recurrence

__all__ = ["backends", "cpu_info", "linear_recurrence", "sru_recurrence"]
