"""Claims: a sentence, its source, a measured value with an interval, a bound, a verdict."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from enough.runtime import PRESETS, current_run, kernel
from enough.runtime.validation import check_choice, check_number

__all__ = [
    "METADATA_KEY",
    "NOT_RUN",
    "VERDICTS",
    "Claim",
    "UnexpectedVerdictError",
    "claim",
    "judge",
]

HOLDS = "holds"
FAILS = "does not hold here"
INCONCLUSIVE = "inconclusive"
NOT_RUN = "not run"
VERDICTS = (HOLDS, FAILS, INCONCLUSIVE, NOT_RUN)

METADATA_KEY = "enough.claim"


class UnexpectedVerdictError(AssertionError):
    """A claim's verdict differs from the one its author expected."""


@dataclass(frozen=True)
class Claim:
    """One judged claim.

    Attributes
    ----------
    sentence : str
        What is claimed, as a full sentence without its final period.
    paper : str
        Citation key in ``chapters/references.bib``.
    where : str
        Theorem, equation, figure or section of the paper.
    measured : float or None
        The measured value; ``None`` when it was not run.
    interval : tuple of float or None
        Ends of its interval; both equal to ``measured`` for an identity.
    level : float
        Coverage of the interval.
    bound : str
        ``"above"``, ``"below"`` or ``"between"``.
    limits : tuple of float
        The bound's one or two numbers.
    unit : str
        Unit of the measured value.
    verdict : str
        One of ``VERDICTS``.
    reason : str
        Why it was not run; empty otherwise.
    expected : str
        The verdict its author expected.
    because : str
        Why another verdict than ``"holds"`` is expected.
    control : bool
        Whether the claim is a negative control: a case where the effect must vanish.
    preset, device : str
        Where it was measured.
    """

    sentence: str
    paper: str
    where: str
    measured: float | None
    interval: tuple[float, float] | None
    level: float
    bound: str
    limits: tuple[float, ...]
    unit: str
    verdict: str
    reason: str
    expected: str
    because: str
    control: bool
    preset: str
    device: str

    @property
    def line(self) -> str:
        """The stored line, ``verdict: sentence``."""
        verdict = f"{self.verdict}: {self.reason}" if self.reason else self.verdict
        return f"{verdict}: {self.sentence}"

    @property
    def anchor(self) -> str:
        """The claim's id on its page, from the first words of its sentence."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.sentence.lower()).strip("-")
        return "claim-" + "-".join(slug.split("-")[:12])

    @property
    def measured_text(self) -> str:
        """Value, interval and unit for a reader."""
        if self.measured is None:
            return "not measured"
        value = format_number(self.measured)
        low, high = self.interval
        unit = f" {self.unit}" if self.unit else ""
        if low == high:
            return f"{value}{unit}"
        return f"{value} [{format_number(low)}, {format_number(high)}]{unit}"

    @property
    def bound_text(self) -> str:
        """The bound for a reader."""
        numbers = [format_number(x) for x in self.limits]
        return (
            f"between {numbers[0]} and {numbers[1]}"
            if self.bound == "between"
            else (f"{self.bound} {numbers[0]}")
        )

    def to_metadata(self) -> dict[str, Any]:
        """Return the claim as JSON values; infinities become strings."""
        return {key: _to_json(value) for key, value in asdict(self).items()}

    @classmethod
    def from_metadata(cls, data: Mapping[str, Any]) -> Claim:
        """Rebuild a claim from an output's metadata.

        Parameters
        ----------
        data : mapping
            What ``to_metadata`` returned, perhaps after a trip through JSON.

        Returns
        -------
        Claim
        """
        data = dict(data)
        for key in ("interval", "limits"):
            if data[key] is not None:
                data[key] = tuple(float(x) for x in data[key])
        if data["measured"] is not None:
            data["measured"] = float(data["measured"])
        return cls(**data)


def judge(
    low: float,
    high: float,
    *,
    above: float | None = None,
    below: float | None = None,
    between: tuple[float, float] | None = None,
) -> str:
    """Compare an interval with a bound.

    Parameters
    ----------
    low, high : float
        The interval.
    above, below : float, optional
        The whole interval must lie strictly above or below the number.
    between : tuple of float, optional
        The whole interval must lie inside (ends included): an equivalence bound.

    Returns
    -------
    str
        ``"holds"`` when the whole interval satisfies the bound, ``"does not hold here"`` when
        the whole interval violates it, ``"inconclusive"`` when the interval crosses the bound.
    """
    if between is not None:
        inside = between[0] <= low and high <= between[1]
        outside = high < between[0] or low > between[1]
    elif above is not None:
        inside, outside = low > above, high <= above
    else:
        inside, outside = high < below, low >= below
    return HOLDS if inside else FAILS if outside else INCONCLUSIVE


def claim(
    sentence: str,
    *,
    paper: str,
    where: str,
    measured: float | None = None,
    interval: tuple[float, float] | None = None,
    above: float | None = None,
    below: float | None = None,
    between: tuple[float, float] | None = None,
    unit: str = "",
    level: float = 0.95,
    expect: str | Mapping[str, str] = HOLDS,
    because: str = "",
    control: bool = False,
    not_run: str = "",
) -> None:
    """State a claim, judge it and show the verdict.

    In a notebook one output appears whose only data is the plain line ``verdict: sentence``;
    the numbers travel in that output's metadata, which the book turns into a box and the
    scoreboard. In a terminal the line and the numbers are printed.

    Parameters
    ----------
    sentence : str
        What is claimed, in one sentence.
    paper : str
        Citation key of the source.
    where : str
        Theorem, equation, figure or section in the source.
    measured : float, optional
        The measured value. Required unless ``not_run`` is given.
    interval : tuple of float, optional
        Ends of the interval around it; ``(x, x)`` for an identity.
    above, below : float, optional
        The bound, fixed before the result was seen. Exactly one of ``above``, ``below`` and
        ``between`` is given.
    between : tuple of float, optional
        Equivalence bound ``(a, b)``: the whole interval must lie inside.
    unit : str, default ""
        Unit of the measured value.
    level : float, default 0.95
        Coverage of the interval.
    expect : str or mapping, default "holds"
        The verdict the author expects, or a mapping from preset to verdict (a preset that is
        not named expects ``"holds"``).
    because : str, default ""
        Why the expected verdict is not ``"holds"``; required in that case.
    control : bool, default False
        Mark a negative control: a case where the effect must vanish.
    not_run : str, default ""
        The reason why nothing was measured (a real table or hardware is absent); empty when it
        was. The verdict is then ``not run`` whatever was expected; it never counts as support,
        and numbers given beside it, computed on a stand-in, are not recorded.

    Raises
    ------
    ValueError
        If an argument is missing, contradictory or not a number.
    UnexpectedVerdictError
        If the verdict differs from the expected one.
    """
    result = _evaluate(
        sentence, paper, where, measured, interval, above, below, between,
        unit, level, expect, because, control, not_run,
    )  # fmt: skip
    _emit(result)
    if result.verdict not in (result.expected, NOT_RUN):
        raise UnexpectedVerdictError(
            f"expected {result.expected!r}, found {result.verdict!r}: {result.sentence} "
            f"(measured {result.measured_text}, bound {result.bound_text})"
        )


def format_number(x: float) -> str:
    """Format a number to four significant digits for a reader."""
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    if x != 0 and not 1e-3 <= abs(x) < 1e5:
        mantissa, exponent = f"{x:.2e}".split("e")
        power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{mantissa} × 10{power}".replace("-", "−")
    return (f"{x:.0f}" if abs(x) >= 1000 else f"{x:.4g}").replace("-", "−")


def _evaluate(
    sentence, paper, where, measured, interval, above, below, between,
    unit, level, expect, because, control, not_run,
) -> Claim:  # fmt: skip
    for name, text in (("sentence", sentence), ("paper", paper), ("where", where)):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name}: expected a non-empty string, got {text!r}")
    if "\n" in sentence:
        raise ValueError(f"sentence: expected one line, got {sentence!r}")
    bound, limits = _check_bound(above, below, between)
    level = check_number(level, "level", above=0.0, maximum=1.0)
    preset, device = _where_am_i()
    expected = expect.get(preset, HOLDS) if isinstance(expect, Mapping) else expect
    if isinstance(expect, Mapping):
        for name in expect:
            check_choice(name, "expect", PRESETS)
    for value in expect.values() if isinstance(expect, Mapping) else (expect,):
        if value not in (HOLDS, FAILS, INCONCLUSIVE):
            raise ValueError(
                f"expect: expected one of {HOLDS!r}, {FAILS!r}, {INCONCLUSIVE!r}, got {value!r}"
            )
    if expected != HOLDS and not because:
        raise ValueError(f"because: expected the reason for expecting {expected!r}, got nothing")
    if not_run:
        # What a chapter computed on a stand-in is no measurement: it is left out of the record.
        measured, interval, verdict = None, None, NOT_RUN
    else:
        measured, interval = _check_measurement(measured, interval)
        verdict = judge(*interval, above=above, below=below, between=between)
    return Claim(
        sentence=sentence.strip().rstrip("."), paper=paper, where=where, measured=measured,
        interval=interval, level=level, bound=bound, limits=limits, unit=unit, verdict=verdict,
        reason=not_run, expected=expected, because=because, control=control, preset=preset,
        device=device,
    )  # fmt: skip


def _check_bound(above, below, between) -> tuple[str, tuple[float, ...]]:
    given = {"above": above, "below": below, "between": between}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) != 1:
        names = ", ".join(given) or "none"
        raise ValueError(f"above, below, between: expected exactly one bound, got {names}")
    ((name, value),) = given.items()
    if name != "between":
        return name, (check_number(value, name),)
    if len(value) != 2 or not value[0] < value[1]:
        raise ValueError(f"between: expected (a, b) with a < b, got {value!r}")
    return name, (check_number(value[0], "between"), check_number(value[1], "between"))


def _check_measurement(measured, interval) -> tuple[float, tuple[float, float]]:
    if measured is None:
        raise ValueError("measured: expected a number (or not_run= with the reason), got None")
    measured = check_number(measured, "measured", finite=False)
    if interval is None or len(interval) != 2:
        raise ValueError(f"interval: expected (low, high), got {interval!r}")
    low, high = (check_number(x, "interval", finite=False) for x in interval)
    if low > high:
        raise ValueError(f"interval: expected low <= high, got ({low}, {high})")
    return measured, (low, high)


def _where_am_i() -> tuple[str, str]:
    run = current_run()
    return (run.preset, run.device.type) if run is not None else ("cpu", "cpu")


def _emit(result: Claim) -> None:
    if kernel() is None:
        print(f"{result.line}\n  measured {result.measured_text}; bound: {result.bound_text}")
        return
    from IPython.display import display

    display({"text/plain": result.line}, metadata={METADATA_KEY: result.to_metadata()}, raw=True)


def _to_json(value: Any) -> Any:
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if isinstance(value, tuple):
        return [_to_json(x) for x in value]
    return value
