"""Concurrent calls and forked children give the bits of one thread in one process."""

import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.ops.helpers import (
    BACKENDS,
    LinearCase,
    SruCase,
    assert_same_bits,
    bits,
    run,
    seeds_for,
)

from torchsru import SRU

ROOT = Path(__file__).parents[2]
THREADS = 8

#: Large enough for several threads each, in rows and in columns.
CASES = [
    SruCase(shape=(40, 32, 72), dtype=torch.float32, out_mask=True),
    SruCase(
        shape=(300, 1, 258), dtype=torch.bfloat16, sequences="documents", num_directions=2,
        v="varying", contractive=True,
    ),
    LinearCase(shape=(60, 16, 130), dtype=torch.float32, sequences="mask", num_directions=2),
]  # fmt: skip


def at_once(jobs):
    """Run each job in a thread of its own, all starting together; their results in order."""
    start, results = threading.Barrier(len(jobs)), [None] * len(jobs)

    def work(i):
        start.wait()
        try:
            results[i] = jobs[i]()
        except Exception as error:
            results[i] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def gradients(case, backend, tensors=None):
    tensors = case.tensors() if tensors is None else tensors
    fn = partial(case.op, backend=backend)
    return run(fn, tensors, case.options(), seeds_for(case, tensors), case.outputs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_eight_threads_at_once_give_the_same_bits(shared, backend):
    """Each thread computes every case, in an order of its own, on shared or on its own tensors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = [gradients(case, backend) for case in CASES]
    finally:
        torch.set_num_threads(before)
    tensors = [case.tensors() for case in CASES] if shared else [None] * len(CASES)

    def job(i):
        # of this thread's calls; PyTorch's own sums and functions depend on their number
        torch.set_num_threads(1 + i % 3 if backend == "cpu" else 1)
        order = [(i + n) % len(CASES) for n in range(len(CASES))]
        return {n: gradients(CASES[n], backend, tensors[n]) for n in order}

    for result in at_once([partial(job, i) for i in range(THREADS)]):
        for n, expected in enumerate(alone):
            assert_same_bits(result[n], expected)


def test_eight_threads_share_a_layer():
    """Gradients of one thread's loss go to leaves of its own; the parameters are everyone's."""
    model = SRU(24, 32, 2, bidirectional=True)

    def job(i):
        x = torch.randn(20, 4, 24, generator=torch.Generator().manual_seed(i)).requires_grad_()
        out, state = model(x)
        wrt = [x, *model.parameters()]
        grads = torch.autograd.grad(out.sum() + state.sum(), wrt)
        return [out.detach(), state.detach(), *grads]

    expected = [job(i) for i in range(THREADS)]
    got = at_once([partial(job, i) for i in range(THREADS)])
    torch.testing.assert_close(got, expected)
    assert not torch.equal(bits(expected[0][0]), bits(expected[1][0]))


# ---- fork: a parent whose threads have worked, and children that must not wait for them ----------

FORK = """
import hashlib, os, signal, sys
import torch
from torchsru.ops import backends, linear_recurrence, sru_recurrence

BACKEND = sys.argv[1]
torch.manual_seed(0)
torch.set_num_threads(4)
u, x = torch.randn(64, 32, 3, 128, requires_grad=True), torch.randn(64, 32, 128)
v, seed = torch.randn(2, 128), torch.randn(64, 32, 128)

def digest():
    # no op of PyTorch's own on so many elements: it would wait for threads that are not there
    h, c = sru_recurrence(u, x, v, backend=BACKEND)
    (gu,) = torch.autograd.grad(h, u, seed)
    s, last = linear_recurrence(x, x, backend=BACKEND)
    results = (h.detach(), c.detach(), gu, s, last)
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in results)).hexdigest()

def fork(body):
    # the child's exit code; it is stopped if it hangs
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        code = 1
        try:
            code = 0 if body() else 1
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]

expected = digest()
"""


def forked(code, backend="cpu"):
    """Run code in a fresh process after FORK."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    result = subprocess.run(
        [sys.executable, "-c", FORK + code, backend],
        env={**environment, "PYTHONPATH": path},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "done" in result.stdout


def test_the_first_calls_load_triton_once():
    code = """
import threading
from torchsru.ops import scan, sru

failed = []
ready = threading.Barrier(4)

def load():
    ready.wait()
    try:
        sru.overload("triton"), scan.overload("triton")
    except Exception as error:
        failed.append(error)

threads = [threading.Thread(target=load) for _ in range(4)]
for step in (threading.Thread.start, threading.Thread.join):
    for thread in threads:
        step(thread)
assert not failed, failed
"""
    pytest.importorskip("triton")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("backend", BACKENDS[:1])
def test_a_forked_child_computes_the_same(backend):
    code = """
assert fork(lambda: digest() == expected) == 0
assert fork(lambda: fork(lambda: digest() == expected) == 0) == 0  # a grandchild
assert fork(lambda: digest() == "something else") != 0  # the comparison can fail
assert digest() == expected  # the parent's threads are still there
print("done")
"""
    forked(code, backend)


@pytest.mark.parametrize("backend", BACKENDS[:1])
def test_the_process_pool_of_a_fork_computes_the_same(backend):
    code = """
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    results = [pool.apply_async(digest) for _ in range(4)]
    assert {r.get(timeout=60) for r in results} == {expected}
print("done")
"""
    forked(code, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_data_loader_workers_compute_the_same(backend):
    """A layer in a data set: workers are forked, and PyTorch gives them one thread."""
    code = """
from torchsru import SRU
layer = SRU(16, 256)

class Features(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        g = torch.Generator().manual_seed(i)
        u = torch.randn(64, 32, 3, 128, generator=g)
        out, _ = layer(torch.randn(300, 4, 16, generator=g))
        return sru_recurrence(u, backend=BACKEND)[0], out.detach()

data = Features()
loader = torch.utils.data.DataLoader(
    data, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
with torch.no_grad():
    expected = [data[i] for i in range(4)]
    for i, (h, out) in enumerate(loader):
        torch.testing.assert_close((h, out), expected[i])
assert i == 3
print("done")
"""
    forked(code, backend)
