"""The vitals: what can be told of the relay whether or not it has a store."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from relay.clock import Clock
from relay.counters import IngressCounters


@dataclass(frozen=True, slots=True)
class Vitals:
    """Each is asked anew each time.

    `answers` and `refusals` are the public listener's. `facts` gives what metrics.FACTS names,
    `notices` sentences of what an operator should know, and `refusal` why callbacks are refused;
    that is empty while they are taken.
    """

    clock: Clock
    answers: IngressCounters
    refusals: Callable[[], Counter[int]]
    facts: Callable[[], Mapping[str, float]]
    notices: Callable[[], list[str]]
    refusal: Callable[[], str]
