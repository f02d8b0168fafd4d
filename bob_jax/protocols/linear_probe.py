"""Multinomial logistic regression on frozen features, a whole grid of regularisation strengths solved at once.

    minimise over W, b:  mean_i CE(W'x_i + b, y_i) + lambda / 2 |W|^2

with x standardised by the training split's statistics. This is scikit-learn's objective with lambda = 1 / (C N). Of
several labels per image each has a regression of its own, and all share lambda.
The features are extracted once; L-BFGS (Liu & Nocedal 1989, as optax has it, with a zoom line search) runs under vmap
over lambda until every gradient is small. Where the logits of all images are too many for the devices' memory, it runs
for one lambda after the other, and each step sums over parts of the images.
"""

import dataclasses
import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bob_jax.data.base import Dataset, Task
from bob_jax.protocols.base import Competitor, Context, Protocol, Result
from bob_jax.protocols.features import extract
from bob_jax.protocols.head import Head, predict
from bob_jax.protocols.scoring import cross_entropy, judged, validation_score
from bob_jax.training import mesh as meshes

Params = tuple[jax.Array, jax.Array]  # W, b

# Bytes of logits, of all images and lambdas, that one device holds; the gradient takes some four times that. ImageNet's
# would be 51 GB, and 193 with the gradient.
LOGITS = 2**31
MEMORY = 10  # pairs of steps and gradient differences that L-BFGS keeps


@dataclasses.dataclass(frozen=True)
class LinearProbe(Protocol):
    """Logistic regression with the regularisation that is best on validation.

    Attributes:
        regularisation: the lambdas to try.
        tolerance: a solution is converged when no gradient entry is larger.
        max_iterations: of L-BFGS; a point that did not converge says so in the record.
        batch_size: images through the backbone at a time.
    """

    name: ClassVar[str] = "linear_probe"
    tasks: ClassVar[tuple[Task, ...]] = ("classification", "multilabel")
    makes_head: ClassVar[bool] = True
    regularisation: tuple[float, ...]
    tolerance: float
    max_iterations: int
    batch_size: int

    def run(self, competitor: Competitor, dataset: Dataset, context: Context) -> Result:
        """Fits every lambda on train, chooses on validation, reads test once."""
        train, validation, test = (
            extract(competitor, dataset.splits[split], f"{dataset.name}/{split}", context, self.batch_size)
            for split in ("train", "validation", "test")
        )
        mean, scale = standardisation(train.values)
        weights, bias, gradient, iterations = solve(
            (train.values - mean) / scale,
            train.labels,
            classes=len(dataset.classes),
            regularisation=self.regularisation,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            mesh=context.mesh,
        )
        heads = [Head(weights[i], bias[i], mean, scale) for i in range(len(self.regularisation))]
        scored = [predict(head, validation.values) for head in heads]
        grid = [
            {
                "regularisation": strength,
                "iterations": int(iterations[i]),
                "converged": bool(gradient[i] <= self.tolerance),
                "validation": validation_score(dataset, scored[i], validation.labels),
            }
            for i, strength in enumerate(self.regularisation)
        ]
        # Of equals the strongest regularisation: the simpler model.
        chosen = max(range(len(grid)), key=lambda i: (grid[i]["validation"], grid[i]["regularisation"]))
        judgement = judged(dataset, test, predict(heads[chosen], test.values), validation, scored[chosen])
        return Result(
            **judgement._asdict(),
            cost=test.cost,
            grid=tuple(grid),
            chosen=chosen,
            skipped={"train": train.skipped, "validation": validation.skipped, "test": test.skipped},
            weights=heads[chosen].named(),
        )


