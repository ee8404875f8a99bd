"""Makes the embedded model: speech, features of it, training, figures.

python -m builder.voxtral_tiny              everything, about two hours on two cores
python -m builder.voxtral_tiny corpus | features | train | evaluate | clips
"""

import argparse
from pathlib import Path

import torch

from builder.voxtral_tiny import clips, corpus, evaluation, features, training, voices

REPOSITORY = Path(__file__).resolve().parents[2]


def main() -> None:
    """Read the arguments and run the steps."""
    parser = argparse.ArgumentParser(
        prog="python -m builder.voxtral_tiny", description="Makes the embedded model."
    )
    steps = ["corpus", "features", "train", "evaluate", "clips"]
    parser.add_argument("steps", nargs="*", default=steps, help=f"of {', '.join(steps)}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="size of the corpus")
    parser.add_argument("--stages", default="12345", help="stages of training, such as 45")
    parser.add_argument("--work", type=Path, default=REPOSITORY / ".build" / "voxtral-tiny")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "models" / "voxtral-tiny")
    parser.add_argument(
        "--start", type=Path, help="folder whose language model goes on; unset: --folder"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if missing := voices.missing_tools():
        raise SystemExit(missing)
    for step in arguments.steps:
        match step:
            case "corpus":
                corpus.synthesize(arguments.work, arguments.seed, arguments.scale)
            case "features":
                features.make_features(arguments.work, arguments.seed, arguments.scale)
            case "train":
                start = arguments.start or arguments.folder
                for number in map(int, arguments.stages):
                    training.train(arguments.work, arguments.folder, start, number, arguments.seed)
            case "evaluate":
                evaluation.evaluate(arguments.folder, arguments.seed)
            case "clips":
                clips.write_clips(arguments.folder)
            case unknown:
                raise SystemExit(f"no step {unknown!r}; the steps are {', '.join(steps)}")


if __name__ == "__main__":
    main()
