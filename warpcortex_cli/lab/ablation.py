"""Ablation of the Synapse on the cases of `eval synapse`: `python -m warpcortex_cli.lab.ablation`.

Varies one thing at a time: the weight of attention against coverage, the focus set's share of the budget, whether
values count, how many of the newest tokens are always kept, and whether all tokens are candidates or only those of an
earlier selection and newer ones ("grown"; also without a focus set, so that only landmarks are read).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from statistics import fmean

from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from warpcortex_cli.eval.report import share
from warpcortex_cli.eval.rivals import FOCUS_SHARE, Method
from warpcortex_cli.eval.synapse import as_json, run
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.profile import load_profile
from warpcortex_cli.synapse.landmarks import Density, Hybrid, LayerView


@dataclass(frozen=True)
class WeighedDensity(Density):
    """Attention times the norm of the value."""

    def score(self, view: LayerView) -> Tensor:
        return super().score(view) * view.values.float().norm(dim=2)


VARIANTS: dict[str, Method] = {
    "as it is": Method(Hybrid(), FOCUS_SHARE),
    **{f"alpha {a:g}": Method(Hybrid(alpha=a), FOCUS_SHARE) for a in (0.0, 0.25, 0.75, 1.0)},
    **{f"focus {f:.0%}": Method(Hybrid(), f) for f in (0.0, 0.25, 0.5, 0.75, 1.0)},
    "value norms": Method(WeighedDensity(), FOCUS_SHARE),
    "no newest": Method(Hybrid(recent=0), FOCUS_SHARE),
    **{f"grown {g}": Method(Hybrid(), FOCUS_SHARE, grown=g) for g in (32, 256)},
    **{f"focus 0%, grown {g}": Method(Hybrid(), grown=g) for g in (32, 256)},
    "focus reread": Method(Hybrid(), FOCUS_SHARE, rereads=True),
}
_SHORTEST = 2 * max(method.grown for method in VARIANTS.values())  # of contexts, so that there is an earlier selection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="pocket")
    parser.add_argument("--context", type=int, default=3200)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--n", type=int, default=60)
    parser.add_argument("--seed", type=int, default=2032)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if min(args.k, args.n) < 1 or args.context < _SHORTEST:
        parser.error(f"--k and --n are numbers from 1 on, --context from {_SHORTEST} on.")
    prism = Prism.load(resolve_model(args.model, "auto"))
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("asking", total=args.n)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done)

        found = list(run(prism, load_profile("pocket"), [args.context], [args.k], args.n, args.seed, VARIANTS, show))
    if args.json:
        print(json.dumps(as_json(found, prism.name, args.seed)))
        return
    print(f"{prism.name}, k = {args.k} of {args.context} tokens, n = {args.n}, seed {args.seed}")
    for r in found:
        error = f"attention error {fmean(r.attention_error):.3f}"
        print(f"{r.method:19} {share(r.accuracy, r.ci95):10} KL {r.kl:.3f}  {error}  left out {r.compression:.1%}")


if __name__ == "__main__":
    main()
