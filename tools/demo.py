#!/usr/bin/env python
"""Draw what a model detects in images, folders of them, and videos; critical categories are highlighted.

    tools/demo.py street.png photos/ drive.mp4 --model zoo://street_deformable_detr_small --output output/demo
    tools/demo.py photos/ --model output/street/detr_small/model_final.pth --output drawn --critical sign

The model is a name of the zoo, a checkpoint, a packed model or an ONNX file. Whatever OpenCV reads is read. A
file that it cannot read is named, and the others are drawn all the same; the exit status is 1 then.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # the demo itself says what could not be read

import cv2
import numpy as np
from tqdm import tqdm

from fisher_detr.critical import resolve_category_set
from fisher_detr.files import write_atomically
from fisher_detr.predict import Predictor, draw_detections

Draw = Callable[[np.ndarray], np.ndarray]
FPS = 25.0  # of a video that does not tell


class Unreadable(Exception):
    """What is wrong with a file."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and draw; a mistake ends in one line."""
    args = parse(arguments)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        pairs = plan(args.inputs, Path(args.output))
        draw = drawer(args)
        with tqdm(pairs) as bar:  # ended before an error is told
            failed = [line for source, target in bar if (line := process(source, target, draw))]
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"demo: {error}")
    print(f"{len(pairs) - len(failed)} of {len(pairs)} files are drawn in {args.output}")
    if failed:
        sys.exit("\n".join(f"demo: {line}" for line in failed))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("inputs", nargs="+", help="images, videos, folders")
    parser.add_argument("--model", required=True, help="zoo://<name>, or a .pth, .safetensors or .onnx file")
    parser.add_argument("--config-file", default="", help="of the model, where its file does not tell")
    parser.add_argument("--output", required=True, help="folder to draw in")
    parser.add_argument("--critical", help="set to highlight; default: CRITICAL.TARGET of the model's config")
    parser.add_argument("--threshold", type=float, default=0.5, help="score that is drawn from")
    parser.add_argument("--device", help='such as "cpu"; default: the config\'s')
    return parser.parse_args(arguments)


def plan(inputs: Sequence[str], output: Path) -> list[tuple[Path, Path]]:
    """Every file to read, with the one to write; hidden files of a folder are left out.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: two files would be drawn in one, or there is none.
    """
    found = [(source, output / name) for path in inputs for source, name in files_of(Path(path))]
    before = output.resolve()  # what an earlier run has drawn, where it lies in a folder that is read
    pairs = [(source, target) for source, target in found if before not in source.resolve().parents]
    sources: dict[Path, Path] = {}
    for source, target in pairs:
        if (other := sources.setdefault(target, source)) != source:
            raise ValueError(f"{other} and {source} would both be drawn in {target}: rename one")
    if not pairs:
        raise ValueError(f"there is no file to draw in {', '.join(inputs)} outside {output}: name another")
    return pairs


def files_of(path: Path) -> Iterator[tuple[Path, Path]]:
    """A file, or those of a folder and below, with their names in the output."""
    if path.is_file():
        yield path, Path(path.name)
    elif path.is_dir():
        found = sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file())
        yield from ((path / name, name) for name in found if not any(part[0] == "." for part in name.parts))
    else:
        raise FileNotFoundError(f"{path} does not exist: check the path")


def drawer(args: argparse.Namespace) -> Draw:
    """The model with its critical set: a picture in, a picture with boxes out."""
    predictor = Predictor(args.model, args.config_file, args.device)
    critical = predictor.critical if args.critical is None else args.critical
    indices = resolve_category_set(critical, predictor.metadata).indices if critical else ()
    return lambda image: draw_detections(image, predictor(image), predictor.metadata, indices, args.threshold)


def process(source: Path, target: Path, draw: Draw) -> str | None:
    """Draw one file; what is wrong with it, or None."""
    try:
        image = cv2.imread(str(source))
        if image is not None:
            draw_image(image, target, draw)
        elif cv2.haveImageReader(str(source)):
            raise Unreadable("it is a damaged image")
        else:
            draw_video(source, with_ending(target, ".mp4"), draw)
    except Unreadable as error:
        return f"cannot read {source}: {error}"
    return None


def with_ending(path: Path, ending: str) -> Path:
    """The name with an ending of its format: behind the other one, so that two files stay two."""
    return path if path.suffix.lower() == ending else path.with_name(path.name + ending)


def draw_image(image: np.ndarray, target: Path, draw: Draw) -> None:
    """Draw an image; PNG where OpenCV cannot write its format."""
    target = target if cv2.haveImageWriter(str(target)) else with_ending(target, ".png")
    encoded = cv2.imencode(target.suffix, draw(image))[1].tobytes()
    write_atomically(target, lambda file: file.write(encoded))


def draw_video(source: Path, target: Path, draw: Draw) -> None:
    """Draw a video frame by frame; one that ends too early is drawn as far as it goes.

    Raises:
        Unreadable: OpenCV cannot read it, or not to its end.
        OSError: OpenCV cannot write it.
    """
    video = cv2.VideoCapture(str(source))
    expected = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.stem}.part{target.suffix}")
    try:
        done = write_frames(
            (draw(frame) for frame in tqdm(frames(video), total=expected, leave=False)), part, video
        )
        if not done:
            raise Unreadable("OpenCV knows it neither as an image nor as a video")
        os.replace(part, target)
    finally:
        video.release()
        part.unlink(missing_ok=True)
    if done < expected:
        raise Unreadable(f"it ends after {done} of {expected} frames, which are drawn in {target}")


def frames(video: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """All that can be read."""
    while video.isOpened():
        there, frame = video.read()
        if not there:
            return
        yield frame


def write_frames(pictures: Iterator[np.ndarray], path: Path, video: cv2.VideoCapture) -> int:
    """Write a video at the speed of another; returns the number of frames."""
    writer, done = None, 0
    for picture in pictures:
        if writer is None:
            fps = video.get(cv2.CAP_PROP_FPS) or FPS
            size = picture.shape[1], picture.shape[0]
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
            if not writer.isOpened():
                raise OSError(f"OpenCV cannot write {path} here: take a build with video")
        writer.write(picture)
        done += 1
    if writer is not None:
        writer.release()
    return done


if __name__ == "__main__":
    main()
