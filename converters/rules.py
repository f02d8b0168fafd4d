"""The mapping engine: a table of rules turns named source arrays into named parameters, strict both ways.

Nothing is matched by shape or by order, and nothing is dropped in silence: a source array is either mapped by exactly
one rule or ignored by a pattern that says so, and every parameter of the architecture is filled exactly once. That is
what `load_state_dict(strict=False)` does not give.
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from bob_jax.errors import BobError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


@dataclasses.dataclass(frozen=True)
class Transform:
    """A change of layout, both ways; called, it goes forward.

    Attributes:
        forward: from the source's layout to ours.
        backward: from ours to the source's, which has the given shape: `backward(forward(x), x.shape) == x`.
    """

    forward: Callable[[np.ndarray], np.ndarray]
    backward: Callable[[np.ndarray, Shape], np.ndarray]

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The array in our layout."""
        return self.forward(array)


def reshaped(forward: Callable[[np.ndarray], np.ndarray]) -> Transform:
    """A transform that only groups axes anew, so that the source's shape is all it takes to undo it."""
    return Transform(forward, lambda array, shape: array.reshape(shape))


# The array as it is.
identity = Transform(lambda array: array, lambda array, shape: array)
# PyTorch's Linear weight [out, in] as a kernel [in, out].
linear = Transform(lambda weight: weight.T, lambda kernel, shape: kernel.T)
# PyTorch's Conv2d weight [out, in, H, W] as a kernel [H, W, in, out].
conv = Transform(lambda weight: weight.transpose(2, 3, 1, 0), lambda kernel, shape: kernel.transpose(3, 2, 0, 1))
# A query, key or value kernel [width, heads, head_dim] as [width, heads * head_dim].
merge_heads_out = reshaped(lambda kernel: kernel.reshape(kernel.shape[0], -1))
# An attention output kernel [heads, head_dim, width] as [heads * head_dim, width].
merge_heads_in = reshaped(lambda kernel: kernel.reshape(-1, kernel.shape[-1]))
# All values in one row: biases kept per head.
flat = reshaped(lambda array: array.reshape(-1))


@dataclasses.dataclass(frozen=True)
class Rule:
    r"""One line of a table.

    Attributes:
        pattern: regular expression that matches whole source names.
        target: dotted parameter path; `\1` and so on stand for the groups of the pattern.
        transform: between the source's layout and ours.
        part: (index, count) where `count` sources, joined along their last axis, make one parameter.
    """

    pattern: str
    target: str
    transform: Transform = identity
    part: tuple[int, int] = (0, 1)


@dataclasses.dataclass(frozen=True)
class Table:
    """The key layout of one kind of checkpoint.

    Attributes:
        rules: how names map.
        ignore: regular expressions of whole source names that are left out knowingly (heads, counters, other towers).
        prepare: replaces arrays of the checkpoint by what is computed from them, before the rules; None for nothing.
        derived: the parameters that `prepare` makes; they have no place in a checkpoint, so `export` leaves them out.
    """

    rules: tuple[Rule, ...]
    ignore: tuple[str, ...] = ()
    prepare: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]] | None = None
    derived: tuple[str, ...] = ()

    def prefixed(self, prefix: str, ignore: Iterable[str] = ()) -> "Table":
        """The same layout under a prefix (a regular expression), with further names to ignore as they stand.

        The prefix must have no capturing group of its own: it would shift the numbers in the targets.
        """
        rules = tuple(dataclasses.replace(rule, pattern=prefix + f"(?:{rule.pattern})") for rule in self.rules)
        ignored = (*(prefix + f"(?:{pattern})" for pattern in self.ignore), *ignore)
        return dataclasses.replace(self, rules=rules, ignore=ignored)


def convert(arrays: Mapping[str, np.ndarray], table: Table, shapes: Shapes, *, what: str) -> dict[str, np.ndarray]:
    """The parameters of an architecture, in float32, from the arrays of a checkpoint.

    Args:
        arrays: source arrays by name.
        table: the checkpoint's key layout.
        shapes: dotted path of every parameter of the architecture -> its shape.
        what: the checkpoint, for messages.

    Raises:
        BobError: a name is matched by no rule or by several, a parameter is missing, filled twice, of another shape or
            not finite; one error lists them all.
    """
    problems: dict[str, list[str]] = defaultdict(list)
    parts: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    counts: dict[str, int] = {}
    try:
        arrays = table.prepare(arrays) if table.prepare else arrays
    except BobError as error:
        raise BobError(f"{what}: {error}") from error
    for name in arrays:
        place = _place(name, table, problems)
        if place is None:
            continue
        target, rule = place
        index, count = rule.part
        if target not in shapes:
            problems["not a parameter of this architecture"].append(name)
        elif index in parts[target] or counts.setdefault(target, count) != count:
            problems["filled twice"].append(target)
        else:
            value = _transformed(rule, arrays[name])
            if value is None:
                problems["of another rank than the table expects"].append(name)
            else:
                parts[target][index] = value
    converted = _join(parts, counts, shapes, problems)
    if problems:
        listing = "; ".join(f"{problem}: {summarise(names)}" for problem, names in problems.items())
        raise BobError(
            f"{what} does not fit the architecture (a checkpoint of another model, or the wrong table): {listing}"
        )
    return converted


