"""numba as a front end: the source of one kernel → LLVM text of its function.

Enters a function's source, in which the calls of `intrinsics.FUNCTIONS` give literals
as keywords; leaves a `KernelText`. Invariant: nothing is kept by numba, whose
registries would grow with every program: functions of kernels are values whose type
carries their literals, and only this module's pipeline knows them. numba translates
the bytecode, infers types and lowers control flow and indices; it optimises nothing.
"""

from __future__ import annotations

import gc
import linecache
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import compiler, registry, types
from numba.core.codegen import CodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.datamodel import models
from numba.core.extending import register_model, typeof_impl
from numba.core.ir import Global
from numba.core.lowering import Lower
from numba.core.typed_passes import (
    BaseNativeLowering,
    NopythonTypeInference,
)
from numba.core.typing.templates import signature
from numba.core.untyped_passes import (
    FixupArgs,
    IRProcessing,
    TranslateByteCode,
)

from jitseq.codegen.llvm.kernel import INLINED_MATH
from jitseq.codegen.numba_cpu.emitter import Emitter, Operand
from jitseq.codegen.numba_cpu.intrinsics import FUNCTIONS
from jitseq.codegen.numba_cpu.specialise import Specialised, file_name, function
from jitseq.codegen.numba_cpu.types import Kind, kind_of, numba_type
from jitseq.ir.program import Type

METADATA = re.compile(r", ![a-z_]+ ![0-9]+$", re.MULTILINE)
"""What numba notes of the error that a range with a step of zero would be."""

VECTOR_CALL = re.compile(r'call [^@\n]*@"js\.[^"]*"\([^)]*\)')


class FunctionType(types.Callable, types.Opaque):  # type: ignore[misc]
    """The type of a `Specialised`, from which its result follows."""

    def __init__(self, function: Specialised) -> None:
        self.function = function
        super().__init__(f"jitseq.{function.name}({sorted(function.literals.items())})")

    def get_call_type(self, context: Any, args: Sequence[Any], kws: Any) -> Any:
        """numba's question: the signature for arguments of these types."""
        kinds = [kind_of(arg) for arg in args]
        result = FUNCTIONS[self.function.name].result(self.function.literals, kinds)
        returned = types.none if result is None else numba_type(result)
        return signature(returned, *(numba_type(kind) for kind in kinds))

    def get_call_signatures(self) -> tuple[tuple[()], bool]:
        """numba's question for error messages."""
        return (), True

    def get_impl_key(self, sig: Any) -> Any:
        """numba's question: what finds the implementation."""
        return type(self)


register_model(FunctionType)(models.OpaqueModel)


@typeof_impl.register(Specialised)  # type: ignore[untyped-decorator]
def _typeof(value: Specialised, context: Any) -> FunctionType:
    return FunctionType(value)


class KernelLower(Lower):  # type: ignore[misc]
    """numba's lowering, with the functions of kernels written in place."""

    def lower_assign(self, type: Any, statement: Any) -> Any:
        """A name of a kernel's function holds nothing."""
        if isinstance(statement.value, Global) and isinstance(type, FunctionType):
            return self.context.get_dummy_value()
        return super().lower_assign(type, statement)

    def _lower_call_normal(self, function: Any, expr: Any, sig: Any) -> Any:
        if not isinstance(function, FunctionType):
            return super()._lower_call_normal(function, expr, sig)
        operands = [
            Operand(self._cast_var(var, type), kind_of(type))
            for var, type in zip(expr.args, sig.args, strict=True)
        ]
        name, literals = function.function
        try:
            value = FUNCTIONS[name].emit(Emitter(self.builder), literals, operands)
        except Exception as error:
            error.add_note(f"in line {self.loc.line}, a call of {name}")
            raise
        return self.context.get_dummy_value() if value is None else value


@register_pass(mutates_CFG=True, analysis_only=False)
class _KernelLowering(BaseNativeLowering):  # type: ignore[misc]
    _name = "jitseq_kernel_lowering"
    lowering_class = KernelLower


