"""The unroll in time, forward and backward: functions of tensors, below the neurons and modules.

``plain`` uses PyTorch operations and runs everywhere. ``native`` is compiled C for float32 on the
CPU, used where a compiler is found. ``cuda_graphs`` records ``plain`` on a GPU and replays it. All
take an :class:`~ipvae_snn.kernels.spec.UnrollSpec`, return an
:class:`~ipvae_snn.kernels.spec.UnrollResult`, and share one outline of the backward pass
(:class:`~ipvae_snn.kernels.adjoint.Adjoint`).
"""
