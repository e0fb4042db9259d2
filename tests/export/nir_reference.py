"""Reference implementation of the NIR specification in numpy."""

import numpy as np


def run(graph, x, num_steps, reset="zero", dt=1):
    """Outputs (T, B, M) of a graph, and the outputs of all its nodes at the last timestep.

    Nodes run in the order of their names; an output that is not computed yet is that of the
    previous timestep.
    """
    nodes, edges = flat(graph)
    order = sorted(nodes, key=lambda n: (type(nodes[n]).__name__ != "Input", n))
    v, i, out, shown = {}, {}, {}, []
    for _ in range(num_steps):
        before, out = out, {}
        for name in order:
            n, kind = nodes[name], type(nodes[name]).__name__
            a = x if kind == "Input" else 0
            for source in (s for s, t in edges if t == name):
                a = a + out.get(source, before.get(source, 0))
            if kind == "Affine" or kind == "Linear":
                a = a @ n.weight.T + (n.bias if kind == "Affine" else 0)
            elif kind == "Scale":
                a = a * n.scale
            elif kind == "Threshold":
                a = (a > n.threshold).astype(np.float32)
            elif kind in ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF"):
                u = v.get(name, np.zeros_like(a))
                if kind.startswith("Cuba"):
                    i[name] = i.get(name, 0 * a)
                    i[name] = i[name] + dt * (n.w_in * a - i[name]) / n.tau_syn
                    a = i[name]
                tau = {"LI": "tau", "LIF": "tau", "CubaLI": "tau_mem", "CubaLIF": "tau_mem"}.get(
                    kind
                )
                u = u + dt * (
                    n.r * a if tau is None else (n.v_leak - u + n.r * a) / getattr(n, tau)
                )
                a = u
                if kind.endswith("F") and reset == "zero":
                    a = (u > n.v_threshold).astype(np.float32)
                    u = np.where(a > 0, n.v_reset, u)
                elif kind.endswith("F"):
                    a = np.maximum(np.trunc(u / n.v_threshold), 0)
                    u = u - a * n.v_threshold
                    u = np.maximum(u, -n.v_threshold) if kind == "IF" else u
                v[name] = u
            out[name] = a
        shown.append(next(out[name] for name in order if type(nodes[name]).__name__ == "Output"))
    return np.stack(shown), out


def flat(graph, prefix=""):
    """Nodes and edges with subgraphs inlined; their inputs and outputs pass values through."""
    nodes, edges = {}, []
    for name, node in graph.nodes.items():
        if type(node).__name__ != "NIRGraph":
            nodes[prefix + name] = Pass() if prefix and type(node).__name__ in PASSES else node
            continue
        inner, wires = flat(node, f"{prefix}{name}.")
        nodes, edges = nodes | inner, edges + wires
    for a, b in graph.edges:
        inside_a, inside_b = (type(graph.nodes[n]).__name__ == "NIRGraph" for n in (a, b))
        exit_ = next(iter(graph.nodes[a].outputs)) if inside_a else ""
        entry = next(iter(graph.nodes[b].inputs)) if inside_b else ""
        edges.append((f"{prefix}{a}.{exit_}".rstrip("."), f"{prefix}{b}.{entry}".rstrip(".")))
    return nodes, edges


class Pass:
    """The Input or Output of a subgraph."""


PASSES = ("Input", "Output")
