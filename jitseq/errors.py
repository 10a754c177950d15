"""The errors that jitseq raises on purpose: what, got, where, hint.

Invariant: every error caused by the user's model or input derives from
`JitseqError`, names the layer by its path in the model when there is one, and is
raised before anything is computed or changed.
"""

from __future__ import annotations

from collections.abc import Mapping


class JitseqError(Exception):
    """Base of all jitseq errors.

    ``facts`` are named lines printed under the message (shapes, types, options),
    ``hint`` says what to change. `Module.__call__` calls `locate` while the error
    travels outwards, so that the printed text ends with the layer's path.
    """

    def __init__(
        self,
        message: str,
        *,
        facts: Mapping[str, object] | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.facts: dict[str, object] = dict(facts or {})
        self.hint = hint
        self.layer: str | None = None
        self.path: tuple[str, ...] = ()
        self.module: object | None = None

    def locate(self, module: object, name: str | None) -> None:
        """Record that the error passed through ``module``.

        The innermost module becomes the ``layer``; for every module further out
        ``name`` is the attribute under which it holds the module recorded before.
        """
        if self.layer is None:
            self.layer = repr(module).split("\n")[0]
        elif name is not None:
            self.path = (name, *self.path)
        self.module = module

    def __str__(self) -> str:
        lines = [self.message]
        facts = {name: str(value) for name, value in self.facts.items()}
        if self.layer is not None:
            facts["at"] = f"{'.'.join(('model', *self.path))}  {self.layer}"
        if self.hint is not None:
            facts["hint"] = self.hint
        width = max((len(name) for name in facts), default=0)
        lines += [f"  {name:<{width}}  {value}" for name, value in facts.items()]
        return "\n".join(lines)


class ShapeError(JitseqError, ValueError):
    """Shapes or ranks that do not fit, found before anything is computed."""


class DtypeError(JitseqError, TypeError):
    """A dtype that the operation does not accept, or operands whose dtypes differ."""


class UnsupportedError(JitseqError, NotImplementedError):
    """A layer, option or operation that jitseq does not cover; says what would work."""


class RangeError(JitseqError, ValueError, IndexError):
    """A label or probability outside of the range that a loss accepts."""


class DeviceError(JitseqError, RuntimeError):
    """A graphics processor, its driver or its memory cannot do what was asked."""


class TraceError(JitseqError, TypeError):
    """A traced function used a value that is only known when the program runs."""


class NeedsStaticBatch(Exception):
    """Internal: a number was needed where the batch extent stands; trace statically."""
