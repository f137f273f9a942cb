"""How every bar is measured: both sides in one process, interleaved, best CPU time of several rounds, one thread.

A bar prints one line, `NAME.BAR ratio=R ask=A ok`, or `short`, or `n/a:reason`. The ratio is written so that larger is
better; `ask` is what it must reach. CPU time (`time.process_time`) counts every thread of the process, so a side cannot
gain by starting threads, and other programs on the machine disturb it little.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from threadpoolctl import threadpool_limits

MIN_ROUNDS = 5


@dataclass(frozen=True)
class Bar:
    """One measured comparison.

    Attributes:
        name: of the benchmark and of the bar, for example "shards.write".
        ratio: what was reached; larger is better. NaN if the bar could not be measured.
        ask: what is required. NaN for a bar that could not be measured.
        reason: why it could not be measured; "" if it was.
        note: figures behind the ratio, for the reader.
    """

    name: str
    ratio: float
    ask: float
    reason: str = ""
    note: str = ""

    @property
    def short(self) -> bool:
        """True if the bar was measured and missed."""
        return not self.reason and not self.ratio >= self.ask

    def line(self) -> str:
        """The one line that is printed, without the note."""
        if self.reason:
            return f"{self.name} n/a:{self.reason}"
        return f"{self.name} ratio={self.ratio:.2f} ask={self.ask:g} {'short' if self.short else 'ok'}"


def best_seconds(
    sides: Mapping[str, Callable[[], object]], *, rounds: int = MIN_ROUNDS, warm_up: int = 1
) -> dict[str, float]:
    """Time several callables against each other.

    Every round runs each side once, in turn, and the order turns with the round, so that drift of the machine meets
    all sides alike.

    Args:
        sides: name -> what to run. Compare the outputs before timing them; results are dropped here.
        rounds: at least `MIN_ROUNDS`.
        warm_up: untimed rounds before.

    Returns:
        Smallest CPU seconds of each side, all threads of the process together, BLAS, OpenMP and torch held to one.

    Raises:
        ValueError: if there are fewer rounds than `MIN_ROUNDS`.
    """
    if rounds < MIN_ROUNDS:
        raise ValueError(f"rounds is {rounds}; a minimum over fewer than {MIN_ROUNDS} says little")
    names = list(sides)
    best = dict.fromkeys(names, math.inf)
    with threadpool_limits(limits=1):
        _hold_torch_to_one_thread()
        for at in range(warm_up + rounds):
            turn = at % len(names)
            for name in names[turn:] + names[:turn]:
                started = time.process_time()
                sides[name]()
                taken = time.process_time() - started
                if at >= warm_up:
                    best[name] = min(best[name], taken)
    return best


def compare(
    name: str,
    *,
    ask: float,
    baseline: Callable[[], object],
    ours: Callable[[], object],
    rounds: int = MIN_ROUNDS,
    warm_up: int = 1,
) -> Bar:
    """Measure how many times faster `ours` is than `baseline`; see `best_seconds`."""
    best = best_seconds({"baseline": baseline, "ours": ours}, rounds=rounds, warm_up=warm_up)
    note = f"baseline {best['baseline'] * 1e3:.2f} ms, ours {best['ours'] * 1e3:.2f} ms (CPU, best of {rounds})"
    return Bar(name, best["baseline"] / max(best["ours"], 1e-9), ask, note=note)


def not_measured(name: str, reason: str) -> Bar:
    """A bar that this machine or environment cannot measure, with the reason."""
    return Bar(name, math.nan, math.nan, reason=reason)


def finish(bars: Sequence[Bar]) -> int:
    """Print the bars' lines on stdout (notes on stderr) and return the exit code: 1 if one is short, else 0."""
    for bar in bars:
        print(bar.line(), flush=True)
        if bar.note:
            print(f"  {bar.note}", file=sys.stderr, flush=True)
    return 1 if any(bar.short for bar in bars) else 0


def _hold_torch_to_one_thread() -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
