"""Loading weights strictly: everything fits, or nothing is loaded and one line says what does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from engine.errors import UserError


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load `state` into `module`; `where` begins the error's line and says where the state comes from."""
    expected = module.state_dict()
    problems = []
    for what, keys in (("missing", expected.keys() - state.keys()), ("unexpected", state.keys() - expected.keys())):
        if keys:
            problems.append(f"{len(keys)} {what}: {_first(sorted(keys))}")
    shapes = [f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
              for key in sorted(expected.keys() & state.keys()) if state[key].shape != expected[key].shape]  # fmt: skip
    if shapes:
        problems.append(f"{len(shapes)} of another shape: {_first(shapes)}")
    if problems:
        raise UserError(f"{where} does not fit, weights {'; '.join(problems)}")
    module.load_state_dict(dict(state), strict=True)


def _first(names: Iterable[str], count: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
