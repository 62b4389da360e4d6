"""Trains the demo model from nothing, stage by stage, and draws the learning curves.

    python dev.py train-demo --out DIR --threads 1 --samples-unet 360000

An interrupted run is continued by the same command; a stage whose samples are done is not
trained again. --start FOLDER begins new stages with an earlier model's weights.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .autoencoder import DemoAutoencoder
from .curves import write_curves
from .latents import LatentShard, make_shard
from .models import new_unet
from .stage import StagePlan
from .text_encoder import TrainableText
from .train_autoencoder import train_autoencoder, train_decoder
from .train_finder import train_finder
from .train_judge import train_judge
from .train_lcm import train_lcm
from .train_mini_clip import train_mini_clip
from .train_text import new_text, train_text
from .train_unet import train_unet
from .weights import FOLDER, PARTS, read_weights, write_weights

log = logging.getLogger(__name__)

# Samples, batch, learning rate and averaging per stage; about 4 hours of one CPU core, most of
# them the UNet's.
_STAGES = {
    "autoencoder": (220_000, 16, 1.5e-3, 0.997),
    "decoder": (80_000, 16, 1e-3, 0.997),
    "text": (28_000, 64, 1e-3, 0.997),
    "judge": (31_000, 32, 2e-3, 0.997),
    "finder": (24_000, 16, 2e-3, 0.997),
    "unet": (400_000, 32, 1e-3, 0.999),
    "lcm": (20_000, 16, 1e-3, 0.99),
    "clip": (160_000, 64, 1e-3, 0.997),
}
_SMOKE_STEPS = 2
_SMOKE_SCENES = 100


def main(argv: Sequence[str] | None = None) -> int:
    """Run all stages and write the weight files; returns the exit status."""
    options = _parser().parse_args(argv)
    if options.evaluate is not None:
        from .evaluate import evaluate

        sys.stdout.write(evaluate(options.weights, options.scenes, options.evaluate) + "\n")
        return 0
    if options.gallery is not None:
        from .gallery import write_gallery

        sys.stdout.write(f"{write_gallery(options.gallery)}\n")
        return 0
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout, force=True
    )
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    train_all(options, device)
    return 0


def train_all(options: argparse.Namespace, device: torch.device) -> None:
    """All parts in order, or those of --only; each writes its weight file when it is done."""
    out, folder = options.out, options.weights
    asked = set(options.only or PARTS)
    autoencoder = _autoencoder(options, device)
    text = _text(options, device)
    if "judge" in asked:
        judge = train_judge(_plan(options, "judge"), out, device, _start(options, "judge"))
        write_weights("judge", judge.state_dict(), folder)
    if "finder" in asked:
        finder = train_finder(_plan(options, "finder"), out, device)
        write_weights("finder", finder.state_dict(), folder)
    if asked & {"unet", "lcm"}:
        scenes = _SMOKE_SCENES if options.smoke else options.scenes_unet
        shard = make_shard(autoencoder, scenes, out / "latents.npy")
        unet = _unet(options, device, text, shard)
        if "lcm" in asked:
            lcm = train_lcm(_plan(options, "lcm"), out, device, unet=unet, text=text, shard=shard)
            write_weights("lcm", lcm, folder)
    if "clip" in asked:
        clip = train_mini_clip(_plan(options, "clip"), out, device, text)
        write_weights("clip", clip.state_dict(), folder)
    log.info("Learning curves: %s", write_curves(out))
    log.info("The weights are in %s", folder)


def _autoencoder(options: argparse.Namespace, device: torch.device) -> DemoAutoencoder:
    name = "autoencoder"
    if _is_left_out(options, name):
        net = DemoAutoencoder()
        net.load_state_dict(read_weights(name, options.weights))
        return net.to(device).eval()
    net = train_autoencoder(_plan(options, name), options.out, device, _start(options, name))
    net = train_decoder(_plan(options, "decoder"), options.out, device, net)
    write_weights(name, net.state_dict(), options.weights)
    return net


def _text(options: argparse.Namespace, device: torch.device) -> TrainableText:
    if _is_left_out(options, "text"):
        text = new_text()
        text.adopt(read_weights("text", options.weights))
        return text.to(device).eval().requires_grad_(False)
    text = train_text(_plan(options, "text"), options.out, device, _start(options, "text"))
    write_weights("text", text_weights(text), options.weights)
    return text


def _unet(
    options: argparse.Namespace, device: torch.device, text: TrainableText, shard: LatentShard
) -> nn.Module:
    if _is_left_out(options, "unet"):
        unet = new_unet()
        unet.load_state_dict(read_weights("unet", options.weights))
        return unet.to(device).eval()
    unet = train_unet(
        _plan(options, "unet"),
        options.out,
        device,
        text=text,
        shard=shard,
        start=_start(options, "unet"),
        drops_words=not options.keep_words,
    )
    write_weights("unet", unet.state_dict(), options.weights)
    return unet


def _is_left_out(options: argparse.Namespace, part: str) -> bool:
    return bool(options.only) and part not in options.only


def _start(options: argparse.Namespace, part: str) -> dict[str, Tensor] | None:
    return read_weights(part, options.start) if options.start else None


def text_weights(text: TrainableText) -> dict[str, Tensor]:
    """The text encoder's weight file: CLIPTextModel's layers, and the table of known tokens."""
    weights = {f"text_model.{k}": v for k, v in text.text_model.state_dict().items()}
    return {**weights, "token_ids": text.token_ids, "table": text.table.weight}


def _plan(options: argparse.Namespace, name: str) -> StagePlan:
    _, batch, rate, ema = _STAGES[name]
    samples = _SMOKE_STEPS * batch if options.smoke else getattr(options, f"samples_{name}")
    return StagePlan(name, samples, batch, rate * options.rate, ema=ema)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="train-demo", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("output/train-demo"), help="checkpoints and latents"
    )
    parser.add_argument("--weights", type=Path, default=FOLDER, help="where the weight files go")
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads; 1 leaves a shared machine usable"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        metavar="PART",
        help=f"train these parts alone, beside the others' files in --weights: {' '.join(PARTS)}",
    )
    parser.add_argument(
        "--start", type=Path, help="folder of weight files that new stages begin with"
    )
    parser.add_argument(
        "--rate", type=float, default=1.0, help="factor on all learning rates; lower with --start"
    )
    for name, (samples, *_) in _STAGES.items():
        parser.add_argument(f"--samples-{name}", type=int, default=samples)
    parser.add_argument(
        "--scenes-unet", type=int, default=36_000, help="scenes the UNet is trained on"
    )
    parser.add_argument(
        "--keep-words",
        action="store_true",
        help="never train the UNet on captions that lost words: its end-of-text tokens then mean "
        "less (for the tables with and without)",
    )
    parser.add_argument("--smoke", action="store_true", help="a few steps of every stage")
    parser.add_argument(
        "--evaluate",
        nargs="*",
        metavar="PART",
        help="print the model card's figures instead, all or some: files ground-truth "
        "finder text-to-image region-control end-of-text lcm clip",
    )
    parser.add_argument(
        "--gallery", type=Path, metavar="FILE", help="write a picture of the demo world instead"
    )
    parser.add_argument("--scenes", type=int, default=100, help="scenes per figure of --evaluate")
    return parser
