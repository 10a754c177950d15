"""The printed form of a kernel: stable, one instruction a line.

Two kernels with the same text do the same work, whatever buffers they are called on.
"""

from __future__ import annotations

from jitseq.ir.program import (
    Affine,
    Buffer,
    Guard,
    Instr,
    Kernel,
    Loop,
    Program,
    Reg,
)


class _Printer:
    def __init__(self, kernel: Kernel) -> None:
        self.names: dict[object, str] = {kernel.count: "images", kernel.first: "first"}
        for i, buffer in enumerate(kernel.buffers):
            self.names[buffer] = f"{'out' if buffer.written else 'in'}{i}"
        for i, buffer in enumerate(kernel.scratch):
            self.names[buffer] = f"{buffer.space}{i}"
        self.lines: list[str] = []

    def name(self, reg: Reg) -> str:
        if reg not in self.names:
            self.names[reg] = f"%{len(self.names)}"
        return self.names[reg]

    def operand(self, value: object) -> str:
        if isinstance(value, Affine):
            return self.affine(value)
        if isinstance(value, Buffer):
            return self.names[value]
        assert isinstance(value, Reg)
        return self.name(value)

    def affine(self, value: Affine) -> str:
        parts = [
            self.name(reg) if c == 1 else f"{c}*{self.name(reg)}"
            for reg, c in value.terms
        ]
        if value.const or not parts:
            parts.append(str(value.const))
        return " + ".join(parts)

    def body(self, body: object, indent: str) -> None:
        for item in body:  # type: ignore[attr-defined]
            if isinstance(item, Loop):
                self.loop(item, indent)
            elif isinstance(item, Guard):
                self.lines.append(f"{indent}if {self.name(item.mask)}:")
                self.body(item.body, indent + "  ")
            else:
                self.instr(item, indent)

    def instr(self, instr: Instr, indent: str) -> None:
        args = ", ".join(self.operand(arg) for arg in instr.args)
        extra = "" if instr.extra is None else f" {{{instr.extra}}}"
        if instr.op in ("load", "load_splat", "gather", "pin", "uniform"):
            args = f"{self.operand(instr.args[0])}[{self.operand(instr.args[1])}]"
        if instr.op == "store":
            pointer, index, value = map(self.operand, instr.args)
            self.lines.append(f"{indent}{pointer}[{index}] = {value}{extra}")
            return
        if instr.op == "prefetch":
            pointer, index = map(self.operand, instr.args)
            self.lines.append(f"{indent}prefetch {pointer}[{index}]")
            return
        if not instr.results:
            self.lines.append(f"{indent}{instr.op}")
            return
        results = ", ".join(f"{self.name(r)}: {r.type}" for r in instr.results)
        self.lines.append(f"{indent}{results} = {instr.op} {args}{extra}")

    def loop(self, loop: Loop, indent: str) -> None:
        bounds = f"{self.affine(loop.start)}, {self.affine(loop.stop)}, {loop.step}"
        entering = ", ".join(map(self.name, loop.entering))
        carried = ", ".join(map(self.name, loop.carried))
        carry = f" carry ({carried}) = ({entering})" if carried else ""
        self.lines.append(
            f"{indent}for {self.name(loop.var)} in range({bounds}){carry}:"
        )
        self.body(loop.body, indent + "  ")
        if carried:
            yielded = ", ".join(map(self.name, loop.yielded))
            results = ", ".join(map(self.name, loop.results))
            self.lines.append(f"{indent}  yield {yielded}")
            self.lines.append(f"{indent}{results} = results")


def kernel_text(kernel: Kernel) -> str:
    """The kernel without its name."""
    printer = _Printer(kernel)
    printer.body(kernel.body, "  ")
    buffers = ", ".join(f"{printer.names[b]}: {b.element}" for b in kernel.buffers)
    scratch = [f"  {printer.names[b]}: {b.element}[{b.size}]" for b in kernel.scratch]
    return "\n".join([f"({buffers}; images):", *scratch, *printer.lines])


def program_text(program: Program) -> str:
    """Kernels, then the calls of each segment."""
    parts = [f"kernel {k.name}{kernel_text(k)}" for k in program.kernels]
    for index, segment in enumerate(program.segments):
        runs = f"{segment.block} images a block" if segment.batched else "once"
        lines = [f"segment {index}, {runs}:"]
        lines += [f"  zero sums+{s.offset}, {s.bytes} bytes" for s in segment.sums]
        for call in segment.calls:
            places = ", ".join(
                f"{a.space}{a.slot if a.space == 'context' else ''}+{a.offset}"
                for a in call.arguments
            )
            count = "" if call.count is None else f"; {call.count}"
            if call.launch is not None:
                count += f"; {call.launch}"
            if (call.least, call.most) != (1, None):
                count += f"; {call.least} to {call.most or 'all'} images"
            lines.append(f"  {program.kernels[call.kernel].name}({places}{count})")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
