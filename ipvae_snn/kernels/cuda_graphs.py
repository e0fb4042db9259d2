"""The loop over timesteps as one CUDA graph: recorded once per shape, replayed at every call.

A timestep is a dozen small kernels. Launched one by one, small batches wait for the host. The
inputs of a call (drive, weights, state, the clamp of a training schedule) are copied into the
buffers of the recording, and its outputs are copied out.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from ipvae_snn._utils.seeding import source
from ipvae_snn.kernels import plain
from ipvae_snn.kernels.spec import INPUTS, OUTPUTS, UnrollResult, UnrollSpec

Values = list[Tensor | None]
Generator = torch.Generator | None
Function = Callable[[Values, Generator], Values]
"""Of its input buffers; it draws from the generator, or from torch's global one if that is None."""
Recorder = Callable[[Callable[[], Values], Generator], tuple[Callable[[], object], Values]]
MAX_RECORDINGS = 8
"""Recordings in memory; the least recently used one is dropped first."""
WARM_UP = 3
"""Runs before recording, in which libraries allocate and choose their algorithms."""
N_SPEC_INPUTS = len(INPUTS) + 1
"""Tensors of a spec that are inputs of a recording: INPUTS and the clamp."""
NOT_IN_KEY = {*INPUTS, "clamp", "row_ids", "estimator", "saved_dtype"}
"""Fields of a spec that a recording does not depend on; the last two enter its key otherwise."""

_recordings: OrderedDict[Any, "Recording"] = OrderedDict()


def record_cuda(
    function: Callable[[], Values], generator: Generator
) -> tuple[Callable[[], object], Values]:
    """Record what ``function`` launches on the GPU; returns the replay, and the output buffers."""
    drawn = generator or torch.cuda.default_generators[torch.cuda.current_device()]
    state = drawn.get_state()
    side, main = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(main)
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            function()
    main.wait_stream(side)
    drawn.set_state(state)  # as if the warm-up had drawn nothing
    graph = torch.cuda.CUDAGraph()
    if generator is not None:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = function()
    return graph.replay, outputs


class Recording:
    """A function of tensors, recorded with its own input buffers, and a generator of its own.

    Args:
        generator: the first that the function is to draw from; None for torch's global one.
    """

    def __init__(
        self, function: Function, inputs: Values, generator: Generator, record: Recorder
    ) -> None:
        self.inputs = [None if t is None else t.detach().clone() for t in inputs]
        self.generator = None if generator is None else torch.Generator(generator.device)
        self.replay, self.outputs = record(
            lambda: function(self.inputs, self.generator), self.generator
        )

    def __call__(self, inputs: Values, generator: Generator) -> Values:
        for buffer, value in zip(self.inputs, inputs, strict=True):
            if buffer is not None and value is not None:
                buffer.copy_(value)
        if self.generator is None or generator is None:
            self.replay()
        else:
            self.generator.set_state(generator.get_state())
            self.replay()
            generator.set_state(self.generator.get_state())
        return [None if t is None else t.clone() for t in self.outputs]


def supports(spec: UnrollSpec) -> bool:
    """Whether a spec can be recorded: on the GPU, with counts of a known law."""
    return spec.mem.device.type == "cuda" and spec.law != "own"


def forward(spec: UnrollSpec, record: Recorder = record_cuda) -> UnrollResult:
    """:func:`ipvae_snn.kernels.plain.forward`, replayed."""

    def run(inputs: Values, generator: Generator) -> Values:
        estimator = copy(spec.estimator)
        estimator.generator = generator
        out = plain.forward(replace(_with_inputs(spec, inputs), estimator=estimator))
        return [*(getattr(out, name) for name in OUTPUTS), *(out.saved or (None, None))]

    generator = source(spec.estimator.generator, spec.mem.device)
    values: list[Any] = _replay("forward", spec, _inputs_of(spec), run, record, generator)
    *outputs, mems, counts = values
    named = dict(zip(OUTPUTS, outputs, strict=True))
    return UnrollResult(**named, saved=(mems, counts) if spec.save else None)


class GraphedAdjoint:
    """:class:`~ipvae_snn.kernels.plain.PlainAdjoint`, replayed."""

    def __init__(
        self,
        spec: UnrollSpec,
        saved: tuple[Tensor, Tensor],
        needed: set[str],
        record: Recorder = record_cuda,
    ) -> None:
        self.spec, self.saved, self.needed, self.record = spec, saved, needed, record

    def __call__(self, grads: dict[str, Tensor | None]) -> dict[str, Tensor]:
        def run(inputs: Values, _: Generator) -> Values:
            values: list[Any] = inputs[N_SPEC_INPUTS:]
            mems, counts, *output_grads = values
            spec = _with_inputs(self.spec, inputs[:N_SPEC_INPUTS])
            adjoint = plain.PlainAdjoint(spec, (mems, counts), self.needed)
            input_grads = adjoint(dict(zip(OUTPUTS, output_grads, strict=True)))
            return [input_grads[name] for name in INPUTS]

        kind = ("backward", *sorted(self.needed))
        inputs = [*_inputs_of(self.spec), *self.saved, *(grads[name] for name in OUTPUTS)]
        input_grads: list[Any] = _replay(kind, self.spec, inputs, run, self.record)
        return dict(zip(INPUTS, input_grads, strict=True))


def _inputs_of(spec: UnrollSpec) -> Values:
    clamp = torch.as_tensor(spec.clamp, dtype=spec.mem.dtype, device=spec.mem.device)
    return [*(getattr(spec, name) for name in INPUTS), clamp]


def _with_inputs(spec: UnrollSpec, inputs: Values) -> UnrollSpec:
    tensors: dict[str, Any] = dict(zip((*INPUTS, "clamp"), inputs, strict=True))
    return replace(spec, **tensors, saved_dtype=spec.count_dtype())


def _replay(
    kind: Any,
    spec: UnrollSpec,
    inputs: Values,
    run: Function,
    record: Recorder,
    generator: Generator = None,
) -> Values:
    """The outputs of ``run``, recorded if no recording fits."""
    settings = [getattr(spec, f.name) for f in fields(spec) if f.name not in NOT_IN_KEY]
    drawn = generator is None, spec.count_dtype(), repr(spec.estimator)
    key = (kind, *settings, *drawn, record, _shapes(inputs))
    if key not in _recordings:
        _recordings[key] = Recording(run, inputs, generator, record)
    _recordings.move_to_end(key)
    while len(_recordings) > MAX_RECORDINGS:
        _recordings.popitem(last=False)
    return _recordings[key](inputs, generator)


def _shapes(inputs: Sequence[Tensor | None]) -> tuple[Any, ...]:
    return tuple(None if t is None else (t.shape, t.dtype, t.device) for t in inputs)