def standardisation(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale [D] of the training features [N, D]; a dimension that does not vary keeps scale 1."""
    mean, std = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    varies = std > 1e-6 * max(float(std.max()), 1e-12)
    return mean.astype(np.float32), np.where(varies, std, 1.0).astype(np.float32)


def solve(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    regularisation: tuple[float, ...],
    tolerance: float,
    max_iterations: int,
    mesh: jax.sharding.Mesh,
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Solutions for all lambdas, the rows of the data split over the mesh.

    Args:
        features: [N, D] float32.
        labels: [N] int32, or [N, C] of 0 and 1: then C regressions of yes against no are solved side by side.
        classes: C.
        regularisation: G values of lambda.
        tolerance: stop when the largest gradient entry is at most this.
        max_iterations: or after so many steps.
        mesh: devices.
        weights: [N] of each row's loss, of sum 1; rows count alike when None. A row of weight 0 is as none at all, so
            that trainings on different parts of the data share one compilation.

    Returns:
        W [G, D, C], b [G, C], the largest gradient entry [G], iterations [G].
    """
    parts = max(1, math.ceil(len(labels) * classes * len(regularisation) * 4 / (LOGITS * mesh.size)))
    rows = parts * meshes.round_up(math.ceil(len(labels) / parts), mesh)
    if weights is None:
        weights = np.full(len(labels), 1 / len(labels))
    padded = {
        "features": np.pad(features, [(0, rows - len(labels)), (0, 0)]),
        "labels": np.pad(labels, [(0, rows - len(labels))] + [(0, 0)] * (labels.ndim - 1)),
        "weight": np.pad(np.float32(weights), (0, rows - len(labels))),
    }
    with jax.set_mesh(mesh):
        stacked = {name: rows.reshape(parts, -1, *rows.shape[1:]) for name, rows in padded.items()}
        data = meshes.split_rows(stacked, mesh, axis=1)  # each device has rows of every part
        solutions = _solve(data, np.asarray(regularisation, np.float32), classes, tolerance, max_iterations)
    (kernels, bias), gradient, iterations = meshes.to_host(solutions)
    return kernels, bias, gradient, iterations


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _solve(
    data: dict[str, jax.Array], strengths: jax.Array, classes: int, tolerance: float, max_iterations: int
) -> tuple[Params, jax.Array, jax.Array]:
    def loss(params: Params, part: jax.Array | int) -> jax.Array:
        weights, bias = params
        rows = {name: values[part] for name, values in data.items()}
        logits = jnp.matmul(rows["features"], weights, precision="float32") + bias[None]
        return jnp.sum(cross_entropy(logits, rows["labels"]) * rows["weight"])

    optimizer = optax.lbfgs(memory_size=MEMORY)
    parts, _, width = data["features"].shape
    start = (jnp.zeros((width, classes)), jnp.zeros(classes))

    def solve_one(strength: jax.Array) -> tuple[Params, jax.Array, jax.Array]:
        def objective(params: Params) -> jax.Array:
            if parts == 1:
                return loss(params, 0) + 0.5 * strength * jnp.sum(params[0] ** 2)
            again = jax.checkpoint(loss)  # the logits of no part are kept for the gradient
            total, _ = jax.lax.scan(lambda total, part: (total + again(params, part), None), 0.0, jnp.arange(parts))
            return total + 0.5 * strength * jnp.sum(params[0] ** 2)

        value_and_grad = optax.value_and_grad_from_state(objective)

        def largest(gradient):
            return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in gradient]))

        def step(carry):
            params, state, _, iteration = carry
            value, gradient = value_and_grad(params, state=state)
            updates, state = optimizer.update(gradient, state, params, value=value, grad=gradient, value_fn=objective)
            params = optax.apply_updates(params, updates)
            # The line search ends with the gradient at the new point: no extra pass for the stopping rule.
            return params, state, largest(optax.tree.get(state, "grad")), iteration + 1

        def unfinished(carry):
            return (carry[2] > tolerance) & (carry[3] < max_iterations)

        carry = (start, optimizer.init(start), jnp.array(jnp.inf), jnp.array(0))
        params, _, gradient, iterations = jax.lax.while_loop(unfinished, step, carry)
        return params, gradient, iterations

    # Under vmap the branches of the line search hold a copy of all features for each lambda: 39 GB of ImageNet's.
    return jax.vmap(solve_one)(strengths) if parts == 1 else jax.lax.map(solve_one, strengths)