class _Pipeline(compiler.CompilerBase):  # type: ignore[misc]
    """What straight loop nests need of numba's passes."""

    def define_pipelines(self) -> list[Any]:
        passes = PassManager("jitseq kernel")
        for one in (
            TranslateByteCode,
            FixupArgs,
            IRProcessing,
            NopythonTypeInference,
            _KernelLowering,
        ):
            passes.add_pass(one)
        passes.finalize()
        return [passes]


class _Modules(CodeLibrary):  # type: ignore[misc]
    """Takes the LLVM modules that numba makes; nothing is compiled."""

    def __init__(self, codegen: Any, name: str) -> None:
        super().__init__(codegen, name)
        self.modules: list[Any] = []

    def add_ir_module(self, ir_module: Any) -> None:
        self.modules.append(ir_module)

    def add_linking_library(self, library: Any) -> None:
        """numba offers its run-time library; kernels call nothing of it."""

    def finalize(self) -> None:
        self._finalized = True

    def get_function(self, name: str) -> Any:
        raise NotImplementedError("kernels are loaded by jitseq")

    def get_llvm_str(self) -> str:
        return "\n".join(map(str, self.modules))

    def get_asm_str(self) -> str:
        raise NotImplementedError("kernels are compiled by jitseq")


class KernelText(NamedTuple):
    """LLVM text of one function, ``@NAME.numba``, in numba's calling convention.

    ``globals`` are constants and declarations, a line each; equal names mean equal
    things in every kernel. ``math`` are the vector functions that it calls, as
    `jitseq.codegen.llvm.math` wants them. The text is kept ``packed``: most of it
    are packs being taken apart and put together, a hundred kilobytes a kernel.
    """

    packed: bytes
    globals: tuple[str, ...]
    math: frozenset[tuple[str, str, int]]

    @property
    def definition(self) -> str:
        """The function as LLVM text."""
        return zlib.decompress(self.packed).decode()


def kernel_text(source: str, name: str, elements: Sequence[str]) -> KernelText:
    """Translate the function ``name`` of ``source``.

    Args:
        source: one kernel, as `render.kernel_source` writes it.
        elements: the element type behind each pointer argument; two integers follow.

    Raises:
        NumbaError, TypeError: the source is outside of what kernels are written in.
    """
    pointers = [numba_type(Kind(Type(element), pointer=True)) for element in elements]
    arguments = (*pointers, types.int64, types.int64)
    flags = compiler.Flags()
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    flags.error_model = "numpy"
    target = registry.cpu_target
    file = file_name(name)
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    with global_compiler_lock, _no_collections():
        context = target.target_context
        library = _Modules(context.codegen(), name)
        compiled = compiler.compile_extra(
            target.typing_context,
            context,
            function(source, name),
            arguments,
            types.void,
            flags,
            {},
            library=library,
            pipeline_class=_Pipeline,
        )
    del linecache.cache[file]  # no error will show its lines
    return _text(library.modules, compiled.fndesc.mangled_name, name)


@contextmanager
def _no_collections() -> Iterator[None]:
    """Looking for cycles among numba's many objects took a third of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _text(modules: Sequence[Any], mangled: str, name: str) -> KernelText:
    definitions, found, math = [], [], set()
    for value in (value for m in modules for value in m.globals.values()):
        if value.name.startswith("js.") and isinstance(value, ir.Function):
            math.add(_vector_function(value))
        elif isinstance(value, ir.Function) and value.blocks:
            value.linkage = "internal"
            value.attributes.add("alwaysinline")
            definitions.append(str(value).replace("\n{", " #0\n{", 1))
        elif "NumbaEnv" not in value.name:  # what Python code would need
            found.append(str(value).strip())
    text = "\n".join(definitions).replace(mangled, f"{name}.numba")
    text = METADATA.sub("", text)
    calls = VECTOR_CALL.findall(text)
    if len(calls) > INLINED_MATH:
        text = VECTOR_CALL.sub(r"\g<0> noinline", text)
    return KernelText(zlib.compress(text.encode(), 1), tuple(found), frozenset(math))


def _vector_function(function: Any) -> tuple[str, str, int]:
    """Name, element and lanes of a declared vector function."""
    name = function.name.split(".")[1]
    type = function.function_type.return_type
    if isinstance(type, ir.VectorType):
        return name, str(type.element), type.count
    return name, str(type), 1
