"""The cases and their targets: one suite for a CPU, one for a GPU.

Sources of the shapes: the speed figure of Lei et al. 2018 (arXiv 1709.02755, figure 3: batch 32,
one layer); its classifier (2 layers of 128, batch 32), reader (DrQA with 6 bidirectional layers of
128) and character model (10 layers of 1152, batch 128, 100 steps); and the speech separators
TDFNet and RTFS-Net (4 bidirectional layers of 32 on 8 unfolded frames of 64 channels, many short
rows). What a paper leaves open is ours: 32 words a sentence, 128 a paragraph, two word vectors of
300 a word of the reader.

Letters: L time steps, B batch rows, d hidden size per direction.
"""

from dataclasses import replace

from torchsru.bench.cases import (
    BACKWARD,
    CONTRACTIVE,
    CONV,
    CONV2,
    COPY,
    FLOOR,
    FORWARD,
    FORWARD_OP,
    GEMM_FRESH,
    GEMM_REUSED,
    GEMMS,
    GRU,
    HGRN,
    IMPORT_TORCHSRU,
    LAYER,
    LSTM,
    MAMBA,
    ORIGINAL,
    QRNN,
    SRU,
    Case,
    Shape,
    Target,
    at_least,
    at_most,
)

CEILINGS = Case(kind="ceilings", weight=1)

PAPER = (Shape(L=32, B=32, d=256), Shape(L=128, B=32, d=512))
PAPER_NETWORKS = (LSTM, GRU, CONV2, CONV, QRNN, ORIGINAL)

CLASSIFIER = Shape(L=32, B=32, d=128, input_size=300, layers=2)
READER = Shape(L=128, B=32, d=128, input_size=600, layers=6, bidirectional=True)
CHARACTERS = Shape(L=100, B=128, d=1152, layers=10)
SEPARATOR = Shape(L=125, B=250, d=32, input_size=512, layers=4, bidirectional=True)

UNEQUAL_ROWS = Case(
    kind="unequal",
    title="rows of a quarter of L to L steps, training",
    shape=Shape(L=200, B=32, d=128, layers=2, bidirectional=True),
    weight=3,
)

LENGTHS = (1024, 4096, 16384, 65536, 262144)


def sequential_over_parallel(backends: tuple[str, ...]) -> dict[str, str]:
    """Variants of sequential backends, and those of their parallel versions that they are over."""
    passes = (FORWARD, CONTRACTIVE, BACKWARD)
    return {
        f"{backend}, {name}": f"{backend}_parallel, {name}"
        for backend in backends
        if f"{backend}_parallel" in backends
        for name in passes
    }


# -- on a CPU -------------------------------------------------------------------------------------

#: L, B, d: inference over its GEMM reused, fresh; training over its GEMMs; how many times slower
#: training is with nn.LSTM, nn.GRU and sru 2.6.0. Two AVX512 cores, float32.
TABLE = {
    (32, 32, 128): (1.5, 1.7, 1.5, 2.5, 4, 4.5),
    (128, 32, 256): (1.25, 1.35, 1.2, 2.4, 3.4, 4.5),
    (128, 32, 512): (1.15, 1.2, 1.15, 2.6, 3.2, 3.4),
    (512, 8, 512): (1.15, 1.2, 1.15, 3.6, 5, 6),
    (1024, 1, 512): (1.15, 1.2, 1.15, 9, 20, 15),
}
BESIDE = (GEMMS, LSTM, GRU, ORIGINAL, CONV)


def _table() -> list[Case]:
    cases = []
    for (L, B, d), (reused, fresh, gemms, lstm, gru, original) in TABLE.items():
        shape = Shape(L=L, B=B, d=d)
        inference = (at_most(reused, SRU, GEMM_REUSED), at_most(fresh, SRU, GEMM_FRESH))
        training = (
            at_most(gemms, SRU, GEMMS),
            at_least(lstm, LSTM, SRU),
            at_least(gru, GRU, SRU),
            at_least(original, ORIGINAL, SRU),
        )
        cases.append(Case(kind="inference", shape=shape, targets=inference))
        cases.append(Case(kind="training", shape=shape, weight=3, targets=training, beside=BESIDE))
    return cases


def _memory(shape: Shape) -> Case:
    targets = (at_most(1, SRU, LSTM), at_most(1, SRU, GRU))
    return Case(kind="memory", shape=shape, weight=1.5, targets=targets)


