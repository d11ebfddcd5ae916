"""What Transformers and Pillow make of images, for test/unit/images.test.ts.

    python scripts/reference/images.py

writes into test/fixtures/images: `formats` (a file, and what `convert_to_rgb` makes of it as PNG), `turned` (a file, and what
`exif_transpose` makes of it) and the folders of CASES in `processors` (`preprocessor_config.json`, `expected.safetensors`). Made with transformers 5.23.0, pillow 13.0.0, numpy and safetensors; no
model is loaded. The folders `vit`, `clip`, `clip-no-crop`, `idefics`, `idefics3` and `idefics3-split` were made in the same way.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file
from transformers.image_transforms import convert_to_rgb
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

FOLDER = Path(__file__).resolve().parents[2] / "test/fixtures/images"

# A processor, and the images of each batch.
CASES = {
    "clip-border": (CLIPImageProcessorPil(size=15, crop_size=[21, 24], do_normalize=False), [["wide.png"], ["tall.png"]]),
    "siglip": (SiglipImageProcessorPil(size={"height": 20, "width": 20}), [["alpha.png"], ["tall.png"]]),
    "llava-square": (LlavaImageProcessorPil(size=16, crop_size=16, do_pad=True), [["wide.png"], ["tall.png"]]),
    "vit-as-it-is": (
        ViTImageProcessorPil(do_resize=False, do_rescale=False, do_convert_rgb=True, image_mean=[100, 120, 140]),
        [["gray.png"]],
    ),
    "idefics3-batch": (
        Idefics3ImageProcessorPil(size={"longest_edge": 40}, max_image_size={"longest_edge": 16}),
        [["small.png", "|", "tall.png"]],
    ),
}


def read(name):
    return Image.open(FOLDER / "files" / name)


def expected(processor, batch):
    if "|" not in batch:
        return processor([read(name) for name in batch], return_tensors="np")
    at = batch.index("|")
    return processor([[read(name) for name in part] for part in (batch[:at], batch[at + 1 :])], return_tensors="np")


def write_processors():
    for name, (processor, batches) in CASES.items():
        folder = FOLDER / "processors" / name
        folder.mkdir(parents=True, exist_ok=True)
        config = {key: value for key, value in processor.to_dict().items() if value is not None}
        (folder / "preprocessor_config.json").write_text(json.dumps(config, indent=2) + "\n")
        tensors = {}
        for batch in batches:
            for key, value in expected(processor, batch).items():
                tensors[f"{','.join(batch)}/{key}"] = np.ascontiguousarray(value.astype(np.int64 if "mask" in key else np.float32))
        save_file(tensors, folder / "expected.safetensors")


def write_formats():
    folder = FOLDER / "formats"
    folder.mkdir(parents=True, exist_ok=True)
    small = Image.open(FOLDER / "files" / "wide.png").resize((24, 16), Image.Resampling.BICUBIC)
    clear = small.convert("RGBA")
    clear.putalpha(Image.fromarray((np.indices((16, 24)).sum(0) * 6).astype(np.uint8)))
    colours = small.quantize(20)
    files = {
        "cmyk.jpg": (small.convert("CMYK"), {"quality": 95}),
        "gray.jpg": (small.convert("L"), {"quality": 95}),
        "progressive.jpg": (small, {"quality": 90, "progressive": True}),
        "lossy.webp": (small, {"quality": 80}),
        "alpha.webp": (clear, {"lossless": True, "exact": True}),
        "animated.webp": (small, {"save_all": True, "append_images": [small.rotate(180)], "lossless": True}),
        "animated.png": (small, {"save_all": True, "append_images": [small.rotate(180)]}),
        "gray-alpha.png": (clear.convert("LA"), {}),
        "palette-transparent.png": (colours, {"transparency": 3}),
        "rgb-transparent.png": (small, {"transparency": small.getpixel((0, 0))}),
        "one-bit.png": (small.convert("1"), {}),
    }
    for name, (image, options) in files.items():
        image.save(folder / name, **options)
        rgb = convert_to_rgb(Image.open(folder / name), return_numpy=True)
        Image.fromarray(rgb).save(folder / f"{name}.rgb.png", optimize=True)


def write_turned():
    folder = FOLDER / "turned"
    folder.mkdir(parents=True, exist_ok=True)
    small = Image.open(FOLDER / "files" / "wide.png").resize((12, 8), Image.Resampling.BICUBIC)
    for name, orientation in {"5.png": 5, "7.webp": 7, "8.jpg": 8}.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        small.save(folder / name, exif=exif, **({"lossless": True} if name.endswith("webp") else {}))
    (folder / "6.jpg").write_bytes((FOLDER / "files" / "photo.jpg").read_bytes())
    for path in [path for path in folder.iterdir() if not path.name.endswith(".rgb.png")]:
        ImageOps.exif_transpose(Image.open(path)).save(folder / f"{path.name}.rgb.png", optimize=True)


write_processors()
write_formats()
write_turned()
