"""What a model is to the rest of the package: to training, evaluation, reports, files, commands."""

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from ipvae_snn import functional as F
from ipvae_snn._utils.checks import (
    require_device,
    require_finite,
    require_flag,
    require_number,
    require_same_kind,
    require_values,
)
from ipvae_snn._utils.dtypes import wide
from ipvae_snn._utils.registry import Recorded, Registry, plain
from ipvae_snn._utils.seeding import seeded, seeded_draws
from ipvae_snn._utils.settings import Checked
from ipvae_snn._utils.storage import AllocationLimit, read_content, write_content
from ipvae_snn.kernels.loop import State
from ipvae_snn.kernels.native import CodeSums
from ipvae_snn.models.generative import DECODERS
from ipvae_snn.models.likelihoods import LIKELIHOODS
from ipvae_snn.models.residual import expected_nll, pixel_noise
from ipvae_snn.models.run_output import RECORDABLE
from ipvae_snn.models.whitening import WHITENINGS
from ipvae_snn.neurons.lateral import derives_weights
from ipvae_snn.neurons.poisson import NOT_SCRIPTED
from ipvae_snn.surrogate import ESTIMATORS

PARTS: dict[str, Registry[Any]] = {
    "spike_grad": ESTIMATORS,
    "decoder": DECODERS,
    "likelihood": LIKELIHOODS,
    "whitening": WHITENINGS,
}
"""Arguments of models that are objects; files hold what their registry writes of them."""
OWN_DECODER = "decoded.decoder."
"""Prefix of the weights of a decoder in place of the linear one."""
FORMAT, FORMAT_VERSION = "ipvae_snn.model", 3
FORMAT_OF_VERSION_1 = "ipvae_snn.IPVAE"
M = TypeVar("M", bound="BaseModel")
_MEMBERS = (
    "in_features", "latents", "like", "run", "decode", "mean_code", "size_of", "reconstruct",
    "code_rows", "takes_samples", "expected_samples", "seeded", "annealed", "anneal", "config",
    "describe", "save",
)  # fmt: skip


@runtime_checkable
class Model(Protocol):
    """What ``fit``, ``evaluate``, ``check``, the report and the command ask of an ``nn.Module``.

    :class:`BaseModel` documents the members, and has all but ``run``, ``decode`` and ``mean_code``.
    """

    in_features: int
    latents: int
    takes_sample_seeds: bool
    draws_by_row: bool
    emits_counts: bool
    sparse_code: bool
    precision: str

    @property
    def like(self) -> Tensor: ...
    @property
    def weight(self) -> Tensor: ...
    @property
    def generator(self) -> torch.Generator | None: ...
    @property
    def clamp(self) -> float | None: ...
    def run(self, x: Tensor, num_steps: int | None = None, **options: Any) -> Any: ...
    def decode(self, spk: Tensor) -> Tensor: ...
    def mean_code(self, mem: Tensor) -> Tensor: ...
    def size_of(self, x: Tensor) -> int: ...
    def reconstruct(self, spk: Tensor, like: Tensor) -> Tensor: ...
    def code_rows(self, spk: Tensor) -> Tensor: ...
    def takes_samples(self, shape: tuple[int, ...]) -> bool: ...
    def expected_samples(self) -> str: ...
    def seeded(self, seed: int | None) -> AbstractContextManager[None]: ...
    def annealed(self) -> dict[str, float]: ...
    def anneal(self, name: str, value: float) -> None: ...
    def gradient_probe(self) -> nn.Parameter | None: ...
    def config(self) -> dict[str, Any]: ...
    def describe(self) -> dict[str, Any]: ...
    def save(self, path: str | Path) -> None: ...


def require_model(model: Any) -> None:
    """Raise ``TypeError`` unless ``model`` is a module with the members of :class:`Model`."""
    missing = [name for name in _MEMBERS if not hasattr(model, name)]
    if missing or not isinstance(model, nn.Module):
        raise TypeError(
            "model must be an IPVAE, a baseline or a BaseModel of ipvae_snn.models, got "
            f"{type(model).__name__}" + (f", which lacks {', '.join(missing)}" if missing else "")
        )