def _lengths_on_cpu() -> list[Case]:
    # pure PyTorch takes seconds a pass where it is left out
    backends = {1024: ("cpu", "torch", "torch_parallel"), 16384: ("cpu", "torch_parallel")}
    backends[4096] = backends[1024]
    return [
        Case(
            kind="recurrence",
            title="length",
            shape=Shape(L=L, B=1, d=512),
            backends=backends.get(L, ("cpu",)),
            beside=(CONTRACTIVE,),
            weight=0.7,
        )
        for L in LENGTHS
    ]


CPU: tuple[Case, ...] = (
    CEILINGS,
    *_table(),
    Case(
        kind="inference",
        title="inference, stack of 4",
        shape=Shape(L=128, B=32, d=512, layers=4),
        weight=2,
        targets=(at_most(1.2, SRU, GEMM_REUSED),),
    ),
    Case(
        kind="training",
        title="training in bfloat16",
        shape=Shape(L=128, B=32, d=512),
        dtype="bfloat16",
        weight=3,
        targets=(at_least(4, LSTM, SRU),),
        beside=(GEMMS, LSTM, GRU, CONV),
    ),
    *(
        Case(
            kind=kind,
            title=f"paper's figure, {kind}",
            shape=shape,
            beside=(product, *PAPER_NETWORKS),
            weight=2,
        )
        for shape in PAPER
        for kind, product in (("forward", GEMM_FRESH), ("training", GEMMS))
    ),
    Case(
        kind="training",
        title="classifier, training",
        shape=CLASSIFIER,
        beside=(GEMMS, LSTM, GRU, ORIGINAL),
    ),
    Case(kind="training", title="reader, training", shape=READER, beside=(GEMMS, LSTM), weight=3),
    Case(
        kind="training",
        title="one layer of a character model, training",
        shape=replace(CHARACTERS, layers=1, B=32),  # a quarter of the batch: it is a CPU
        beside=(GEMMS, LSTM),
        weight=3,
    ),
    Case(
        kind="training",
        title="speech separation, training",
        shape=SEPARATOR,
        weight=3,
        beside=(LSTM, GRU, ORIGINAL),
    ),
    UNEQUAL_ROWS,
    *_lengths_on_cpu(),
    Case(
        kind="call",
        title="one call",
        shape=Shape(L=1, B=1, d=64),
        targets=(at_most(6e-6, FORWARD_OP), at_most(25e-6, LAYER)),
    ),
    *(Case(kind="kernel", shape=Shape(L=L, B=B, d=d), weight=0.5) for L, B, d in TABLE),
    Case(kind="kernel", shape=Shape(L=128, B=32, d=1024), weight=0.5),
    Case(kind="backends", shape=Shape(L=128, B=32, d=256), weight=1),
    _memory(Shape(L=128, B=32, d=256)),
    _memory(Shape(L=128, B=32, d=512)),
    _memory(Shape(L=1024, B=1, d=512)),
    Case(kind="import", weight=1, targets=(at_most(0.3, IMPORT_TORCHSRU),)),
)


# -- on a GPU -------------------------------------------------------------------------------------

LARGE = Shape(L=1024, B=32, d=1024)
SMALL_BATCH = Shape(L=1024, B=8, d=1024)
GOAL_LENGTH = 65536
SEQUENTIAL, PARALLEL = "triton", "triton_parallel"


def _gpu(case: Case) -> Case:
    """The same case with its way of calling, its type and its TF32 setting in its title."""
    words = [case.title or case.kind]
    words += [case.dtype] if case.dtype != "float32" or case.tf32 else []
    words += ["TF32"] if case.tf32 else []
    words += ["CUDA graph"] if case.graph else []
    return replace(case, title=", ".join(words), limit_s=40)


def _layer(
    kind: str,
    title: str,
    shape: Shape,
    *beside: str,
    dtype: str = "float32",
    graph: bool = True,
    tf32: bool = False,
    targets: tuple[Target, ...] = (),
) -> Case:
    product = GEMM_FRESH if kind == "forward" else GEMMS
    return _gpu(
        Case(
            kind=kind,
            title=f"{title}, {kind}" if title else "",
            shape=shape,
            dtype=dtype,
            beside=(product, *beside),
            graph=graph,
            tf32=tf32,
            targets=targets,
        )
    )


