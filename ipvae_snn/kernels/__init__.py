"""The unroll in time, forward and backward, below the neurons: no state, no modules.

``plain`` is PyTorch alone and runs everywhere; ``native`` is compiled code for float32 on the CPU,
used where a compiler is found. Both take a :class:`~ipvae_snn.kernels.spec.UnrollSpec`, give an
:class:`~ipvae_snn.kernels.spec.UnrollResult`, and share the adjoint's outline
(:class:`~ipvae_snn.kernels.adjoint.Adjoint`).
"""
