"""`dev.py bench dataset`: ALE-Bench's construction, or PIE-Bench, as a data set of this bench."""

from collections import Counter
from collections.abc import Sequence

from .ale_bench import ale_bench
from .dataset import FILE, Dataset
from .main_job import guard
from .options import dataset_arguments
from .pie_bench import pie_bench


def describe_dataset(dataset: Dataset) -> str:
    """How many edits of which kind and number of objects there are."""
    kinds = Counter(edit.kind for edit in dataset.edits)
    counts = Counter(len(edit.objects) for edit in dataset.edits)
    return "\n".join(
        [
            f"{dataset.folder / FILE}: {len(dataset.edits)} edits of {len(dataset.images)} images",
            "by kind: " + ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items())),
            "by objects: " + ", ".join(f"{count}: {n}" for count, n in sorted(counts.items())),
        ]
    )


def main(argv: Sequence[str]) -> int:
    def run() -> None:
        args = dataset_arguments(argv)
        name = args.name or args.out.resolve().name
        if args.kind == "pie":
            dataset = pie_bench(
                args.source, args.images, args.out, name, types=args.types, seed=args.seed
            )
        else:
            dataset = ale_bench(
                args.source,
                args.out,
                name,
                seed=args.seed,
                counts=sorted(set(args.counts)),
                instances=args.instances,
            )
        print(describe_dataset(dataset))

    return guard("bench dataset", run)
