"""What a number depends on besides the recipe: machine, versions, commit, precision."""

import ctypes
import platform
from typing import Any

import torch

from torchsru import _machine

PACKAGES = ("lightning", "safetensors")


def describe() -> dict[str, Any]:
    """Machine, versions and commit as one JSON-ready dict, to store beside results."""
    commit, dirty = _machine.commit()
    return {
        "machine": {**_machine.machine(), "threads": torch.get_num_threads()},
        "versions": {
            **_machine.versions(),
            **{name: _machine.installed(name) for name in PACKAGES},
        },
        "commit": commit,
        "dirty": dirty,
    }


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies matrices in bfloat16 itself rather than by emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return False


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed: a training step asks for the same blocks again.

    Otherwise it gives the large ones back to the system and pays for each page anew. Holds for
    the whole process; nothing happens with another C library.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    libc = ctypes.CDLL(None)
    # older glibc refuses more than half of a heap; setting the second alone would make it worse
    if libc.mallopt(m_mmap_threshold, 1 << 30) or libc.mallopt(m_mmap_threshold, 32 << 20):
        libc.mallopt(m_trim_threshold, -1)
