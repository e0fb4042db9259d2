"""The loop over timesteps as one CUDA graph: recorded once per shape, replayed at every call.

A timestep is a dozen small kernels; launched one by one, small batches wait for the host. What
varies between calls (drive, weights, state, the clamp of a training schedule) is copied into the
recorded buffers, what comes out is copied out of them.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ipvae_snn.kernels import plain
from ipvae_snn.kernels.spec import INPUTS, OUTPUTS, UnrollResult, UnrollSpec

Values = list[Tensor | None]
Recorder = Callable[[Callable[[], Values]], tuple[Callable[[], object], Values]]
KEPT = 8
"""Recordings kept at a time; the one unused for longest goes first."""
WARM_UP = 3
COPIED = len(INPUTS) + 1
"""Tensors of a spec that are copied into a recording: its inputs and the clamp."""

_recordings: OrderedDict[Any, "Recording"] = OrderedDict()


def record_cuda(function: Callable[[], Values]) -> tuple[Callable[[], object], Values]:
    """Record what ``function`` launches on the GPU; what replays it, and where results appear."""
    state = torch.cuda.get_rng_state()
    side, main = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(main)
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            function()
    main.wait_stream(side)
    torch.cuda.set_rng_state(state)  # the warm-up's draws leave no trace
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = function()
    return graph.replay, outputs


class Recording:
    """A function of tensors, recorded with buffers of its own."""

    def __init__(
        self, function: Callable[[Values], Values], inputs: Values, record: Recorder
    ) -> None:
        self.inputs = [None if t is None else t.detach().clone() for t in inputs]
        self.replay, self.outputs = record(lambda: function(self.inputs))

    def __call__(self, inputs: Values) -> Values:
        for own, given in zip(self.inputs, inputs, strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        self.replay()
        return [None if t is None else t.clone() for t in self.outputs]


def suits(spec: UnrollSpec) -> bool:
    """Whether a spec can be recorded: on the GPU, with draws from torch's own generator."""
    return spec.mem.device.type == "cuda" and spec.law != "own" and spec.estimator.generator is None


def forward(spec: UnrollSpec, record: Recorder = record_cuda) -> UnrollResult:
    """:func:`ipvae_snn.kernels.plain.forward`, replayed."""

    def run(inputs: Values) -> Values:
        out = plain.forward(_with(spec, inputs))
        return [*(getattr(out, name) for name in OUTPUTS), *(out.saved or (None, None))]

    found = _replay("forward", spec, _inputs(spec), run, record)
    saved = found[-2:]
    return UnrollResult(*found[:-2], saved=(saved[0], saved[1]) if spec.keep else None)  # type: ignore


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
        given: Values = [*self.saved, *(grads[name] for name in OUTPUTS)]

        def run(inputs: Values) -> Values:
            own, (mems, counts, *rest) = inputs[:COPIED], inputs[COPIED:]
            spec = _with(self.spec, own)
            adjoint = plain.PlainAdjoint(spec, (mems, counts), self.needed)  # type: ignore
            found = adjoint(dict(zip(OUTPUTS, rest, strict=True)))
            return [found[name] for name in INPUTS]

        kind = ("backward", *sorted(self.needed))
        found = _replay(kind, self.spec, [*_inputs(self.spec), *given], run, self.record)
        return dict(zip(INPUTS, found, strict=True))  # type: ignore


def _inputs(spec: UnrollSpec) -> Values:
    clamp = torch.as_tensor(spec.clamp, dtype=spec.mem.dtype, device=spec.mem.device)
    return [*(getattr(spec, name) for name in INPUTS), clamp]


def _with(spec: UnrollSpec, inputs: Values) -> UnrollSpec:
    tensors = dict(zip(INPUTS, inputs[:-1], strict=True))
    return replace(spec, **tensors, clamp=inputs[-1], counts=spec.count_dtype())  # type: ignore


def _replay(
    kind: Any, spec: UnrollSpec, inputs: Values, run: Callable[[Values], Values], record: Recorder
) -> Values:
    settings = (spec.law, spec.slope, spec.kl_form, spec.steps, spec.fields, spec.every, spec.keep)
    numbers = (
        spec.scale,
        spec.leak,
        spec.count_dtype(),
        spec.precision,
        spec.careful,
        repr(spec.estimator),
        record,
    )
    key = (kind, settings, numbers, _shapes(inputs))
    if key not in _recordings:
        _recordings[key] = Recording(run, inputs, record)
    _recordings.move_to_end(key)
    while len(_recordings) > KEPT:
        _recordings.popitem(last=False)
    return _recordings[key](inputs)


def _shapes(inputs: Sequence[Tensor | None]) -> tuple[Any, ...]:
    return tuple(None if t is None else (t.shape, t.dtype, t.device) for t in inputs)
