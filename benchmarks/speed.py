"""How fast is it, as a share of what the machine can do?

    python benchmarks/speed.py [--only FLAV-S/2 loader ...] [--rounds 7] [--json FILE] [--device cuda] [--quick]

Prints a table with a target beside each figure, and writes JSON with every round. What is compared is measured in turn
in the same run, and a figure is the median over the rounds: leave the machine to it. The networks have random weights,
the published sizes and options (see ``speed_networks.py``); clips and shards are made here (see ``speed_data.py``), and
``--clips`` takes yours instead. On a GPU there are rows of their own (see ``speed_gpu.py``).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from flowreel.utils import runtime

runtime.keep_memory()  # as the command line does, before torch is imported

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

import speed_data  # noqa: E402
import speed_gpu  # noqa: E402
import speed_networks  # noqa: E402
import speed_rows  # noqa: E402
from speed_rows import Row  # noqa: E402

GPU_SIZES = ("FLAV-S/2", "FLAV-B/2", "FLAV-B/1")


def parts(options: argparse.Namespace) -> dict[str, Callable[[], list[Row]]]:
    """What there is to measure on this device, by name."""
    device = torch.device(options.device)
    if device.type == "cuda":
        return {
            size: lambda size=size: speed_gpu.measure(size, options.rounds, device, options.quick) for size in GPU_SIZES
        }
    networks = {
        case.name: lambda case=case: speed_networks.measure(case, options.rounds, device)
        for case in speed_networks.cpu_cases(options.quick)
    }
    windows, clips, length = (speed_data.BATCH, 2, 0.5) if options.quick else (3200, 64, 8.0)
    return {
        **networks,
        "loader": lambda: [speed_data.loader(options.rounds, windows, clips)],
        "prepare": lambda: [speed_data.preparation(options.rounds, options.clips, options.workers, length)],
    }


def table(rows: list[Row]) -> Table:
    drawn = Table("what", "figure", "median", "lowest to highest", "target", "", "seconds", "with attention")
    for row in rows:
        least = "" if row.target is None else f"{row.target:g}"
        met = "" if row.target is None else "yes" if row.value >= row.target else "NO"
        took, attention = (row.extra.get(name) for name in ("seconds", "with_attention"))
        drawn.add_row(
            row.what,
            row.figure,
            number(row.value),
            f"{number(min(row.values))} to {number(max(row.values))}",
            least,
            met,
            "" if took is None else number(took),
            "" if attention is None else number(attention),
        )
    return drawn


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the parts alone")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="a file for the figures of every round")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for the networks, on the CPU")
    parser.add_argument("--clips", type=Path, help="a folder of clips for prepare; else some are made")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare, and that decode")
    parser.add_argument("--quick", action="store_true", help="of small shapes: whether it runs, not how fast it is")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.workers < 1:
        parser.error(f"--rounds and --workers must be at least 1, not {options.rounds} and {options.workers}")
    known = parts(options)
    unknown = set(options.only or ()) - set(known)
    if unknown:
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    about = speed_rows.machine(torch.device(options.device))
    print("  ".join(f"{name} {value}" for name, value in about.items() if value is not None), flush=True)
    rows: list[Row] = []
    for name in options.only or known:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        rows += known[name]()
        if options.json:
            done = {"machine": about, "rounds": options.rounds, "rows": [row.to_dict() for row in rows]}
            options.json.write_text(json.dumps({"benchmark": "speed", **done}, indent=1) + "\n", encoding="utf-8")
    Console(width=None if sys.stdout.isatty() else 140).print(table(rows))


if __name__ == "__main__":
    main()
