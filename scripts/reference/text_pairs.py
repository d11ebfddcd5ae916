"""The tokenizers of test/fixtures/tokenizers/{bert,clip}-style, and how Transformers encodes and cuts texts and pairs with them.

    pip install transformers==5.23.0 tokenizers==0.23.3
    python scripts/reference/text_pairs.py test/fixtures/tokenizers

The vocabularies are those of the tiny models of test/fixtures/cases: 112 tokens with [PAD] 0 for bert-seqcls, 96 with
<|startoftext|> 1 and <|endoftext|> 95 for clip-contrastive. pairs.json: for each post-processor its JSON (null: the file's own)
and for each case the ids, the token types and whether something was cut.
"""

import json
import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "I love this film, it is a joy from start to end.",
    "a dull story and a waste of an evening",
    "The cat sat on the mat; a photo of a cat.",
    "a photo of a dog. a small dog and a large bird",
    "does the film end well? yes, the end is a joy",
] * 4

BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def bert_style():
    tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=112, special_tokens=BERT_SPECIAL, show_progress=False))
    spec = json.loads(tok.to_str())
    cls, sep = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("[CLS]", "[SEP]"))
    text = lambda name, kind: {"Sequence": {"id": name, "type_id": kind}}
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [cls, text("A", 0), sep],
        "pair": [cls, text("A", 0), sep, text("B", 1), {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in (("[CLS]", 2), ("[SEP]", 3))},
    }
    spec["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return spec, {"tokenizer_class": "BertTokenizer", "model_max_length": 24, **names}


def clip_style():
    begin, end = "<|startoftext|>", "<|endoftext|>"
    tok = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tok.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    pattern = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    split = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
    tok.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=93, end_of_word_suffix="</w>", special_tokens=[], show_progress=False)
    )
    spec = json.loads(tok.to_str())
    vocab = {name: i + 2 for name, i in spec["model"]["vocab"].items()}
    assert len(vocab) == 93
    spec["model"]["vocab"] = {"!": 0, begin: 1, **vocab, end: 95}
    spec["model"]["unk_token"] = end
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "special": True}
    spec["added_tokens"] = [
        {"id": 1, "content": begin, "normalized": True, **flags},
        {"id": 95, "content": end, "normalized": False, **flags},
    ]
    spec["post_processor"] = {
        "type": "RobertaProcessing",
        "sep": [end, 95],
        "cls": [begin, 1],
        "trim_offsets": False,
        "add_prefix_space": False,
    }
    spec["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    names = {"bos_token": begin, "eos_token": end, "unk_token": end, "pad_token": "!"}
    return spec, {"tokenizer_class": "CLIPTokenizer", "model_max_length": 16, **names}


LONG = "I love this film and the cat, it is a joy to the end of the evening"
MIDDLE = "does the film end well? yes"
TEXTS = [
    ("I love this film", None),
    ("", None),
    (LONG, None),
    ("A photo of a CAT.", None),
    ("I love it", "a joy"),
    ("I love it", ""),
    ("", "a joy"),
    (LONG, "a joy"),
    ("a joy", LONG),
    (LONG, LONG),
    (LONG, MIDDLE),
    (MIDDLE, LONG),
    (MIDDLE, MIDDLE),
]
LENGTHS = [5, 8, 11, 16, 24]
PROCESSORS = {
    "bert-style": {
        "template": None,
        "bert": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "none": "none",
        "left": None,
    },
    "clip-style": {
        "roberta": None,
        "sequence": {
            "type": "Sequence",
            "processors": [
                {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
                {
                    "type": "TemplateProcessing",
                    "single": [
                        {"SpecialToken": {"id": "<|startoftext|>", "type_id": 0}},
                        {"Sequence": {"id": "A", "type_id": 0}},
                    ],
                    "pair": [
                        {"Sequence": {"id": "A", "type_id": 0}},
                        {"SpecialToken": {"id": "two", "type_id": 1}},
                        {"Sequence": {"id": "B", "type_id": 1}},
                    ],
                    "special_tokens": {
                        "<|startoftext|>": {"id": "<|startoftext|>", "ids": [1], "tokens": ["<|startoftext|>"]},
                        "two": {"id": "two", "ids": [95, 1], "tokens": ["<|endoftext|>", "<|startoftext|>"]},
                    },
                },
            ],
        },
    },
}


def main(folder):
    vectors = []
    for name, (spec, config) in {"bert-style": bert_style(), "clip-style": clip_style()}.items():
        out = folder / name
        out.mkdir(exist_ok=True)
        (out / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False, indent=1) + "\n")
        (out / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
        for kind, processor in PROCESSORS[name].items():
            own = {**spec, "post_processor": None if processor == "none" else processor or spec["post_processor"]}
            (out / "own.json").write_text(json.dumps(own))
            side = "left" if kind == "left" else "right"
            keys = {key: value for key, value in config.items() if key != "tokenizer_class"}
            tok = PreTrainedTokenizerFast(tokenizer_file=str(out / "own.json"), truncation_side=side, **keys)
            (out / "own.json").unlink()
            cases = []
            for text, second in TEXTS:
                for length in LENGTHS:
                    # As lists: given alone, Transformers takes an empty second text for none.
                    given = ([text], None if second is None else [second])
                    got = tok(*given, truncation="longest_first", max_length=length, return_token_type_ids=True)
                    got = {key: rows[0] for key, rows in got.items()}
                    whole = len(tok(*given)["input_ids"][0])
                    cut = len(got["input_ids"]) < whole
                    if length != LENGTHS[-1] and not cut and whole < length:
                        continue
                    cases.append([text, second, length, got["input_ids"], got["token_type_ids"], cut])
            vectors.append({"tokenizer": name, "kind": kind, "processor": own["post_processor"], "side": side, "cases": cases})
    lines = ",\n".join(
        json.dumps({**v, "cases": None}, ensure_ascii=False)[: -len('null}')]
        + "[\n"
        + ",\n".join(json.dumps(c, ensure_ascii=False) for c in v["cases"])
        + "\n]}"
        for v in vectors
    )
    (folder / "pairs.json").write_text(f"[\n{lines}\n]\n")


main(Path(sys.argv[1]))
