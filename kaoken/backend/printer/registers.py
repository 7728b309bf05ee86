"""Single registers in C: their types, how they are filled, loaded, stored and taken apart."""

from __future__ import annotations

from dataclasses import dataclass

from kaoken.backend.machine import TargetMachine
from kaoken.backend.printer.text import fill, unary, wrap
from kaoken.backend.printer.types import c_name


@dataclass(frozen=True)
class Registers:
    """A machine's registers, all of one number of lanes; without SIMD they are scalars.

    Methods return None where the machine has no words and the lanes must be taken one by one.
    """

    machine: TargetMachine

    @property
    def lanes(self) -> int:
        return self.machine.lane_count

    def type(self, short: str) -> str:
        """The C type of a register of `f32`, `i1` ..."""
        if self.lanes == 1:
            return c_name(short)
        return self.machine.description.mask_type if short == "i1" else f"kk_{short}x{self.lanes}"

    def splat(self, short: str, text: str) -> str:
        """A scalar in every lane."""
        if self.lanes == 1:
            return text
        if (template := self._template("splat", short)) is not None:
            return fill(template, text)
        scalar = unary(f"({c_name(short)})", text)
        return f"{scalar} - ({self.type(short)}){{0}}"

    def load(self, short: str, place: str) -> str | None:
        """The register that begins at an element such as `w[k * 48]`."""
        if self.lanes == 1:
            return place
        if (template := self._template("load", short)) is not None:
            return fill(template, f"&{place}")
        if short == "i1":
            return None
        return f"*(const {self.type(short)}_u *)&{place}"

    def store(self, short: str, place: str, value: str) -> str | None:
        """A statement that writes a whole register."""
        if self.lanes == 1:
            return f"{place} = {value};"
        if (template := self._template("store", short)) is not None:
            return fill(template, f"&{place}", value)
        if short == "i1":
            return None
        return f"*({self.type(short)}_u *)&{place} = {value};"

    def load_first(self, short: str, place: str, count: int) -> str | None:
        """The first lanes of a register that begins at an element, zeros after them."""
        template = self._template("load_first", short)
        return fill(template, f"&{place}", **self._first(count)) if template else None

    def store_first(self, short: str, place: str, value: str, count: int) -> str | None:
        template = self._template("store_first", short)
        return fill(template, f"&{place}", value, **self._first(count)) if template else None

    def keep_first(self, short: str, value: str, other: str, count: int) -> str | None:
        """The first lanes of one register, the rest of another."""
        template = self._template("keep_first", short)
        return fill(template, value, other, **self._first(count)) if template else None

    def lane(self, short: str, register: str, index: str) -> str:
        """One lane as a scalar expression."""
        if self.lanes == 1:
            return register
        if short == "i1":
            return fill(self.machine.instructions["lane.i1"], register, index)
        return f"{wrap(register, 15)}[{index}]"

    def set_lane(self, short: str, register: str, index: str, value: str) -> str:
        """A statement that writes one lane of a register that began as zero."""
        if self.lanes == 1:
            return f"{register} = {value};"
        if short == "i1":
            return fill(self.machine.instructions["set.i1"], register, index, value)
        return f"{register}[{index}] = {value};"

    def zero(self, short: str) -> str:
        scalar = self.lanes == 1 or self.type(short).startswith("__")
        return "0" if scalar else "{0}"

    def _template(self, name: str, short: str) -> str | None:
        return self.machine.instructions.get(f"{name}.{short}")

    def _first(self, count: int) -> dict[str, str]:
        """The first `count` lanes, as bits and as a vector of integers that are all ones."""
        ones = ", ".join(["-1"] * count)
        return {
            "bits": f"0x{(1 << count) - 1:x}",
            "first": f"(kk_i32x{self.lanes}){{{ones}}}",
        }
