"""The numbers that test/unit/measures.test.ts compares with: scikit-learn's, and recall@k by NumPy.

    pip install scikit-learn==1.9.1 numpy
    python scripts/reference/measures.py > test/fixtures/measures.json

Classification: rows of expected and predicted classes, some of which never occur. Retrieval: vectors of small whole numbers, whose
products are exact, with many ties (the earlier row is nearer), and images that have one to three texts.
"""

import json

import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

rng = np.random.default_rng(0)


def classification(count, classes, used, noise):
    expected = rng.choice(used, count)
    predicted = np.where(rng.random(count) < noise, rng.integers(0, classes, count), expected)
    everything = list(range(classes))
    p, r, f, s = precision_recall_fscore_support(expected, predicted, labels=everything, zero_division=0)
    macro = precision_recall_fscore_support(expected, predicted, average="macro", zero_division=0)[2]
    return {
        "classes": classes,
        "expected": expected.tolist(),
        "predicted": predicted.tolist(),
        "accuracy": accuracy_score(expected, predicted),
        "macro_f1": macro,
        "precision": p.tolist(),
        "recall": r.tolist(),
        "f1": f.tolist(),
        "support": s.tolist(),
        "confusion": confusion_matrix(expected, predicted, labels=everything).tolist(),
    }


def retrieval(images, width, spread):
    image_of = np.repeat(np.arange(images), rng.integers(1, 4, images))
    rng.shuffle(image_of)
    a = rng.integers(-spread, spread + 1, (images, width))
    b = a[image_of] + rng.integers(-1, 2, (len(image_of), width))
    scores = a @ b.T

    def recall(scores, right):
        order = np.argsort(-scores, axis=1, kind="stable")
        return {str(k): float(np.mean([right(q, order[q, :k]) for q in range(len(order))])) for k in (1, 5, 10)}

    return {
        "width": width,
        "images": a.flatten().tolist(),
        "texts": b.flatten().tolist(),
        "image_of": image_of.tolist(),
        "image_to_text": recall(scores, lambda q, found: bool((image_of[found] == q).any())),
        "text_to_image": recall(scores.T, lambda q, found: bool((found == image_of[q]).any())),
    }


print(
    json.dumps(
        {
            "classification": [
                classification(60, 4, [0, 1, 2, 3], 0.4),
                classification(40, 6, [0, 2, 3], 0.3),
                classification(25, 3, [1], 0.0),
                classification(30, 5, [0, 4], 1.0),
            ],
            "retrieval": [retrieval(30, 6, 2), retrieval(12, 3, 1), retrieval(40, 4, 4)],
        }
    )
)
