"""What Transformers makes of texts in words, and how seqeval and scikit-learn count tags, for test/tasks/token-classification.test.ts.

    pip install transformers==5.23.0 tokenizers==0.23.3 seqeval==1.2.2 scikit-learn==1.9.1
    python scripts/reference/token_classification.py

writes test/fixtures/token-classification: words.json has for each tokenizer (byte-level ones as with add_prefix_space=True), truncation side
and length the ids, and where the first token of each word is (-1: nowhere); measures.json has tags of texts, expected and predicted, the
entities of the expected ones, and the measures.
"""

import json
import warnings
from pathlib import Path

import numpy as np
from seqeval.metrics import accuracy_score
from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support
from sklearn.metrics import accuracy_score as sk_accuracy
from sklearn.metrics import precision_recall_fscore_support as sk_measures
from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

warnings.filterwarnings("ignore")
FIXTURES = Path(__file__).resolve().parents[2] / "test/fixtures"
OUT = FIXTURES / "token-classification"
TOKENIZERS = {"bert": "tokenizers/bert-style", "llama2": "tokenizers/llama2-style", "bytes": "tiny-llama"}
TEXTS = [
    ["The", "cat", "sat", "on", "the", "mat", "."],
    ["a", "photo", "of", "a", "dog", ";", "film-start", "don't", "U.N."],
    ["Évening", "", "joy", "\u200b", "ﬁlm", "東京", "x y", "large"],
    ["waste"],
    ["birdbirdbirdbirdbirdbird", "cat"],
]
NAMES = {
    "bio": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-new-type", "I-new-type"],
    "iobes": ["O", "B-A", "I-A", "E-A", "S-A", "B-B", "I-B", "E-B", "S-B"],
    "plain": ["O", "B", "I"],
    "mixed": ["O", "B-PER", "I-PER", "X", ".", "PER", "O-PER", "I-"],
    "words": ["NOUN", "VERB", "ADJ", "PUNCT", "never"],
}


def encoded():
    cases = []
    for name, folder in TOKENIZERS.items():
        for side in ["right", "left"]:
            tok = Tokenizer.from_file(str(FIXTURES / folder / "tokenizer.json"))
            if name == "bytes":
                tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
            fast = PreTrainedTokenizerFast(tokenizer_object=tok, truncation_side=side)
            for words in TEXTS:
                for length in [256, 9, 6, 4]:
                    out = fast(words, is_split_into_words=True, truncation=True, max_length=length)
                    of = out.word_ids()
                    firsts = [of.index(word) if word in of else -1 for word in range(len(words))]
                    whole = fast(words, is_split_into_words=True)["input_ids"]
                    cases.append([name, side, words, length, out["input_ids"], firsts, len(out["input_ids"]) < len(whole)])
    return cases


def measured():
    rng = np.random.default_rng(0)
    cases = []
    for name, tags in NAMES.items():
        used = [tag for tag in tags if tag != "never"]
        for noise, texts in [(0.1, 12), (0.5, 12), (1.0, 3), (0.0, 2)]:
            expected = [rng.choice(used, rng.integers(1, 14)).tolist() for _ in range(texts)]
            predicted = [[tag if rng.random() > noise else str(rng.choice(used)) for tag in text] for text in expected]
            case = {"labels": tags, "expected": expected, "predicted": predicted}
            if name == "words":
                flat = [sum(side, []) for side in (expected, predicted)]
                p, r, f, _ = sk_measures(*flat, average="macro", zero_division=0)
                case |= {"accuracy": sk_accuracy(*flat), "overall": [p, r, f]}
            else:
                entities = [get_entities(text) for text in expected]
                types = sorted({kind for kind, _, _ in get_entities(expected) + get_entities(predicted)})
                p, r, f, s = precision_recall_fscore_support(expected, predicted, average="micro")
                case |= {"accuracy": accuracy_score(expected, predicted), "overall": [p, r, f], "entities": entities}
                each = np.array(precision_recall_fscore_support(expected, predicted, average=None)).T.tolist()
                case["types"] = dict(zip(types, each))
            cases.append(case)
    return cases


OUT.mkdir(parents=True, exist_ok=True)
for file, cases in [("words.json", encoded()), ("measures.json", measured())]:
    lines = ",\n".join(json.dumps(case, ensure_ascii=False, default=int) for case in cases)
    (OUT / file).write_text(f"[\n{lines}\n]\n")