def export(arrays: Mapping[str, np.ndarray], table: Table, shapes: Shapes, *, what: str) -> dict[str, np.ndarray]:
    """The way back: the arrays of a checkpoint from the parameters of an architecture.

    Args:
        arrays: every parameter of the architecture by dotted path.
        table: the checkpoint's key layout.
        shapes: source name -> shape, of every array the checkpoint has; what the table ignores is left out.
        what: the checkpoint, for messages.

    Returns:
        The names of `shapes` that the table maps, with their shapes; `convert` of them, and of what the derived
        parameters are made from, gives `arrays` again.

    Raises:
        BobError: a name is known to no rule or to several, a parameter has no place in the checkpoint, or one does not
            fit its shape; one error lists them all.
    """
    problems: dict[str, list[str]] = defaultdict(list)
    places: dict[str, dict[int, tuple[str, Rule]]] = defaultdict(dict)
    for name in shapes:
        if place := _place(name, table, problems):
            target, rule = place
            places[target][rule.part[0]] = (name, rule)
    homeless = [name for name in arrays if name not in places and name not in table.derived]
    problems |= {"without a place in it": homeless} if homeless else {}
    exported: dict[str, np.ndarray] = {}
    for target, parts in places.items():
        if target not in arrays:
            problems["not a parameter of this architecture"].append(target)
            continue
        start = 0
        for _, (name, rule) in sorted(parts.items()):
            layout = rule.transform.forward(np.broadcast_to(np.float32(0), shapes[name])).shape
            piece = arrays[target][..., start : start + layout[-1]] if rule.part[1] > 1 else arrays[target]
            start += layout[-1] if rule.part[1] > 1 else 0
            if piece.shape != layout:
                problems[f"of shape {piece.shape} where the checkpoint has {layout}"].append(target)
            else:
                exported[name] = np.ascontiguousarray(rule.transform.backward(piece, shapes[name]))
    if problems:
        listing = "; ".join(f"{problem}: {summarise(names)}" for problem, names in problems.items())
        raise BobError(f"{what} cannot hold these parameters: {listing}")
    return exported


def _place(name: str, table: Table, problems: dict[str, list[str]]) -> tuple[str, Rule] | None:
    """The parameter that a source array belongs to and the rule that says so; None if it is ignored, or a problem."""
    matches = [(rule, found) for rule in table.rules if (found := re.fullmatch(rule.pattern, name))]
    ignored = any(re.fullmatch(pattern, name) for pattern in table.ignore)
    if len(matches) + ignored != 1:
        problems["matched by several rules" if matches else "not known to the table"].append(name)
        return None
    return None if ignored else (matches[0][1].expand(matches[0][0].target), matches[0][0])


def _transformed(rule: Rule, array: np.ndarray) -> np.ndarray | None:
    """The array in our layout; None if it has not the number of axes that the transform works on."""
    try:
        return rule.transform(np.asarray(array))
    except ValueError:
        return None


def _join(
    parts: Mapping[str, Mapping[int, np.ndarray]],
    counts: Mapping[str, int],
    shapes: Shapes,
    problems: dict[str, list[str]],
) -> dict[str, np.ndarray]:
    """Joins the parts of each parameter and checks its shape; adds what is wrong to `problems`."""
    converted = {}
    for target, shape in shapes.items():
        found = parts.get(target, {})
        if not found:
            problems["missing in the checkpoint"].append(target)
        elif len(found) != counts[target]:
            problems["missing a part in the checkpoint"].append(target)
        else:
            ordered = [found[index] for index in sorted(found)]
            joined = (*ordered[0].shape[:-1], sum(part.shape[-1] for part in ordered)) if len(ordered) > 1 else None
            if joined and any(part.shape[:-1] != joined[:-1] for part in ordered):
                problems["of parts that do not fit together"].append(target)
                continue
            value = np.concatenate(ordered, axis=-1) if joined else ordered[0]
            if value.shape != shape:
                problems[f"of shape {value.shape} where the architecture has {shape}"].append(target)
            elif not np.isfinite(value).all():
                problems["not finite (damaged, or from a training that diverged)"].append(target)
            converted[target] = np.asarray(value, np.float32, order="C")
    return converted


def summarise(names: Iterable[str]) -> str:
    """All names, those that differ in their first number only as one: `blocks.{0-11}.norm1.scale`."""
    groups: dict[tuple[str, str], list[int]] = {}
    for name in names:
        head, number, tail = re.fullmatch(r"(\D*)(\d*)(.*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
        groups.setdefault((head, tail), []).extend([int(number)] if number else [])
    return ", ".join(head + _ranges(numbers) + tail for (head, tail), numbers in groups.items())


def _ranges(numbers: list[int]) -> str:
    """`[0, 1, 2, 5]` as `{0-2,5}`; a single number as itself."""
    if len(numbers) < 2:
        return "".join(map(str, numbers))
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return "{" + ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs) + "}"
