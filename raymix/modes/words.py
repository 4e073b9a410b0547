"""What was found, for people."""

from __future__ import annotations

from typing import Any

FEW_STATES, NO_STATES = 0.05, 0.01
"""Below these shares of multi-modal states a data set is called unimodal in most of its states, and in all."""


def verdict(result: dict[str, Any]) -> str:
    """The answer in a sentence: what the data shows, not what a method would earn."""
    chosen = next(row for row in result["likelihood"] if row["components"] == result["chosen"])
    share, typical = result["multimodal"]["share"], result["typical"]
    start = result["start"]
    if start and start["later"] < FEW_STATES and start["share"] > 0.5:
        return (
            f"{start['typical']} modes where episodes start, at {start['share']:.0%} of the starts, and one at"
            f" {1 - start['later']:.0%} of the states after: a mixture gains {start['gain']:.2f} nats per action over"
            " one Gaussian at the starts; mixture or latent methods have something to model in what is decided there."
        )
    if result["chosen"] == 1:
        return "One Gaussian is enough: no mixture makes held-out actions more likely."
    gain = f"{chosen['gain']:.2f} nats per held-out action over one Gaussian"
    if NO_STATES <= share < FEW_STATES:
        return (
            f"One mode at {1 - share:.0%} of the states, more at {share:.1%}: a mixture gains {gain}; look by step and"
            " source whether behaviours part there, since so few may also be the limit of the fit."
        )
    if share < FEW_STATES:
        edges = result["saturated"]
        pile = f", of which actions piled up at the box's edges ({edges:.0%}) are part," if edges >= FEW_STATES else ""
        return (
            f"One mode is enough, at {1 - share:.0%} of the states: a mixture gains {gain}, but through the shape of"
            f" the noise{pile}; further modes were not seen."
        )
    numbers = {int(count): part for count, part in result["histogram"].items() if int(count) > 1}
    words = f"{typical} modes"
    if numbers[typical] < 0.8 * sum(numbers.values()):
        words = f"{min(numbers)} to {max(numbers)} modes, most often {typical},"
    return (
        f"{words} at {share:.0%} of the states: a mixture gains {gain}; mixture or latent methods have something to"
        " model there."
    )


def text(result: dict[str, Any]) -> str:
    """What `find_modes` found, for people."""

    def within(row: dict[str, Any], low: str, high: str, form: str) -> str:
        return f"{row[low]:{form}} to {row[high]:{form}}" if row[low] is not None else "-"

    lines = [
        result["verdict"],
        "",
        f"Held out: {result['held_out_episodes']:,} episodes, {result['held_out_transitions']:,} transitions."
        " Negative log-likelihood, nats per action:",
        f"{'components':>10} {'mean':>9} {'95 % interval':>18} {'gain over one':>14} {'95 % interval':>16}",
    ]
    for row in result["likelihood"]:
        mark = "  <- modes counted" if row["components"] == result["chosen"] else ""
        lines.append(
            f"{row['components']:10} {row['nll']:9.3f} {within(row, 'low', 'high', '.3f'):>18} {row['gain']:14.3f}"
            f" {within(row, 'gain_low', 'gain_high', '.3f'):>16}{mark}"
        )
    lines += ["", f"Modes at {result['states']:,} held-out states (effective number {result['effective']:.2f}):"]
    lines += [f"{count:>10} {share:6.1%} {'#' * round(50 * share)}" for count, share in result["histogram"].items()]
    lines += ["", f"{'States with more than one mode':40} {'share':>6} {'95 % interval':>18} {'modes':>6} {'gain':>8}"]
    rows = result["by_source"] if len(result["by_source"]) > 1 else []
    chosen = next(row for row in result["likelihood"] if row["components"] == result["chosen"])
    everything = {"source": "all", **result["multimodal"], "typical": result["typical"], "gain": chosen["gain"]}
    lines += [
        f"{row['source']:40} {row['share']:6.1%} {within(row, 'low', 'high', '.1%'):>18} {row['typical']:6}"
        f" {row['gain']:8.3f}"
        for row in [*rows, everything]
    ]
    if len(result["by_step"]) > 1:
        lines += ["", f"{'By steps since the episode began':40} {'share':>6} {'':18} {'modes':>6} {'states':>8}"]
        for row in result["by_step"]:
            last = "and later" if row["to"] is None else f"to {row['to']}"
            name = f"step {row['from']} {last}" if row["to"] != 0 else "step 0"
            lines.append(f"{name:40} {row['share']:6.1%} {'':18} {row['typical']:6} {row['states']:8,}")
    return "\n".join(lines)
