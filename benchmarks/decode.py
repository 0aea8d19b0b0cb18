"""Speed of decoding JPEG files to pixel values on one core: GenGeo, the image processor of transformers, and OpenCV.

    OMP_NUM_THREADS=1 python benchmarks/decode.py [--images 60] [--rounds 5] [--photos DIR] [--model DIR]

All methods decode the bytes of a JPEG, resize to the model's size and normalise to a float32 array. They run in turn in
one process, so that other load affects all of them: compare ratios. The script also reports the difference to the
bicubic resize of PIL in grey levels; with --photos also for real JPEG files.

It then decodes photos of 12 megapixels at full size and at half the size or less (`target_size` of `open_image`), and
reports the time, the difference of the resized pixels, and with --model the cosine of the two descriptors.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from transformers import BitImageProcessorPil

from gengeo_hf.common.images import open_image
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.model import GenGeoImageProcessor

CASES = {"ground": ((224, 1232), (154, 770)), "aerial": ((1200, 1200), (392, 392))}
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def jpegs(size: tuple[int, int], count: int) -> list[bytes]:
    """JPEG files with detail at all scales, like photographs, at a common quality."""
    random = np.random.default_rng(0)
    files = []
    for _ in range(count):
        total = np.zeros((*size, 3))
        for scale in (4, 16, 64):
            small = random.normal(0, 1, (size[0] // scale + 1, size[1] // scale + 1, 3))
            total += cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)
        pixels = np.clip(128 + 40 * total + random.normal(0, 4, total.shape), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def opencv(size: tuple[int, int], interpolation: int) -> Callable[[bytes], np.ndarray]:
    def run(data: bytes) -> np.ndarray:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        small = cv2.resize(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), size[::-1], interpolation=interpolation)
        scaled = small.astype(np.float32) * (1 / 255 / STD) - MEAN / STD
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))

    return run


def ways(view: str, size: tuple[int, int]) -> dict[str, Callable[[bytes], object]]:
    """Compared methods by name."""
    shape = {"height": size[0], "width": size[1]}
    ours = GenGeoImageProcessor()
    plain = BitImageProcessorPil(size=shape, do_center_crop=False, image_mean=MEAN.tolist(), image_std=STD.tolist())
    return {
        "ours": lambda data: ours(open_image(data), view=view, size=shape, return_tensors="pt")["pixel_values"],
        "HF processor": lambda data: plain(Image.open(io.BytesIO(data)), return_tensors="pt")["pixel_values"],
        "OpenCV, area": opencv(size, cv2.INTER_AREA),
        "OpenCV, bilinear": opencv(size, cv2.INTER_LINEAR),
        "OpenCV, bicubic": opencv(size, cv2.INTER_CUBIC),
    }


def difference(view: str, size: tuple[int, int], files: list[bytes]) -> str:
    """Format the difference of the resized pixels to the bicubic resize of PIL."""
    ours, counts = GenGeoImageProcessor(), np.zeros(256, dtype=np.int64)
    for data in files:
        image = open_image(data)
        options = {"view": view, "size": {"height": size[0], "width": size[1]}, "do_rescale": False}
        found = ours(image, do_normalize=False, return_tensors="np", **options)["pixel_values"][0].astype(int)
        expected = np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC)).transpose(2, 0, 1).astype(int)
        counts += np.bincount(np.abs(found - expected).ravel(), minlength=256)
    shares = counts / counts.sum()
    return (
        f"at most {np.flatnonzero(counts).max()} grey levels over {len(files)} images; {shares[1]:.2%} of the values "
        f"differ by 1, {shares[2:].sum():.2e} by more"
    )


def reduced(size: tuple[int, int], photos: list[bytes], rounds: int, model: str | None) -> None:
    """Compare photos decoded at full size with photos decoded at a reduced size."""
    processor, seconds = GenGeoImageProcessor(), {"whole": 0.0, "reduced": 0.0}
    encoder = Encoder.from_pretrained(model, device="cpu") if model else None
    if encoder is not None:
        processor = encoder.processor
        size = tuple(processor.view_sizes["ground"][key] for key in ("height", "width"))
    shape, apart, cosines = {"height": size[0], "width": size[1]}, [], []
    for data in photos:
        for _ in range(rounds):
            for name, target in (("whole", None), ("reduced", size)):
                start = time.process_time()
                image = open_image(data, target_size=target)
                processor(image, size=shape, return_tensors="pt")
                seconds[name] += time.process_time() - start
        images = [open_image(data, target_size=target) for target in (None, size)]
        options = {"size": shape, "do_rescale": False, "do_normalize": False, "return_tensors": "np"}
        first, second = (processor(image, **options)["pixel_values"].astype(int) for image in images)
        apart.append(np.abs(first - second))
        if encoder is not None:
            cosines.append(float(np.multiply(*encoder.encode(images, "ground")).sum()))
    values = np.concatenate([difference.ravel() for difference in apart])
    print(
        f"  decoded whole / reduced: {seconds['whole'] / seconds['reduced']:.2f} times the CPU time over {len(photos)} "
        f"photos to {size[0]} x {size[1]}; {values.mean():.2f} grey levels apart in the mean, {values.max()} at most"
    )
    if cosines:
        print(f"  cosine of the two descriptors: {min(cosines):.6f} at least")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photos", type=Path, help="directory of JPEG files")
    parser.add_argument("--model", help="checkpoint whose descriptors are compared")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    for view, (full, size) in CASES.items():
        files = jpegs(full, given.images)
        seconds: dict[str, list[float]] = {name: [] for name in ways(view, size)}
        for _ in range(given.rounds):
            for name, run in ways(view, size).items():
                run(files[0])
                start = time.process_time()
                for data in files:
                    run(data)
                seconds[name].append((time.process_time() - start) / len(files))
        print(f"{view}: {full[0]} x {full[1]} JPEG to {size[0]} x {size[1]}, CPU time of one core", flush=True)
        for name, times in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(times, seconds["ours"], strict=True))
            print(f"  {name:18} {1 / statistics.median(times):7.1f} images/s; ours is {ratio:5.2f} times as fast")
        print(f"  ours against PIL's bicubic: {difference(view, size, files[:10])}")
        if given.photos:
            photos = [path.read_bytes() for path in sorted(given.photos.glob("*.jp*g"))]
            print(f"  and on the photos of {given.photos.name}: {difference(view, size, photos)}")
    print("12 megapixels: 3000 x 4000 JPEG", flush=True)
    reduced(CASES["ground"][1], jpegs((3000, 4000), 3), given.rounds, None)
    if given.photos:
        photos = [path.read_bytes() for path in sorted(given.photos.glob("*.jp*g"))]
        print(f"photos of {given.photos.name}")
        reduced(CASES["ground"][1], photos, given.rounds, given.model)


if __name__ == "__main__":
    main()