class BaseModel(Checked, Recorded, nn.Module):
    """Files, seeds and the objective, which all models share.

    A subclass gives ``run``, ``decode`` and ``mean_code``, and sets ``in_features`` and
    ``latents``. Registered by ``@MODELS.register(name)``, it can be saved,
    loaded and trained by ``ipvae-snn train --model NAME``; the arguments of its constructor are its
    configuration.
    """

    in_features: int
    latents: int
    recipe: ClassVar[Mapping[str, Any]] = {}
    """Fields of :class:`~ipvae_snn.TrainConfig` that suit these models: what ``train`` takes, by
    :func:`ipvae_snn.recipes.suited`. The IPVAE has several recipes, all of them there."""
    size_argument: ClassVar[str] = "in_features"
    """What the constructor calls the size of samples."""
    usual_latents: ClassVar[int] = 512
    """K of a model that ``train`` makes, unless it is told otherwise."""
    earlier: ClassVar[Mapping[str, Any]] = {}
    """Values of arguments that files of earlier releases, which lacked them, stand for."""
    takes_sample_seeds = False
    """Whether ``run`` has an argument ``sample_seeds``."""
    linear_gaussian: bool = False
    """Whether x ~ N(Φ z, σ²) with counts z: ``spread`` is there."""
    takes_mask = False
    """Whether ``run`` takes a ``mask`` of values that were not seen."""
    learns_locally = False
    """Whether the local rule learns: the model is linear and Gaussian, or has ``settled_loss``."""
    draws_by_row = False
    """Whether ``sample_seeds`` cost no time, so that ranks can share the draws of a batch."""
    emits_counts = False
    """Whether ``spk`` are Poisson counts whose log rate is ``mem``."""
    has_matrix = False
    """Whether a weight has the shape (in_features, latents), without an argument ``decoder``."""
    sparse_code = True
    """Whether most values of a code are to be 0."""
    takes_graph = False
    """Whether ``run`` has an argument ``graph``; see :meth:`keeps_graph`."""
    clamp: float | None = None
    """Upper bound of ``mem``, where there is one."""

    # -- what training may move ---------------------------------------------------------------

    def annealed(self) -> dict[str, float]:
        """Settings that a training schedule moves, by name, with their present values."""
        return {}

    def anneal(self, name: str, value: float) -> None:
        """Set one of :meth:`annealed`."""
        raise KeyError(name)

    @property
    def precision(self) -> str:
        """Of the products with G; only an IPVAE has a choice."""
        return "float32"

    @precision.setter
    def precision(self, precision: str) -> None:
        if precision != "float32":
            raise ValueError(
                f"precision must be 'float32' for a {type(self).__name__}, got {precision!r}"
            )

    # -- what all do alike --------------------------------------------------------------------

    @property
    def like(self) -> Tensor:
        """A tensor with the dtype and on the device of the model."""
        found = next(self.parameters(), None)
        if found is None:
            raise TypeError(
                f"this {type(self).__name__} has no parameters any more: layers replaced, as by "
                "quantize_dynamic, cannot infer; ipvae_snn.export gives integers"
            )
        return found

    @property
    def generator(self) -> torch.Generator | None:
        """That of an estimator ``spike_grad``, where it has one beside torch's."""
        return getattr(getattr(self, "spike_grad", None), "generator", None)

    @property
    def weight(self) -> Tensor:
        """What one spike of each neuron adds to the reconstruction, (M, K)."""
        unit = torch.eye(self.latents, dtype=self.like.dtype, device=self.like.device)
        return (self.decode(unit) - self.decode(torch.zeros_like(unit))).mT

    @abstractmethod
    def run(
        self,
        x: Tensor,
        num_steps: int | None = None,
        *,
        record: Sequence[str] = RECORDABLE,
        every: int = 1,
        state: State | None = None,
        seed: int | None = None,
    ) -> Any:
        """Infer x; see :meth:`ipvae_snn.IPVAE.run`."""

    @abstractmethod
    def decode(self, spk: Tensor) -> Tensor:
        """Reconstruction (..., M) of codes (..., K)."""

    @abstractmethod
    def mean_code(self, mem: Tensor) -> Tensor:
        """E[z] of what ``mem`` describes, (..., K)."""

    def size_of(self, x: Tensor) -> int:
        """Number of values in a sample of x, M."""
        return self.in_features

    def reconstruct(self, spk: Tensor, like: Tensor) -> Tensor:
        """:meth:`decode`, to the size of samples ``like``, where a code alone does not say it."""
        return self.decode(spk)

    def observed(self, spk: Tensor, like: Tensor | None = None) -> Tensor:
        """x ~ p(x | z) for codes (..., K), from the generator of the present block.

        ``like``: inputs, for the size of images, where a code alone does not say it.
        """
        x = self.decode(spk) if like is None else self.reconstruct(spk, like)
        log_scale: Any = getattr(self, "log_scale", None)
        return x + pixel_noise(x, log_scale, -1 if like is None else 1 - like.ndim)

    def nll_of(self, spk: Tensor, x: Tensor, shown: Tensor | None = None) -> Tensor:
        """−log p(x | z) of inputs (N, M) and codes (N, K), (N,), in nats.

        ``shown`` says which values count, booleans (N, M) or (1, M); default: all.
        """
        residual, log_scale = x - self.decode(spk), getattr(self, "log_scale", None)
        precision = x.new_ones(1, x.shape[-1]) if shown is None else shown.to(x.dtype)
        return expected_nll(residual, x.new_zeros(()), log_scale, precision)

    def code_rows(self, spk: Tensor) -> Tensor:
        """Codes (T, B, K) as rows of K neurons, (T, N, K): those of each place of a map, too."""
        return spk

    def code_sums(self, spk: Tensor, x: Tensor) -> list[CodeSums]:
        """What an evaluation needs of codes (T, B, K) of samples x, for each timestep.

        Of codes that may be negative the sums are of magnitudes.
        """
        # One timestep after the other, which stays in the caches.
        found = []
        flat = x.flatten(1)
        for code, x_hat in zip(spk, self.reconstruct(spk, x).flatten(2), strict=True):
            left = wide(flat) - wide(x_hat)
            z = wide(self.code_rows(code.unsqueeze(0))[0])
            z = z if self.emits_counts else z.abs()
            square = z.square()
            found.append(
                CodeSums(
                    left.square().sum(-1), z.sum(-1), square.sum(-1), z.sign().sum(-1),
                    z.sum(0), square.sum(0),
                )
            )  # fmt: skip
        return found

    def takes_samples(self, shape: tuple[int, ...]) -> bool:
        """Whether a sample may have this shape, which is (M,) here."""
        return shape == (self.in_features,)

    def expected_samples(self) -> str:
        """The shape that samples must have, in words."""
        return f"(N, {self.in_features})"

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Refused: a call does not say what of a model is wanted."""
        raise TypeError(
            f"{type(self).__name__} is not called as a function: model.run(x, num_steps) infers, "
            "model.loss(x, num_steps) is the objective, and model.decode(spk) reconstructs. For "
            "wrappers that call a module, such as DataParallel or functional_call, give them an "
            "nn.Module whose forward calls one of these"
        )

    def __prepare_scriptable__(self) -> Any:
        raise TypeError(NOT_SCRIPTED)

    def keeps_graph(self, asked: bool | None, *tensors: Tensor | None) -> bool:
        """Whether a result carries the graph of autograd.

        In ``train()`` mode it does, where gradients are enabled. In ``eval()`` mode, in which
        :meth:`load` and :func:`~ipvae_snn.fit` leave a model, only if one of the ``tensors`` that
        were handed in requires a gradient. ``asked``, if not None, decides in place of both.
        """
        if not torch.is_grad_enabled():
            return False
        if asked is not None:
            return require_flag(asked, "graph")
        return self.training or any(t is not None and t.requires_grad for t in tensors)

    def require_together(self) -> None:
        """Raise unless the weights have one dtype and device, as after ``model.to(...)``."""
        for name, weight in self.named_parameters():
            require_values(weight)
            if not name.startswith(OWN_DECODER):  # which may compute in another dtype
                require_same_kind(name, weight, self.like)

    def gradient_probe(self) -> nn.Parameter | None:
        """A parameter (K,) that acts on the NLL through spikes alone, for diagnosis."""
        return None

    def seeded(self, seed: int | None) -> AbstractContextManager[None]:
        """A block in which the model's draws depend on ``seed`` alone; None changes nothing.

        They come from a generator of the block, not from torch's or :attr:`generator`, so that
        threads do not disturb one another; a thread that is started in the block is outside it.
        Where a class from outside this package may draw, torch's generators are seeded instead, one
        thread at a time, and restored.
        """
        return seeded_draws(
            seed,
            parts=(self, *self.drawing()),
            device=self.like.device,
            generator=self.generator,
        )

    def drawing(self) -> tuple[Any, ...]:
        """The parts of the model, besides itself, that may draw random numbers."""
        return (self.spike_grad,) if hasattr(self, "spike_grad") else ()

    def loss(self, x: Tensor, num_steps: int | None = None, beta: float = 1.0) -> Tensor:
        """Training objective: mean of NLL + β KL over batch and timesteps, times 256 / M; a scalar.

        Differentiable in ``eval()`` mode, too.

        Args:
            x, num_steps: as in :meth:`run`.
            beta: weight of the KL.
        """
        beta = require_number(beta, "beta", least=0)
        asked: Any = {} if self.training or not self.takes_graph else {"graph": True}
        out = self.run(x, num_steps, record=("nll", "kl"), **asked)
        return F.free_energy(out.nll, out.kl, beta, self.size_of(x))

    # -- files --------------------------------------------------------------------------------

    @classmethod
    def check_sizes(cls, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Raise ``ValueError`` if the sizes in a file are not those of its weights.

        Before a model is made from them: those of a damaged file could fill the memory.
        """
        sizes = [config.get(name) for name in ("in_features", "latents")]
        promised = cls.has_matrix and None not in sizes and config.get("decoder") is None
        if promised and not any(list(weight.shape) == sizes for weight in weights.values()):
            raise ValueError(
                f"it is damaged, no weight has the shape (in_features, latents) = {tuple(sizes)}"
            )

    def check_loaded(self) -> None:
        """Raise ``ValueError`` if weights that were just loaded are out of range."""

    def config(self) -> dict[str, Any]:
        """The constructor's arguments as plain data.

        Raises:
            TypeError: an estimator, decoder or likelihood that is not registered, or an argument
                that is no plain data.
        """
        options = self._options()
        for name in PARTS.keys() & options.keys():
            if options[name] is not None:
                options[name] = PARTS[name].to_config(options[name])
        return plain(options, self)

    def _options(self) -> dict[str, Any]:
        """The constructor's arguments, as they would be now."""
        return {**super()._options(), **self._current()}

    def _current(self) -> dict[str, Any]:
        """Arguments that may have been set since."""
        return {}

    def describe(self) -> dict[str, Any]:
        """What the model is, as plain data to compare; parts that have no name by their options."""
        parts = {name: _described(name, value) for name, value in self._options().items()}
        dtype = str(self.like.dtype).removeprefix("torch.")
        frozen = [name for name, weight in self.named_parameters() if not weight.requires_grad]
        set_since = {name: _described(name, value) for name, value in self.unsaved().items()}
        if frozen:
            set_since["frozen"] = frozen
        return {"class": type(self).__name__, **parts, **set_since, "dtype": dtype}

    def unsaved(self) -> dict[str, Any]:
        """Settings that are in use and that no file holds, by name."""
        return {}

    def save(self, path: str | Path) -> None:
        """Write weights and configuration to one file, whole or not at all.

        Raises:
            TypeError: the model, or a part of it, is not registered under a name.
            ValueError: :meth:`load` could not make the model again: its weights are parametrized,
                or modules or buffers were replaced or added.
        """
        name = MODELS.name_of(self)
        if name is None:
            raise TypeError(
                f"a {type(self).__name__} cannot be saved: register it first, "
                "@MODELS.register(name) of ipvae_snn.models"
            )
        derived = [part or "it" for part, module in self.named_modules() if derives_weights(module)]
        if derived:
            raise ValueError(
                f"this {type(self).__name__} cannot be saved while weights of {', '.join(derived)} "
                "are computed from others: make them permanent by prune.remove, "
                "remove_weight_norm, remove_spectral_norm or parametrize.remove_parametrizations "
                "of torch.nn.utils"
            )
        if self.unsaved():
            raise ValueError(
                f"this {type(self).__name__} cannot be saved: no file holds "
                f"{', '.join(self.unsaved())}; set it to False first, and again after loading"
            )
        config, weights = self.config(), self.state_dict()
        self._require_loadable(config, weights)
        content = {"model": name, "config": config, "weights": weights}
        write_content(path, FORMAT, FORMAT_VERSION, content)

    def _require_loadable(self, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Raise ``ValueError`` unless a model made from ``config`` holds the same ``weights``."""
        for name, weight in weights.items():
            if isinstance(weight, Tensor):
                require_values(weight)
                require_finite(weight, name)
        self.check_loaded()
        with seeded(0):
            made = make_model(type(self), config)
        differences = _differences(self, made)
        if differences:
            raise ValueError(
                f"this {type(self).__name__} cannot be saved: a file holds its arguments, which "
                f"make another one ({'; '.join(differences[:4])}). Keep added modules and buffers "
                "beside the model, and register a class of your own for other layers"
            )

    @classmethod
    def load(cls: type[M], path: str | Path, device: torch.device | str = "cpu") -> M:
        """Read a file of :meth:`save`; never runs code from it.

        The model is in ``eval()`` mode, in the precision it was saved in. Its parameters can be
        trained on; what it infers carries no graph (:meth:`keeps_graph`).

        Raises:
            FileNotFoundError: no such file.
            ValueError: not such a file, damaged, of another class of models, or written by a newer
                version; no such device.
        """
        model = load_model(path, device)
        if not isinstance(model, cls):
            raise ValueError(
                f"{path} holds a {type(model).__name__}, not a {cls.__name__}: load it with "
                "ipvae_snn.load_model"
            )
        return model


def _differences(model: nn.Module, made: nn.Module) -> list[str]:
    """In what the weights and modules of ``model`` are not those of ``made``, in words."""
    weights, expected = _weights_by_name(model), _weights_by_name(made)
    found = [
        f"{name} is {weights.get(name, 'missing')}, there {expected.get(name, 'missing')}"
        for name in dict.fromkeys((*weights, *expected))
        if weights.get(name) != expected.get(name)
    ]
    modules = dict(made.named_modules())
    return found + [
        f"{name} is a {type(module).__qualname__}, there a {type(modules[name]).__qualname__}"
        for name, module in model.named_modules()
        if name and name in modules and type(module) is not type(modules[name])
    ]


def _weights_by_name(model: nn.Module) -> dict[str, str]:
    learned = dict(model.named_parameters(remove_duplicate=False))
    return {
        name: f"a {'parameter' if name in learned else 'buffer'} {tuple(weight.shape)}"
        if isinstance(weight, Tensor)
        else repr(type(weight))
        for name, weight in model.state_dict().items()
    }


MODELS: Registry[Any] = Registry("model", BaseModel)
"""Models that files and the command line can name."""


def load_model(path: str | Path, device: torch.device | str = "cpu") -> Any:
    """The model in a file, of whatever registered class; see :meth:`BaseModel.load`."""
    device = require_device(device)
    content = read_content(
        path, (FORMAT, FORMAT_OF_VERSION_1), FORMAT_VERSION, writer="IPVAE.save", device=device
    )
    config, weights = content.get("config"), content.get("weights")
    if not (isinstance(config, dict) and isinstance(weights, dict)):
        raise ValueError(f"{path} is damaged: it lacks its configuration or its weights")
    _check_weights(path, weights)
    try:
        cls = MODELS.find(content.get("model", "ipvae"))
        cls.check_sizes(config, weights)
        # The weights drawn here are replaced: leave the random state alone.
        with seeded(0), AllocationLimit(weights):
            model = make_model(cls, {**cls.earlier, **config})
        like = next(w for w in weights.values() if w.is_floating_point())
        _require_kinds(weights, model.to(like.dtype).state_dict())
        model.load_state_dict(weights)
        model.check_loaded()
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, StopIteration) as error:
        raise ValueError(f"{path} does not hold a valid model: {error}") from error
    return model.to(device).eval()


def make_model(cls: Any, config: Mapping[str, Any]) -> Any:
    """A model of a class from a configuration, in which parts are plain data or instances.

    Parts that take the sizes of the model, and do not state them, get them.
    """
    options = {
        name: _part(PARTS[name], value, config) if name in PARTS and isinstance(value, dict)
        else value
        for name, value in config.items()
    }  # fmt: skip
    return cls(**options)


def _part(registry: Registry[Any], part: dict[str, Any], config: Mapping[str, Any]) -> Any:
    taken = inspect.signature(registry.find(part.get("name"))).parameters
    sizes = {n: config[n] for n in ("in_features", "latents") if n in taken and n in config}
    return registry.from_config({**sizes, **part})


def _check_weights(path: str | Path, weights: dict[str, Any]) -> None:
    if not weights or not all(
        isinstance(name, str) and isinstance(w, Tensor) for name, w in weights.items()
    ):
        raise ValueError(f"{path} is damaged: not all of its weights are tensors with names")
    for name, weight in weights.items():
        require_finite(weight, f"{name} in {path}")


def _require_kinds(weights: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Raise where loading would make floats of integers or complex numbers, or the reverse."""
    for name in weights.keys() & own.keys():
        if weights[name].is_floating_point() != own[name].is_floating_point():
            raise ValueError(f"{name} is {weights[name].dtype}, not {own[name].dtype}")


def _code(code: CodeType) -> str:
    """Instructions and constants of a function; those of functions in it have no fixed repr."""
    constants = [_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def _described(name: str, item: Any, depth: int = 3) -> Any:
    """An argument as plain data to compare: as in files, else by where its class or code lies."""
    try:
        if name in PARTS and item is not None:
            return PARTS[name].to_config(item)
        return plain({name: item}, item)[name]
    except TypeError:
        kind = item if hasattr(item, "__qualname__") else type(item)
    attributes = {**getattr(item, "_arguments", {}), **getattr(item, "__dict__", {})}
    options = {n: v for n, v in attributes.items() if isinstance(v, int | float | str)}
    if depth:
        options |= {
            name: repr(_described("", value, depth - 1))
            for name, value in attributes.items()
            if not (name in options or name.startswith("_") or value is None)
        }
    if isinstance(item, FunctionType):
        cells = [cell.cell_contents for cell in item.__closure__ or ()]
        given = [*cells, *(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).values()]
        options["code"] = _code(item.__code__)
        options["given"] = repr([_described("", value) for value in given])
    elif isinstance(item, partial):
        given = [item.func, *item.args, *item.keywords.values()]
        options["given"] = repr([_described("", value) for value in given])
    elif isinstance(item, nn.Module):
        options["layers"] = repr(item)
        options["training"] = True  # whatever mode it is in now
        own = {
            name: _described("", layer, 1)
            for name, layer in item.named_modules()
            if depth > 1 and name and not type(layer).__module__.startswith("torch.")
        }
        options |= {"parts": repr(own)} if own else {}
    if hasattr(item, "tolist"):  # a tensor or an array
        options["values"] = repr(item.tolist())
    return {"name": f"{kind.__module__}.{kind.__qualname__}", **options}
