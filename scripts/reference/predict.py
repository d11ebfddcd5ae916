"""What Transformers and PEFT tell of texts and images, for test/unit/predict.test.ts and zero-shot.test.ts.

    pip install torch==2.15.0 transformers==5.24.0 peft pillow
    python scripts/reference/predict.py

writes test/fixtures/predict: preprocessor configs for the tiny models of test/fixtures/cases, and expected.json, their outputs with
and without the adapter, one input at a time, in float64. The tokenizers are those of text_pairs.py, the images those of
test/fixtures/images/files. Zero-shot is as in CLIP's notebook: the mean of the templates' unit vectors, made a unit vector again.
"""

import json
from pathlib import Path

import torch
from peft import PeftModel
from PIL import Image, ImageOps
from transformers import BertForSequenceClassification, CLIPModel, PreTrainedTokenizerFast, ViTForImageClassification
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

FIXTURES = Path(__file__).resolve().parents[2] / "test/fixtures"
CASES, OUT = FIXTURES / "cases", FIXTURES / "predict"
IMAGES = ["wide.png", "tall.png", "photo.jpg", "small.png", "alpha.png"]
LONG = "I love this film and the cat, it is a joy to the end of the evening. " * 2
TEXTS = ["I love this film", LONG, "a dull story", ["does the film end well?", "yes, the end is a joy"], [LONG, "a joy"], "cat"]
LABELS = ["cat", "dog", "large bird"]
TEMPLATES = ["a photo of a {}", "the {} sat on the mat."]


def models(cls, name):
    for kind in ("base", "adapter"):
        model = cls.from_pretrained(CASES / name / "base", attn_implementation="eager")
        if kind == "adapter":
            model = PeftModel.from_pretrained(model, CASES / name / "adapter")
            model = model.merge_and_unload() if cls is CLIPModel else model
        yield kind, model.double().eval()


def tokenizer(name):
    config = json.loads((FIXTURES / "tokenizers" / name / "tokenizer_config.json").read_text())
    config.pop("tokenizer_class")
    return PreTrainedTokenizerFast(tokenizer_file=str(FIXTURES / "tokenizers" / name / "tokenizer.json"), **config)


def processor(cls, name, **options):
    made = cls(**options)
    config = {key: value for key, value in made.to_dict().items() if value is not None}
    config["image_processor_type"] = cls.__name__.removesuffix("Pil")
    (OUT / f"{name}-preprocessor_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return made


def pixels(made, image):
    return made(ImageOps.exif_transpose(Image.open(FIXTURES / "images/files" / image)), return_tensors="pt")["pixel_values"].double()


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


@torch.no_grad()
def main():
    OUT.mkdir(exist_ok=True)
    out = {"images": IMAGES, "texts": TEXTS, "labels": LABELS, "templates": TEMPLATES}
    tok = tokenizer("bert-style")
    for kind, model in models(BertForSequenceClassification, "bert-seqcls"):
        rows = []
        for text in TEXTS:
            pair = [text] if isinstance(text, str) else text
            inputs = tok(*[[one] for one in pair], truncation=True, return_tensors="pt", return_token_type_ids=True)
            rows.append(model(**inputs).logits.softmax(-1)[0].tolist())
        out.setdefault("bert", {})[kind] = rows
    made = processor(ViTImageProcessorPil, "vit", size={"height": 16, "width": 16}, do_convert_rgb=True)
    for kind, model in models(ViTForImageClassification, "vit-imgcls"):
        rows = [model(pixel_values=pixels(made, image)).logits.softmax(-1)[0].tolist() for image in IMAGES]
        out.setdefault("vit", {})[kind] = rows
    tok = tokenizer("clip-style")
    made = processor(CLIPImageProcessorPil, "clip", size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    for kind, model in models(CLIPModel, "clip-contrastive"):

        def text_vector(text):
            inputs = tok([text], truncation=True, return_tensors="pt")
            features = model.text_model(inputs["input_ids"], inputs["attention_mask"]).pooler_output
            return unit(model.text_projection(features))[0]

        plain = [text for text in TEXTS if isinstance(text, str)]
        images = [unit(model.visual_projection(model.vision_model(pixels(made, one)).pooler_output))[0] for one in IMAGES]
        shot = {}
        for count in (1, 2):
            means = [unit(torch.stack([text_vector(t.format(label)) for t in TEMPLATES[:count]]).mean(0)) for label in LABELS]
            logits = model.logit_scale.exp() * torch.stack(images) @ torch.stack(means).T
            shot[count] = logits.softmax(-1).tolist()
        out.setdefault("clip", {})[kind] = {
            "texts": [text_vector(text).tolist() for text in plain],
            "images": [image.tolist() for image in images],
            "zero_shot": shot,
        }
    (OUT / "expected.json").write_text(json.dumps(json.loads(json.dumps(out), parse_float=lambda s: round(float(s), 8))) + "\n")


main()