def _alone(shape: Shape, *, dtype: str, graph: bool, targets: tuple[Target, ...]) -> Case:
    """The recurrence alone, beside a copy and beside others' recurrences."""
    return _gpu(
        Case(
            kind="recurrence",
            shape=shape,
            dtype=dtype,
            backends=(SEQUENTIAL,),
            beside=(COPY, HGRN, MAMBA) if graph else (ORIGINAL,),
            graph=graph,
            targets=targets,
        )
    )


def _length(L: int) -> Case:
    pairs = sequential_over_parallel((SEQUENTIAL, PARALLEL))
    targets = tuple(at_least(8, one, other) for one, other in pairs.items())
    case = Case(
        kind="recurrence",
        title="length",
        shape=Shape(L=L, B=1, d=512),
        backends=(SEQUENTIAL, PARALLEL),
        beside=(CONTRACTIVE,),
        graph=True,
        targets=targets if L == GOAL_LENGTH else (),
    )
    return replace(_gpu(case), limit_s=80)  # more kernels to compile, and a longer check


def _gpu_goals() -> list[Case]:
    """What the goals need: they come first, so that a run that is cut off has them."""
    full = tuple(
        at_most(1.25, f"{SEQUENTIAL}, {name}", FLOOR)  # 80 % of copy bandwidth
        for name in (FORWARD, BACKWARD)
    )
    faster = tuple(
        at_least(1.5, f"{ORIGINAL}, {name}", f"{SEQUENTIAL}, {name}")
        for name in (FORWARD, BACKWARD)
    )
    near = (at_most(1.25, SRU, FLOOR),)
    return [
        *(
            _layer(
                "training", "paper's figure", shape, *PAPER_NETWORKS,
                targets=(at_least(10, LSTM, SRU),),
            )
            for shape in PAPER
        ),
        _layer(
            "training", "", SMALL_BATCH, LSTM, GRU, CONV, dtype="bfloat16",
            targets=(at_least(15, LSTM, SRU),),
        ),
        *(
            _alone(LARGE, dtype=dtype, graph=True, targets=full)
            for dtype in ("float32", "bfloat16")
        ),
        _length(GOAL_LENGTH),
        *(
            _layer(kind, "", LARGE, LSTM, dtype=dtype, targets=near)
            for dtype in ("bfloat16", "float32")
            for kind in ("training", "forward")
        ),
        _alone(LARGE, dtype="float32", graph=False, targets=faster),
    ]  # fmt: skip


def _gpu_rest() -> list[Case]:
    return [
        *(
            _layer("training", "paper's figure", shape, *PAPER_NETWORKS, graph=False)
            for shape in PAPER
        ),
        *(
            _layer("forward", "paper's figure", shape, *PAPER_NETWORKS, graph=graph)
            for shape in PAPER
            for graph in (True, False)
        ),
        *(
            _layer("training", "paper's figure", shape, LSTM, GRU, CONV2, CONV, QRNN, tf32=True)
            for shape in PAPER
        ),
        _layer("training", "", SMALL_BATCH, LSTM, GRU, CONV),
        *(_length(L) for L in LENGTHS if L != GOAL_LENGTH),
        *(
            _layer("training", title, shape, LSTM, GRU, ORIGINAL, graph=graph)
            for graph in (True, False)
            for title, shape in {
                "classifier": CLASSIFIER,
                "reader": READER,
                "speech separation": SEPARATOR,
            }.items()
        ),
        _gpu(UNEQUAL_ROWS),
        _layer("training", "character model", CHARACTERS, LSTM),
        _layer("training", "character model", CHARACTERS, LSTM, dtype="bfloat16"),
        *(
            _layer("training", "width", Shape(L=256, B=32, d=d), LSTM, dtype="bfloat16")
            for d in (128, 512, 2048, 4096)
        ),
        *(
            _layer("training", "batch", Shape(L=256, B=B, d=512), LSTM, dtype="bfloat16")
            for B in (1, 8, 64, 256)
        ),
        *(
            _gpu(replace(_memory(shape), weight=0.5))
            for shape in (Shape(L=128, B=32, d=512), SMALL_BATCH, LARGE)
        ),
        _gpu(
            Case(
                kind="recurrence",
                shape=Shape(L=256, B=128, d=2048),
                backends=(SEQUENTIAL,),
                beside=(COPY,),
                graph=True,
            )
        ),
        _gpu(Case(kind="call", title="one call", shape=Shape(L=1, B=1, d=64))),
    ]


GPU: tuple[Case, ...] = (CEILINGS, *_gpu_goals(), *_gpu_rest())

SUITES = {"cpu": CPU, "cuda": GPU}
