"""The recipe of a training."""

from dataclasses import dataclass

from ipvae_snn import functional as F
from ipvae_snn._utils.checks import require_integer, require_number, require_seed
from ipvae_snn.kernels.spec import PRECISIONS

MAX_SAMPLES = 2**20
"""Largest batch."""


@dataclass
class TrainConfig:
    """The recipe; the defaults learn whitened natural patches in a minute or two on a CPU.

    Ramps are fractions of ``iterations``. The paper's own recipe for patches is 155,000 iterations
    with batch 200, lr 5e-3, beta_ramp 0.1; a short run wants a higher learning rate, and a β that
    is not full before the dictionary carries anything. Source: arXiv 2410.19315, appendix.

    Attributes:
        iterations: optimizer steps.
        batch: samples per step.
        steps: T, timesteps per sample.
        burn_in: first timesteps whose NLL does not count, in 0 … T − 1. While a run still looks for
            its answer its error is large, and a σ that must cover it is too large for what comes
            after: leaving these steps out teaches a finer code.
        lr: peak learning rate of Adamax.
        lr_end: learning rate at the end of the cosine.
        warmup: fraction of the iterations over which the learning rate rises.
        weight_decay: L2 on every parameter.
        grad_clip: largest global norm of the gradient; three times that during the warm-up.
        beta: final weight of the KL.
        beta_start: weight of the KL at the first iteration.
        beta_ramp: fraction over which β rises, linearly.
        clamp_start: clamp at the first iteration; it rises to the model's own. Without this, rates
            explode before the dictionary is learned.
        clamp_ramp: fraction over which the clamp rises, linearly.
        temp_start, temp_end: temperature of a relaxed estimator, falling linearly.
        temp_ramp: fraction over which the temperature falls.
        seed: of batches and spikes.
        device: ``"cpu"``, ``"cuda"``, ...
        precision: of the products with G, see :attr:`IPVAE.precision`.
        log_every: iterations between rows of the history.
        checkpoint_every: iterations between checkpoints, where :func:`fit` is to keep any.
        progress: show a progress bar.
    """

    iterations: int = 1200
    batch: int = 50
    steps: int = 16
    burn_in: int = 0
    lr: float = 2e-2
    lr_end: float = 1e-5
    warmup: float = 0.005
    weight_decay: float = 3e-4
    grad_clip: float = 300.0
    beta: float = 24.0
    beta_start: float = 1e-4
    beta_ramp: float = 1.0
    clamp_start: float = 2.0
    clamp_ramp: float = 0.1
    temp_start: float = 1.0
    temp_end: float = 0.01
    temp_ramp: float = 0.5
    seed: int = 0
    device: str = "cpu"
    precision: str = "float32"
    log_every: int = 20
    checkpoint_every: int = 500
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "steps", "log_every", "checkpoint_every"):
            require_integer(getattr(self, name), name)
        if self.batch > MAX_SAMPLES:
            raise ValueError(f"batch must be at most {MAX_SAMPLES:,}, got {self.batch}")
        require_integer(self.burn_in, "burn_in", least=0)
        if self.burn_in >= self.steps:
            raise ValueError(f"burn_in must be below steps = {self.steps}, got {self.burn_in}")
        require_seed(self.seed)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}, got {self.precision!r}")
        for name in ("warmup", "beta_ramp", "clamp_ramp", "temp_ramp"):
            require_number(getattr(self, name), name, least=0, most=1)
        require_number(self.lr, "lr", least=1e-12, most=100)
        require_number(self.grad_clip, "grad_clip", least=1e-12)
        for name in ("temp_start", "temp_end"):
            require_number(getattr(self, name), name, least=1e-6, most=1)
        for name in ("lr_end", "weight_decay", "beta", "beta_start"):
            require_number(getattr(self, name), name, least=0)
        require_number(self.clamp_start, "clamp_start", least=F.MEM_FLOOR + 1)
